"""An ASGI app served on a running event loop, as a guest in somebody's process."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import socket
import weakref
from collections.abc import Iterable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

__all__ = ["Address", "EmbeddedServer", "listen", "listen_on"]

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and where in it, as ``getaddrinfo`` has it."""

NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}
"""What a machine says that has no such family, or no address in it."""

_listeners: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: The address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _listen(family, (host, port))


def listen_on(addresses: Iterable[Address]) -> list[socket.socket]:
    """Sockets that listen on one port of all these addresses, or on none of them.

    Families that the machine does not have are left out.

    Raises:
        OSError: An address is taken, or all of them are none of this machine's.
    """
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, port, *rest) in addresses:
            if listeners and port == 0:
                port = listeners[0].getsockname()[1]
            try:
                listeners.append(_listen(family, (host, port, *rest)))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                missing = error
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
    return listeners


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    # IPv6 alone: where both are wanted, the other has a socket of its own.
    listener = socket.create_server(address, family=family)
    # asyncio sets it only where the socket was made with a protocol number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _listeners.add(listener)
    return listener


def _close_in_fork() -> None:
    """A copy of the process would hold the port after this one is gone."""
    for listener in list(_listeners):
        listener.close()


os.register_at_fork(after_in_child=_close_in_fork)


class Protocol(H11Protocol):
    def __init__(self, owner: EmbeddedServer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = owner
        # The log is the host's, and so is its level.
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._owner.has_stopped:
            # It was accepted as the server was stopped, which has seen to the others.
            transport.abort()


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
        self._servers: list[asyncio.Server] = []
        self.has_stopped = False

    async def start(self, *listeners: socket.socket) -> None:
        """Serve on these sockets, which are closed with the server."""
        loop = asyncio.get_running_loop()
        more: dict[str, Any] = {}
        # Before uvicorn 0.21, an app's lifespan had no state.
        if "app_state" in inspect.signature(H11Protocol).parameters:
            more["app_state"] = {}

        def protocol() -> Protocol:
            return Protocol(self, self._config, self._state, _loop=loop, **more)

        for listener in listeners:
            self._servers.append(await loop.create_server(protocol, sock=listener))

    async def stop(self) -> None:
        """Close every connection, and cancel what is still being answered."""
        self.has_stopped = True
        for listener in (each for server in self._servers for each in server.sockets):
            asyncio.get_running_loop().remove_reader(listener)
        # What was accepted in this turn takes two more to find a server, which asyncio
        # wants to be open.
        for _ in range(2):
            await asyncio.sleep(0)
        while self._servers:
            self._servers.pop().close()
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.abort()
