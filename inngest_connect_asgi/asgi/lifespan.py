"""A service that lives inside an ASGI app's lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import logs
from ..errors import ConnectError, describe

__all__ = ["Lifespan"]


class Service(Protocol):
    async def stop(self) -> None: ...


class Lifespan:
    """Starts a service after an app, and stops it before the app.

    An app that knows nothing of lifespan, or only of start-up, gets one anyway: its
    service starts and stops with the server.

    Servers take an exception for an app without lifespan, and serve on. So whatever
    the service raises is told in the protocol's own words, and in the log.

    Args:
        app: The inner app.
        start: Starts the service. Whatever it raises fails the start-up, but for a
            cancellation by the server.
        absent: Is told why there is no service, or no longer one, while the server
            may serve on.
    """

    def __init__(
        self,
        app: ASGIApp,
        start: Callable[[], Awaitable[Service]],
        absent: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._app = app
        self._start = start
        self._absent = absent
        self._service: Service | None = None
        self._failure: str | None = None
        """Why the service did not start."""
        self._stop_failure: str | None = None
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
        except BaseException as error:
            self._tell_end(error)
            raise
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
        elif message["type"] == "lifespan.shutdown.complete":
            message = self._shut_down_message()
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
        await self._server_send(self._shut_down_message())

    def _shut_down_message(self) -> Message:
        if self._stop_failure is None:
            return {"type": "lifespan.shutdown.complete"}
        return {"type": "lifespan.shutdown.failed", "message": self._stop_failure}

    # The service.

    async def _start_service(self) -> None:
        task = _current_task()
        try:
            self._service = await self._start()
        except ConnectError as error:
            self._failure = str(error)
            self._tell_absence(self._failure)
        except BaseException as error:
            if _comes_from_the_server(error, task):
                # It may serve on: gunicorn does, where a start-up takes too long.
                self._tell_absence("the server cancelled the start-up")
                raise
            reason = f"the Connect worker could not be started: {describe(error)}"
            self._failure = reason
            self._tell_absence(reason, error)

    async def _stop(self) -> None:
        service, self._service = self._service, None
        if service is None:
            return
        task = _current_task()
        try:
            await service.stop()
        except BaseException as error:
            if _comes_from_the_server(error, task):
                raise
            # The app is yet to be shut down.
            reason = f"the Connect worker could not be stopped: {describe(error)}"
            self._stop_failure = reason
            logs.emit(logging.ERROR, _sentence(reason), error=error)

    def _tell_end(self, error: BaseException) -> None:
        """An app's own failure is for it to tell, but not what it means for us."""
        ended = isinstance(error, asyncio.CancelledError | GeneratorExit)
        if self._failure is not None or ended:
            return
        if self._service is not None:
            reason = "the app's lifespan ended while the app was running"
        elif not self._answered:
            reason = "the app's start-up failed"
        else:
            return
        self._tell_absence(f"{reason}: {describe(error)}")

    def _tell_absence(self, reason: str, error: BaseException | None = None) -> None:
        self._absent(reason)
        text = f"Inngest Connect is not running: {reason}"
        logs.emit(logging.ERROR, text, error=error)


def _comes_from_the_server(
    error: BaseException, task: asyncio.Task[Any] | None
) -> bool:
    """Whether it is the server that ends this, and not something that a library raises.

    Args:
        task: In which this was, before it was awaited.
    """
    if isinstance(error, GeneratorExit):
        # A coroutine is closed by somebody else, while its task does not run.
        return task is None or _current_task() is not task
    if not isinstance(error, asyncio.CancelledError):
        return False
    # From Python 3.11 on, a task knows.
    cancelling = getattr(_current_task(), "cancelling", None)
    return cancelling is None or cancelling() > 0


def _current_task() -> asyncio.Task[Any] | None:
    """``None`` on an event loop that is none of asyncio's."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
