"""Run Inngest functions over Connect from an ASGI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigurationError, ConnectError, StartupError

if TYPE_CHECKING:
    from .connect import connect_worker
    from .middleware import InngestConnectMiddleware
    from .worker import Worker

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
        from .middleware import InngestConnectMiddleware

        return InngestConnectMiddleware
    if name == "connect_worker":
        from .connect import connect_worker

        return connect_worker
    if name == "Worker":
        from .worker import Worker

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
