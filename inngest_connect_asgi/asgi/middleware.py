"""The ASGI middleware: a Connect worker that lives as long as the app does."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ParamSpec

import inngest
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import logs
from ..configuration import DEFAULT_OUTCOME_BUFFER_SIZE, DEFAULT_REPLY_BUFFER_SIZE
from ..errors import StartupError, describe
from ..health import endpoints
from ..health.report import Health
from ..worker.apps import Apps
from ..worker.config import (
    DEFAULT_HEALTH_PATH,
    DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_WEDGE_TIMEOUT,
    Isolation,
    Settings,
    check_health_path,
    is_enabled,
    settings,
)
from ..worker.service import Worker
from . import routes
from .lifespan import Lifespan

__all__ = ["InngestConnectMiddleware"]

DISABLED = "switched off, by enabled=False or INNGEST_CONNECT_ENABLED=0"
NO_LIFESPAN = (
    "the server sends no lifespan events. It may know nothing of them (daphne), or "
    "have them switched off (uvicorn --lifespan off), or this app is mounted under "
    "another one, which is where the middleware belongs. Or start a worker by hand, "
    "with connect_worker"
)

P = ParamSpec("P")

_DAPHNE = {"daphne.cli", "daphne.management.commands.runserver"}
"""Where one of these is imported, daphne is the server: it knows no lifespan."""


def _told_at_start_up(init: Callable[P, None]) -> Callable[P, None]:
    """Keep what ``init`` raises for the start-up, where it would be lost otherwise.

    Starlette constructs its middleware inside the lifespan call, and servers take an
    exception from there for an app without lifespan: they would serve on. So it is
    told in the protocol's own words. An option that does not exist is among it.
    """

    @functools.wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            init(*args, **kwargs)
        except BaseException as error:
            if not _made_by_starlette():
                raise
            middleware: Any = args[0]
            app: Any = args[1] if len(args) > 1 else kwargs["app"]
            middleware._fail(app, error)

    return call


class InngestConnectMiddleware:
    """Run Inngest functions over Connect beside an ASGI app.

    The worker starts after the app has started up, and drains before the app
    shuts down. Traffic is passed through untouched, but for the health endpoints.

    Args:
        app: The ASGI app to wrap.
        client: The Inngest client, with ``functions``.
        functions: The functions of ``client``.
        apps: Instead of ``client`` and ``functions``: several pairs of them.
        isolation: Where the connection lives: in a ``"thread"``, or, proof against
            native code that keeps the GIL, in an ``"interpreter"`` (Python 3.14 and
            later) or a ``"process"`` of its own; ``"auto"`` begins in a thread, and
            moves to a process the first time that is starved.
            Default: ``INNGEST_CONNECT_ISOLATION``, or ``"auto"``.
        instance_id: Name of this worker, under which Inngest counts its capacity.
            Default: unique for every process.
        max_worker_concurrency: How many requests to run at once. Default:
            ``INNGEST_CONNECT_MAX_WORKER_CONCURRENCY``, or no limit.
        gateway_url: Gateway to connect to instead of the one that the API names.
            Default: ``INNGEST_CONNECT_GATEWAY_URL``.
        startup_timeout: Seconds for which start-up waits for the first ready
            connection, and fails without. Default: start-up does not wait.
        shutdown_timeout: Seconds for which shutdown waits for running functions.
        stall_timeout: Seconds after which the worker takes no new requests while the
            app's event loop does not answer. Default: it goes on taking them.
        wedge_timeout: Seconds after which ``live`` fails while the app's event loop
            does not answer; ``None``: never.
        health_path: Where the health endpoints are; ``None``: nowhere.
        health_details: Whether they say more than the status.
        probe: ``":8081"``, or ``"host:port"``: serve the same endpoints there too,
            off the app's event loop. Needs ``inngest-connect-asgi[probe]``.
        reply_buffer_size: Bytes of replies to keep that the server does not have yet.
            Beyond that the oldest is given up, and logged.
        outcome_buffer_size: Bytes of outcomes to remember after that, so that an
            attempt that the server sends again is not run again; ``0``: none.
        enabled: ``False`` makes this middleware do nothing, as does
            ``INNGEST_CONNECT_ENABLED=0``.

    Raises:
        ConfigurationError: An option is wrong. Where Starlette's or FastAPI's
            ``add_middleware`` constructs the middleware, the app's start-up
            fails with the same message.
    """

    _settings: Settings | None = None
    _error: Exception | None = None
    """What went wrong where nobody would have been told."""
    _health_path: str | None = None
    _health_paths: frozenset[str] = frozenset()
    _health_app: ASGIApp | None = None
    _lifespan_seen = False

    @_told_at_start_up
    def __init__(
        self,
        app: ASGIApp,
        *,
        client: inngest.Inngest | None = None,
        functions: Sequence[inngest.Function[Any]] | None = None,
        apps: Apps | None = None,
        isolation: Isolation | None = None,
        instance_id: str | None = None,
        max_worker_concurrency: int | None = None,
        gateway_url: str | None = None,
        startup_timeout: float | None = None,
        shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
        stall_timeout: float | None = None,
        wedge_timeout: float | None = DEFAULT_WEDGE_TIMEOUT,
        health_path: str | None = DEFAULT_HEALTH_PATH,
        health_details: bool = True,
        probe: str | None = None,
        reply_buffer_size: int = DEFAULT_REPLY_BUFFER_SIZE,
        outcome_buffer_size: int = DEFAULT_OUTCOME_BUFFER_SIZE,
        enabled: bool | None = None,
    ) -> None:
        self.app = app
        self._health = Health(wedge_timeout=wedge_timeout)
        if health_path is not None:
            check_health_path(health_path)
            self._health_path = health_path
            self._health_paths = frozenset(endpoints.paths(health_path))
            self._health_app = endpoints.health_app(
                lambda: self._health, health_path, details=health_details
            )
        if is_enabled(enabled):
            self._settings = settings(
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
                health_path=health_path,
                health_details=health_details,
            )
            self._health.not_started = NO_LIFESPAN
            if not _DAPHNE.isdisjoint(sys.modules):
                self._say_that_nothing_runs()
        else:
            self._health.not_started = DISABLED

    def _fail(self, app: ASGIApp, error: BaseException) -> None:
        """Be a middleware that fails the app's start-up, and every request."""
        self.app = app
        self._health = Health(wedge_timeout=None)
        if isinstance(error, Exception):
            self._error = error
        else:
            # That one would end the server with the first request.
            self._error = StartupError(describe(error))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if self._error is not None:
            raise self._error
        if not self._lifespan_seen:
            self._say_that_nothing_runs()
        if scope["type"] == "http" and (path := _path(scope)) in self._health_paths:
            assert self._health_app is not None
            # Starlette's versions differ on what a root path takes off the path.
            scope = {**scope, "path": path, "root_path": ""}
            await self._health_app(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    @property
    def function_ids(self) -> frozenset[str]:
        """The ids of the functions that run here, with the app in front."""
        return self._settings.function_ids if self._settings else frozenset()

    def _say_that_nothing_runs(self) -> None:
        self._lifespan_seen = True
        if self._settings is not None:
            text = f"Inngest Connect is not running: {NO_LIFESPAN}"
            logs.emit(logging.WARNING, text)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._lifespan_seen = True
        outermost = scope.get("app", self.app)
        if self._settings is None and self._error is None:
            self._look_around(outermost)
            await self.app(scope, receive, send)
            return

        async def start() -> Worker:
            # Now that the app has set up its routes and its logging.
            self._look_around(outermost)
            return await self._start()

        lifespan = Lifespan(self.app, start, self._health.fail)
        await lifespan.run(scope, receive, send)

    async def _start(self) -> Worker:
        if self._error is not None:
            raise self._error
        assert self._settings is not None
        worker = Worker(self._settings, self._health)
        await worker.start()
        return worker

    def _look_around(self, app: object) -> None:
        """Tell of what is odd about the app, as far as it can be seen."""
        if unheard := logs.disabled():
            text = f"Inngest Connect can't log: {unheard}"
            logs.emit(logging.WARNING, text, name="root")
        if self._health_path is None:
            return
        own = routes.shadowed(app, self._health_path, sorted(self._health_paths))
        if own:
            text = (
                f"The app has a route of its own at {', '.join(own)}, which is not "
                "served: the health endpoints of Inngest Connect answer there. Move "
                "them with health_path=, or do without, with health_path=None"
            )
            logs.emit(logging.WARNING, text)


def _made_by_starlette() -> bool:
    """Whether this happens in ``add_middleware``'s late construction.

    Not only directly: there may be a subclass or a factory between.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "build_middleware_stack":
            return True
        frame = frame.f_back
    return False


def _path(scope: Scope) -> str:
    """The path without what the server or an outer app is mounted at."""
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    # Some servers leave it out of the path, which may begin alike.
    return path.removeprefix(mount) if path.startswith(f"{mount}/") else path
