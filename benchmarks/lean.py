"""WebSockets and HTTP with as little in the way as asyncio allows.

The load generator must not be what is measured. It knows both of its ends, so it
does without what a library has to be ready for.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from websockets.frames import apply_mask  # type: ignore[attr-defined]
from websockets.utils import accept_key

__all__ = [
    "BINARY",
    "CLOSE",
    "PING",
    "PONG",
    "HttpServer",
    "Socket",
    "field",
    "frame",
    "new_event_loop",
    "upgrade_answer",
]

BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

NO_MASK = b"\0\0\0\0"
"""A client has to mask; with this key the data stays as it is."""

SUBPROTOCOL = "v0.connect.inngest.com"


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest there is: this is for the generator alone."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def frame(data: bytes, opcode: int = BINARY, *, masked: bool = False) -> bytes:
    """A whole message as one frame."""
    return header(len(data), opcode, masked=masked) + data


def header(size: int, opcode: int = BINARY, *, masked: bool = False) -> bytes:
    bit = 0x80 if masked else 0
    mask = NO_MASK if masked else b""
    if size < 126:
        return bytes((0x80 | opcode, bit | size)) + mask
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, bit | 126, size) + mask
    return struct.pack("!BBQ", 0x80 | opcode, bit | 127, size) + mask


class Socket:
    """One end of an open WebSocket.

    What is sent while a batch of frames is read leaves in one write.

    Args:
        received: Takes each binary message.
        lost: Called when the connection is gone.
    """

    def __init__(
        self, transport: asyncio.Transport, received: Callable[[bytes], None]
    ) -> None:
        self.transport = transport
        self._received = received
        self._data = bytearray()
        self._out: list[bytes] = []
        self._reading = False

    def send(self, data: bytes) -> None:
        """Send frames that are made already."""
        if self._reading:
            self._out.append(data)
        else:
            self.transport.write(data)

    def feed(self, data: bytes) -> None:
        """Take what came over the wire."""
        self._data += data
        self._reading = True
        buffer, position, end = self._data, 0, len(self._data)
        while end - position >= 2:
            start, size = position + 2, buffer[position + 1]
            masked, size = size & 0x80, size & 0x7F
            if size == 126:
                start += 2
                size = int.from_bytes(buffer[position + 2 : start], "big")
            elif size == 127:
                start += 8
                size = int.from_bytes(buffer[position + 2 : start], "big")
            body = start + 4 if masked else start
            if end < body + size:
                break
            with memoryview(buffer) as view:
                message = bytes(view[body : body + size])
                mask = bytes(view[start:body])
            if mask and mask != NO_MASK:
                message = apply_mask(message, mask)
            opcode = buffer[position] & 0x0F
            position = body + size
            if opcode == BINARY:
                self._received(message)
            elif opcode == PING:
                self.send(frame(message, PONG, masked=not masked))
            elif opcode == CLOSE:
                self.send(frame(message, CLOSE, masked=not masked))
        del buffer[:position]
        self._reading = False
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()


class HttpServer(asyncio.Protocol):
    """One connection of a server: HTTP/1.1 with whole bodies, then a WebSocket.

    Args:
        answer: Takes path, body and this connection, and returns the whole answer.
            It sets :attr:`socket` where the answer is that to an upgrade.
    """

    def __init__(
        self,
        answer: Callable[[str, dict[str, str], bytes, HttpServer], bytes],
        lost: Callable[[HttpServer], None],
    ) -> None:
        self._answer = answer
        self._lost = lost
        self._data = b""
        self.socket: Socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has transports that are none by inheritance.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.socket is not None:
            self.socket.feed(data)
            return
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (each.partition(":") for each in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        size = int(headers.get("content-length", 0))
        if len(body) < size:
            return
        self._data = body[size:]
        self.transport.write(self._answer(line.split()[1], headers, body, self))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self)


def upgrade_answer(headers: dict[str, str]) -> bytes:
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(headers['sec-websocket-key'])}\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    ).encode()


def field(data: bytes, at: int) -> tuple[int, int]:
    """Where a protobuf field's bytes begin and end; ``at`` is behind its tag."""
    size = shift = 0
    while True:
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return at, at + size
        shift += 7
