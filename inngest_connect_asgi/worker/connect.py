"""A Connect worker without a middleware, as an async context manager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import inngest

from ..configuration import DEFAULT_OUTCOME_BUFFER_SIZE, DEFAULT_REPLY_BUFFER_SIZE
from ..health.report import Health
from .apps import Apps
from .config import (
    DEFAULT_HEALTH_PATH,
    DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_WEDGE_TIMEOUT,
    Isolation,
    settings,
)
from .service import Worker

__all__ = ["connect_worker"]


def connect_worker(
    client: inngest.Inngest | None = None,
    functions: Sequence[inngest.Function[Any]] | None = None,
    *,
    apps: Apps | None = None,
    isolation: Isolation | None = None,
    instance_id: str | None = None,
    max_worker_concurrency: int | None = None,
    gateway_url: str | None = None,
    startup_timeout: float | None = None,
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
    stall_timeout: float | None = None,
    wedge_timeout: float | None = DEFAULT_WEDGE_TIMEOUT,
    probe: str | None = None,
    reply_buffer_size: int = DEFAULT_REPLY_BUFFER_SIZE,
    outcome_buffer_size: int = DEFAULT_OUTCOME_BUFFER_SIZE,
) -> Worker:
    """Run Inngest functions over Connect, for as long as a block lasts::

        async with connect_worker(client, [fulfil_order]) as worker:
            await worker.ready()
            ...

    For a script, a server without lifespan, or an app that composes its own
    lifespan. Functions run on the event loop of the block. The options are those of
    :class:`InngestConnectMiddleware`, without what concerns its paths;
    ``INNGEST_CONNECT_ENABLED`` is not looked at.

    Raises:
        ConfigurationError: An option is wrong.
    """
    return Worker(
        settings(
            client=client,
            functions=functions,
            apps=apps,
            isolation=isolation,
            instance_id=instance_id,
            max_worker_concurrency=max_worker_concurrency,
            gateway_url=gateway_url,
            startup_timeout=startup_timeout,
            shutdown_timeout=shutdown_timeout,
            stall_timeout=stall_timeout,
            wedge_timeout=wedge_timeout,
            probe=probe,
            reply_buffer_size=reply_buffer_size,
            outcome_buffer_size=outcome_buffer_size,
            health_path=DEFAULT_HEALTH_PATH,
            health_details=True,
        ),
        Health(wedge_timeout=wedge_timeout),
    )
