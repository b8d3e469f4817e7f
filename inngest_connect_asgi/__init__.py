"""Run Inngest functions over Connect from an ASGI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigurationError, ConnectError, StartupError

if TYPE_CHECKING:
    from .asgi.middleware import InngestConnectMiddleware
    from .worker.connect import connect_worker
    from .worker.service import Worker

__all__ = [
    "ConfigurationError",
    "ConnectError",
    "InngestConnectMiddleware",
    "StartupError",
    "Worker",
    "connect_worker",
]


def __getattr__(name: str) -> object:
    # These import the SDK, and with it pydantic. What lives apart from the app, and
    # LocalGateway, do without.
    if name == "InngestConnectMiddleware":
        from .asgi.middleware import InngestConnectMiddleware

        return InngestConnectMiddleware
    if name == "connect_worker":
        from .worker.connect import connect_worker

        return connect_worker
    if name == "Worker":
        from .worker.service import Worker

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
