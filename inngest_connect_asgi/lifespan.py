"""A service that lives inside an ASGI app's lifespan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from .errors import ConnectError

__all__ = ["ASGIApp", "Lifespan", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Service(Protocol):
    async def stop(self) -> None: ...


class Lifespan:
    """Starts a service after an app, and stops it before the app.

    An app that knows nothing of lifespan, or only of start-up, gets one anyway: its
    service starts and stops with the server.

    Args:
        app: The inner app.
        start: Starts the service. A :class:`ConnectError` fails the start-up.
    """

    def __init__(self, app: ASGIApp, start: Callable[[], Awaitable[Service]]) -> None:
        self._app = app
        self._start = start
        self._service: Service | None = None
        self._failure: str | None = None
        self._received = False
        self._answered = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ``lifespan`` scope, from start-up to shutdown."""
        self._server_receive, self._server_send = receive, send
        try:
            try:
                await self._app(scope, self._receive, self._send)
            except Exception:
                # An app without lifespan raises before it looks at an event.
                if self._received or self._answered:
                    raise
            if not self._answered:
                await self._start_up()
            if self._service is not None:
                await self._shut_down()
        finally:
            await self._stop()
            if self._failure is not None:
                await send(
                    {"type": "lifespan.startup.failed", "message": self._failure}
                )

    async def _receive(self) -> Message:
        if self._failure is not None:
            # The app did start up, and so it gets to clean up.
            return {"type": "lifespan.shutdown"}
        try:
            message = await self._server_receive()
        except BaseException:
            # A server that cancels is one that shuts down, if without a word.
            await self._stop()
            raise
        if message["type"] == "lifespan.startup":
            self._received = True
        else:
            await self._stop()
        return message

    async def _send(self, message: Message) -> None:
        if self._failure is not None:
            return
        self._answered = True
        if message["type"] == "lifespan.startup.complete":
            await self._start_service()
            if self._failure is not None:
                return
        await self._server_send(message)

    # Speaking for an app that does not.

    async def _start_up(self) -> None:
        if not self._received:
            await self._server_receive()
        await self._start_service()
        if self._failure is None:
            await self._server_send({"type": "lifespan.startup.complete"})

    async def _shut_down(self) -> None:
        await self._server_receive()
        await self._stop()
        await self._server_send({"type": "lifespan.shutdown.complete"})

    async def _start_service(self) -> None:
        try:
            self._service = await self._start()
        except ConnectError as error:
            self._failure = str(error)

    async def _stop(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            await service.stop()
