"""An ASGI app served on a running event loop, as a guest in somebody's process."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .lifespan import ASGIApp, Receive, Scope, Send

__all__ = ["EmbeddedServer", "listen"]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; no host stands for every IPv4 address of the machine.

    Raises:
        OSError: The address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    # asyncio sets it only where the socket was made with a protocol number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Protocol(H11Protocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The log is the host's, and so is its level.
        self.access_log = False


class EmbeddedServer:
    """Uvicorn's protocol without uvicorn's server.

    That one installs signal handlers, wakes up ten times a second, and logs, or
    stops from logging, as if the process were its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        # Uvicorn guesses what an app is. Whoever wraps Starlette, as sentry-sdk 2.0.0
        # does, makes it look like a factory.
        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        self._config = uvicorn.Config(
            plain, http="h11", ws="none", lifespan="off", log_config=None
        )
        self._config.load()
        self._state = ServerState()

    async def start(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Protocol(self._config, self._state, {}, loop), sock=listener
        )

    async def stop(self) -> None:
        """Close every connection, and cancel what is still being answered."""
        self._server.close()
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.abort()
