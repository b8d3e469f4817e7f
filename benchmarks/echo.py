"""A worker that does nothing at all, to see how fast the load generator is.

python -m benchmarks.echo http://127.0.0.1:8288
"""

from __future__ import annotations

import asyncio
import base64
import sys
from typing import cast
from urllib.parse import urlsplit

from inngest_connect_asgi.protocol.wire import connect as wire

from .lean import SUBPROTOCOL, Socket, field, frame, new_event_loop

MARK = "#" * 26
"""Stands for a request id."""


class Echo(asyncio.Protocol):
    """Acknowledges each request, and replies to it in the same breath."""

    def __init__(self, host: str, ended: asyncio.Future[None]) -> None:
        self._host = host
        self._ended = ended
        self._head: bytes | None = b""
        self._answers: dict[int, tuple[bytes, bytes, bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has transports that are none by inheritance.
        transport = cast(asyncio.Transport, transport)
        self._socket = Socket(transport, self._received)
        key = base64.b64encode(bytes(16)).decode()
        transport.write(
            f"GET /gateway HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, separator, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = None if separator else head
        if self._head is None:
            self._socket.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended.set_result(None)

    def _send(self, kind: int, payload: bytes = b"") -> None:
        message = wire.ConnectMessage(kind=kind, payload=payload)
        self._socket.send(frame(message.SerializeToString(), masked=True))

    def _received(self, data: bytes) -> None:
        # Field 1 is left out where it is zero, of which nothing is left of a HELLO.
        kind = data[1] if data else wire.GATEWAY_HELLO
        if kind == wire.GATEWAY_EXECUTOR_REQUEST:
            start, end = field(data, field(data, 3)[0] + 1)
            ack, head, tail = self._answer(len(data))
            request_id = data[start:end]
            self._socket.send(b"".join((ack, request_id, head, request_id, tail)))
        elif kind == wire.GATEWAY_HELLO:
            self._send(wire.WORKER_CONNECT)
        elif kind == wire.GATEWAY_CONNECTION_READY:
            self._send(wire.WORKER_READY)

    def _answer(self, size: int) -> tuple[bytes, bytes, bytes]:
        """The frames for a request of ``size`` bytes, but for its id."""
        if size not in self._answers:
            ack = wire.WorkerRequestAckData(request_id=MARK)
            reply = wire.SDKResponse(
                request_id=MARK, status=wire.DONE, body=bytes(size)
            )
            frames = b"".join(
                frame(
                    wire.ConnectMessage(
                        kind=kind, payload=message.SerializeToString()
                    ).SerializeToString(),
                    masked=True,
                )
                for kind, message in (
                    (wire.WORKER_REQUEST_ACK, ack),
                    (wire.WORKER_REPLY, reply),
                )
            )
            before, between, after = frames.split(MARK.encode())
            self._answers[size] = before, between, after
        return self._answers[size]


async def main(origin: str) -> None:
    loop = asyncio.get_running_loop()
    parts = urlsplit(origin)
    ended = loop.create_future()
    await loop.create_connection(
        lambda: Echo(parts.netloc, ended), parts.hostname or "", parts.port or 80
    )
    await ended


if __name__ == "__main__":
    new_event_loop().run_until_complete(main(sys.argv[1]))
