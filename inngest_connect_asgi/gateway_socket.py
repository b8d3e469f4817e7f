"""The WebSocket to a gateway: two outgoing queues around ``websockets``."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol

from .actions import Send
from .network import Network

__all__ = ["GatewaySocket"]

SUBPROTOCOL = Subprotocol("v0.connect.inngest.com")

MAX_MESSAGE_SIZE = 16 * 1024 * 1024
"""Bytes. Requests may be over 4 MiB; the specification asks for 10 at least."""

BATCH_SIZE = 64 * 1024
"""Bytes to write at once, before looking whether the socket takes more."""

CLOSE_TIMEOUT = 2.0
"""Seconds to wait for the gateway's half of the closing handshake."""


if TYPE_CHECKING:
    LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    LoggerAdapter = logging.LoggerAdapter


class Discreet(LoggerAdapter):
    """Never logs at DEBUG, where websockets dumps frames, and tokens with them."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


LOGGER = Discreet(logging.getLogger("websockets.client"), {})


class StraightConnect(connect):
    """Follows no redirects: only the API says where the gateway is."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Listener(Protocol):
    """Who is told what happens on a socket."""

    def opened(self, link: int) -> None: ...
    def received(self, link: int, messages: Sequence[bytes | str]) -> None: ...
    def sent(self, frames: Sequence[Send]) -> None: ...
    def lost(self, link: int, reason: str) -> None: ...


class GatewaySocket:
    """One WebSocket, from opening to closing, on the running loop.

    What it is told to send or to close it does when :meth:`write` is called, once
    for all that was told in a turn of the loop. Frames that may be large wait until
    all others are sent: a heartbeat is never behind more than one reply.
    """

    def __init__(
        self, link: int, url: str, listener: Listener, network: Network
    ) -> None:
        self._link = link
        self._url = url
        self._listener = listener
        self._network = network
        self._frames: deque[Send] = deque()
        self._bulk: deque[Send] = deque()
        self._early: list[bytes | str] = []
        """Messages that came with the answer to the upgrade."""
        self._connection: Connection | None = None
        self._paused = False
        self._close_reason: str | None = None
        self._ending = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def send(self, frame: Send) -> None:
        (self._bulk if frame.bulk else self._frames).append(frame)

    def close(self, reason: str) -> None:
        """Close with code 1000, once all is sent."""
        self._close_reason = reason

    def write(self) -> list[Send]:
        """Write what the connection takes.

        Returns:
            The frames that are on the wire now and bear a request id.
        """
        connection = self._connection
        if connection is None or connection.protocol.state is not State.OPEN:
            return []
        written = []
        while (self._frames or self._bulk) and not self._paused:
            size = 0
            while (self._frames or self._bulk) and size < BATCH_SIZE:
                frame = (self._frames or self._bulk).popleft()
                connection.protocol.send_binary(frame.data)
                size += len(frame.data)
                if frame.request_id is not None:
                    written.append(frame)
            connection.transport.writelines(connection.protocol.data_to_send())
        if self._close_reason is not None and not (self._frames or self._bulk):
            self._ending.set()
        return written

    def abort(self) -> asyncio.Future[None]:
        """Drop the connection without a word, and without telling the listener."""
        if self._connection is not None:
            # A transport of asyncio that was closed meanwhile has forgotten its loop.
            with suppress(AttributeError):
                self._connection.transport.abort()
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        try:
            connection = await StraightConnect(
                self._url,
                create_connection=partial(Connection, self),  # type: ignore[arg-type]
                subprotocols=[SUBPROTOCOL],
                # Payloads are JSON in protobuf; deflate costs more than it saves.
                compression=None,
                # Connect has heartbeats of its own, and the core its timeouts.
                ping_interval=None,
                open_timeout=None,
                close_timeout=CLOSE_TIMEOUT,
                max_size=MAX_MESSAGE_SIZE,
                logger=LOGGER,
                **self._network.websocket(self._url),
            )
        except Exception as error:
            self._listener.lost(self._link, self._open_error(error))
            return
        assert isinstance(connection, Connection)
        self._connection = connection
        self._listener.opened(self._link)
        self.received(self._early)
        await self._ending.wait()
        await connection.close(1000, self._close_reason or "")
        self._listener.lost(self._link, _close_reason(connection.protocol.close_exc))

    def _open_error(self, error: Exception) -> str:
        via = self._network.via(self._url)
        if isinstance(error, InvalidStatus):
            return f"the gateway answered {error.response.status_code}{via}"
        what = self._network.explain(error)
        return f"the gateway could not be reached{via}: {what}"

    # What the connection calls.

    def received(self, messages: Sequence[bytes | str]) -> None:
        if self._connection is None:
            self._early += messages
        elif messages:
            self._listener.received(self._link, messages)

    def ending(self) -> None:
        self._ending.set()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._listener.sent(self.write())


class Connection(ClientConnection):
    """Hands over messages as they are parsed, without a task that waits for them."""

    def __init__(self, owner: GatewaySocket, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._owner = owner
        self._messages: list[bytes | str] = []
        self._fragments: list[bytes] = []
        self._is_text = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        messages, self._messages = self._messages, []
        self._owner.received(messages)

    def process_event(self, event: Any) -> None:
        if not isinstance(event, Frame):
            super().process_event(event)
        elif event.opcode is Opcode.CLOSE:
            self._owner.ending()
        elif event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                self._is_text = event.opcode is Opcode.TEXT
            self._fragments.append(bytes(event.data))
            if event.fin:
                data, self._fragments = b"".join(self._fragments), []
                text = data.decode(errors="replace") if self._is_text else None
                self._messages.append(data if text is None else text)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.ending()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._owner.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._owner.resume()


def _close_reason(error: ConnectionClosed) -> str:
    if error.rcvd is not None:
        return error.rcvd.reason or f"closed by the gateway with code {error.rcvd.code}"
    if error.sent is not None and error.sent.code != 1000:
        return f"the gateway broke the WebSocket protocol: {error.sent.reason}"
    return "the connection broke"
