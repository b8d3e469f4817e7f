"""The probe server: health and metrics, off the app's event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from .embedded import EmbeddedServer, listen
from .endpoints import health_app
from .health import Health, facts
from .messages import Configuration, Probe, State

if TYPE_CHECKING:
    from .measures import Feed

__all__ = ["ProbeServer"]

METRICS_PATH = "/metrics"


class ProbeServer:
    """Serves :func:`health_app` on the running loop, which is the runtime's.

    And ``/metrics``, where that is wanted.
    """

    def __init__(self, configuration: Configuration, probe: Probe) -> None:
        self.health = Health(facts(configuration), wedge_timeout=probe.wedge_timeout)
        self._address = probe.host, probe.port
        app = health_app(lambda: self.health, probe.path, details=probe.details)
        self._feed: Feed | None = None
        if probe.metrics:
            # Not at the top: it may not be installed.
            from . import prometheus

            metrics = prometheus.ConnectMetrics()
            self._feed = metrics.begin(configuration)

            async def scrape(request: Request) -> Response:
                accept = request.headers.get("accept", "")
                body, media_type = prometheus.scrape(metrics.registry, accept)
                return Response(body, media_type=media_type)

            app.add_route(METRICS_PATH, scrape)
        self._server = EmbeddedServer(app)

    def observe(self, message: object) -> None:
        """Take note of what crosses between app and runtime."""
        if isinstance(message, State):
            self.health.update(message)
        if self._feed is not None:
            self._feed.observe(message)

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            OSError: The address is taken, or is none of this machine's.
        """
        listener = listen(*self._address)
        await self._server.start(listener)
        port: int = listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        await self._server.stop()
