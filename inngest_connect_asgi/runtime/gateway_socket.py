"""The WebSocket to a gateway: two outgoing queues around ``websockets``."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol

from .. import ends, logs
from ..errors import ConnectError, describe, quoted
from ..network.access import Network
from ..protocol.actions import Send, SendReply

__all__ = ["GatewaySocket"]

P = ParamSpec("P")

SUBPROTOCOL = Subprotocol("v0.connect.inngest.com")

MAX_MESSAGE_SIZE = 16 * 1024 * 1024
"""Bytes. Requests may be over 4 MiB; the specification asks for 10 at least."""

BATCH_SIZE = 64 * 1024
"""Bytes to write at once, before looking whether the socket takes more."""

CLOSE_TIMEOUT = 2.0
"""Seconds to wait for the gateway's half of the closing handshake."""

MAX_UNSENT = 16 * 1024 * 1024
"""Bytes that may wait in the transport. There is one reply at most, of 8 MiB, and what
websockets answers to pings by itself, which a gateway may send without end."""

NOT_SENT = 128 * 1024
"""Bytes that the system may take before it has sent them. By default it takes
megabytes, and over a slow network a heartbeat would wait behind all of them."""


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
    def wants(self, frame: Send | SendReply) -> bool: ...
    def sent(self, frames: Iterable[Send | SendReply]) -> None: ...
    def lost(self, link: int, reason: str) -> None: ...


class GatewaySocket:
    """One WebSocket, from opening to closing, on the running loop.

    What it is told to send or to close it does when :meth:`write` is called, once
    for all that was told in a turn of the loop. Replies, which may be large, wait until
    all others are sent, and until the transport has nothing left: a heartbeat is never
    behind more than one reply.

    However it ends, and whatever is raised, the listener is told that it is lost.
    """

    def __init__(
        self, link: int, url: str, listener: Listener, network: Network
    ) -> None:
        self._link = link
        self._url = url
        self._listener = listener
        self._network = network
        self._frames: deque[Send] = deque()
        self._bulk: deque[SendReply] = deque()
        self._early: list[bytes | str] = []
        """Messages that came with the answer to the upgrade."""
        self._connection: Connection | None = None
        self._paused = False
        self._close_reason: str | None = None
        self._ending = asyncio.Event()
        self._broken: BaseException | None = None
        """What was raised where nobody foresaw it."""
        self._lost: str | None = None
        """Why it is lost, once that is known."""
        self._aborted = False
        self._task = ends.spawn(self._run(), self._ended)

    def send(self, frame: Send | SendReply) -> None:
        if isinstance(frame, SendReply):
            self._bulk.append(frame)
        else:
            self._frames.append(frame)

    def close(self, reason: str) -> None:
        """Close with code 1000, once all is sent."""
        self._close_reason = reason

    def write(self) -> Iterator[Send | SendReply]:
        """Write what the connection takes.

        Yields:
            The frames that are on the wire now and bear a delivery, before any more is
            written, which may fail.
        """
        connection = self._connection
        if connection is None or connection.is_gone:
            return
        while (self._frames or self._bulk) and not self._paused:
            size = 0
            batch: list[Send | SendReply] = []
            while size < BATCH_SIZE and (self._frames or self._bulk):
                frame = (self._frames or self._bulk).popleft()
                if not self._listener.wants(frame):
                    continue
                data = frame.data
                connection.protocol.send_binary(data)
                size += len(data)
                if frame.delivery is not None:
                    batch.append(frame)
            # Not writelines(): from 3.12.0 to 3.12.8, in 3.13.0 and in 3.13.1 that
            # never says that it has had enough (CVE-2024-12254).
            connection.transport.write(b"".join(connection.protocol.data_to_send()))
            if connection.is_gone:
                # It has found out as it wrote: nothing of this is on the wire.
                return
            yield from batch
        if self._close_reason is not None and not (self._frames or self._bulk):
            self._ending.set()

    def abort(self) -> asyncio.Future[None]:
        """Drop the connection without a word, and without telling the listener."""
        self._aborted = True
        self._drop()
        self._task.cancel()
        return self._task

    def _drop(self) -> None:
        if self._connection is not None:
            # A transport of asyncio that was closed meanwhile has forgotten its loop.
            with suppress(Exception):
                self._connection.transport.abort()

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
                # No reply before the one in front has left.
                write_limit=(1, 0),
                logger=LOGGER,
                **self._network.websocket(self._url),
            )
        except (
            OSError,
            ValueError,
            EOFError,
            WebSocketException,
            ConnectError,
        ) as error:
            self._lost = self._open_error(error)
            return
        assert isinstance(connection, Connection)
        self._connection = connection
        _limit_unsent(connection)
        self._listener.opened(self._link)
        self.received(self._early)
        await self._ending.wait()
        if self._broken is not None:
            raise self._broken
        if self._lost is not None:
            return
        await connection.close(1000, self._close_reason or "")
        self._lost = _close_reason(connection.protocol.close_exc)

    def _ended(self, error: BaseException | None) -> None:
        if self._aborted:
            return
        self._drop()
        error = self._broken or error
        if error is not None:
            # Of websockets and asyncio, and of what is said to the listener.
            self._lost = f"the connection broke: {describe(error)}"
            logs.emit(
                logging.ERROR, f"Lost a connection: {describe(error)}", error=error
            )
        self._listener.lost(self._link, self._lost or "the connection broke")

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

    def cut_off(self, reason: str) -> None:
        """What is left to be written helps nobody."""
        self._lost = self._lost or reason
        self._drop()
        self._ending.set()

    def broke(self, error: BaseException) -> None:
        self._broken = self._broken or error
        self._ending.set()
        if self._connection is None:
            self._task.cancel()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._listener.sent(self.write())


def _contained(
    callback: Callable[Concatenate[Connection, P], None],
) -> Callable[Concatenate[Connection, P], None]:
    """Tell of what a protocol's callback raises: asyncio only logs it."""

    @wraps(callback)
    def call(connection: Connection, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            callback(connection, *args, **kwargs)
        except BaseException as error:
            connection.owner.broke(error)

    return call


class Connection(ClientConnection):
    """Hands over messages as they are parsed, without a task that waits for them."""

    def __init__(self, owner: GatewaySocket, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.owner = owner
        self._messages: list[bytes | str] = []
        self._fragments = bytearray()
        self._is_text = False

    @property
    def is_gone(self) -> bool:
        """Whether what is written goes nowhere, which it may know before it is told."""
        return self.protocol.state is not State.OPEN or _is_closing(self.transport)

    @_contained
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.owner.cut_off("the gateway sends pings and reads no answers")
            return
        messages, self._messages = self._messages, []
        self.owner.received(messages)

    def process_event(self, event: Any) -> None:
        if not isinstance(event, Frame):
            super().process_event(event)
        elif event.opcode is Opcode.BINARY and event.fin:
            self._messages.append(bytes(event.data))
        elif event.opcode is Opcode.CLOSE:
            self.owner.ending()
        elif event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                self._is_text = event.opcode is Opcode.TEXT
            # In one piece: millions of small ones would take many times as much.
            self._fragments += event.data
            if event.fin:
                data, self._fragments = bytes(self._fragments), bytearray()
                text = data.decode(errors="replace") if self._is_text else None
                self._messages.append(data if text is None else text)

    @_contained
    def eof_received(self) -> None:
        was_open = self.protocol.state is State.OPEN
        super().eof_received()
        if was_open:
            self.owner.cut_off("the gateway ended the connection")

    @_contained
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.owner.ending()

    @_contained
    def pause_writing(self) -> None:
        super().pause_writing()
        self.owner.pause()

    @_contained
    def resume_writing(self) -> None:
        super().resume_writing()
        self.owner.resume()


def _is_closing(transport: asyncio.Transport) -> bool:
    try:
        if transport.is_closing():
            return True
        # That of TLS does not say so of the one that it writes to.
        tls: Any = getattr(transport, "_ssl_protocol", None)
        below: asyncio.Transport | None = getattr(tls, "_transport", None)
        return below is not None and below.is_closing()
    except Exception:
        # One of asyncio that is closed has forgotten whom it asks.
        return True


def _limit_unsent(connection: ClientConnection) -> None:
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with suppress(Exception):
            transport_socket = connection.transport.get_extra_info("socket")
            transport_socket.setsockopt(socket.IPPROTO_TCP, option, NOT_SENT)


def _close_reason(error: ConnectionClosed) -> str:
    if error.rcvd is not None:
        reason = (
            error.rcvd.reason or f"closed by the gateway with code {error.rcvd.code}"
        )
        # One of the protocol's words, or what anybody may have put there.
        return reason if re.fullmatch(r"[\w ]{1,60}", reason) else quoted(reason)
    if error.sent is not None and error.sent.code != 1000:
        return f"the gateway broke the WebSocket protocol: {quoted(error.sent.reason)}"
    return "the connection broke"
