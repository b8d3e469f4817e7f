"""What a worker says, and what the gateway makes of it.

As ``pkg/connect/gateway.go`` reads and its ``gateway_msg_*.go`` handle it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from ..protocol.wire import connect as wire
from ..protocol.wire.codec import DecodeError, Message
from . import ulid
from .connection import DRAINING, Connection, Seen, kind_name
from .router import Router

__all__ = ["Frame", "Inbox", "Refused"]

STATUS_EVERY = 2.0
DATA_HANDLERS = 5
CONTROL_MESSAGES = 10
DATA_MESSAGES = 50

Kind = wire.Kind

CONTROL = (Kind.WORKER_HEARTBEAT, Kind.WORKER_PAUSE, Kind.WORKER_READY)

PAYLOADS: dict[int, type[Message]] = {
    Kind.WORKER_CONNECT: wire.WorkerConnectRequestData,
    Kind.WORKER_REQUEST_ACK: wire.WorkerRequestAckData,
    Kind.WORKER_REPLY: wire.SDKResponse,
    Kind.WORKER_REQUEST_EXTEND_LEASE: wire.WorkerRequestExtendLeaseData,
    Kind.WORKER_STATUS: wire.WorkerStatusData,
}
# What the server closes with where such a payload is invalid. An invalid
# WORKER_STATUS is ignored.
INVALID_PAYLOAD: dict[int, tuple[int, str]] = {
    Kind.WORKER_CONNECT: (1008, "connect_worker_hello_invalid_payload"),
    Kind.WORKER_REQUEST_ACK: (1008, "connect_worker_request_ack_invalid_payload"),
    Kind.WORKER_REPLY: (1011, "connect_internal_error"),
    Kind.WORKER_REQUEST_EXTEND_LEASE: (
        1008,
        "connect_worker_request_extend_lease_invalid_payload",
    ),
}


class Refused(Exception):
    """The gateway closes the connection, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@dataclass
class Frame:
    """One frame from a worker."""

    kind: int
    message: Message | None
    """``None`` where the kind has no payload, or it is invalid."""


class Inbox:
    """Reads one connection; control messages are handled apart from data."""

    def __init__(self, connection: Connection, router: Router) -> None:
        self.connection = connection
        self.router = router
        self._control: asyncio.Queue[Frame | None] = asyncio.Queue(CONTROL_MESSAGES)
        self._data: asyncio.Queue[Frame | None] = asyncio.Queue(DATA_MESSAGES)
        self._status_at = float("-inf")

    async def read(self) -> Frame:
        """Return the next frame.

        Raises:
            ConnectionClosed: there is none.
            Refused: it is no protobuf.
        """
        connection = self.connection
        data = await connection.socket.recv()
        if isinstance(data, str):
            # The gateway looks at the bytes, whatever the type of the frame.
            data = data.encode()
        now = time.monotonic()
        try:
            frame = wire.ConnectMessage.FromString(data)
        except DecodeError:
            connection.log.append(Seen(now, "received", "?", connection, data=data))
            raise Refused(1007, "failed to unmarshal Protobuf") from None
        message: Message | None = None
        if frame.kind in PAYLOADS:
            with suppress(DecodeError):
                message = PAYLOADS[frame.kind].FromString(frame.payload)
        connection.log.append(
            Seen(
                now,
                "received",
                kind_name(frame.kind),
                connection,
                message,
                data,
                getattr(message, "request_id", ""),
            )
        )
        return Frame(frame.kind, message)

    async def run(self) -> None:
        """Read and have handled what comes, until nothing can be read any more.

        What is being handled by then is handled to the end; what waits is lost.
        """
        handlers = (self._control, *(self._data for _ in range(DATA_HANDLERS)))
        for queue in handlers:
            self.connection.spawn(self._handle_all(queue), outlives=True)
        try:
            while True:
                frame = await self.read()
                queue = self._control if frame.kind in CONTROL else self._data
                await queue.put(frame)
        finally:
            # Handlers that have nothing to do take what has just come.
            await asyncio.sleep(0)
            for queue in (self._control, self._data):
                while not queue.empty():
                    queue.get_nowait()
            for queue in handlers:
                queue.put_nowait(None)

    async def _handle_all(self, queue: asyncio.Queue[Frame | None]) -> None:
        while (frame := await queue.get()) is not None:
            try:
                await self._handle(frame)
            except Refused as refused:
                await self.connection.socket.close(refused.code, refused.reason)
                return

    async def _handle(self, frame: Frame) -> None:
        connection, kind = self.connection, frame.kind
        await self._wait_for_faults(kind)
        if connection.any_fault("ignore", kind_name(kind)):
            return
        if kind == Kind.WORKER_HEARTBEAT:
            await self._heartbeat()
        elif kind == Kind.WORKER_READY:
            self._ready()
        elif kind == Kind.WORKER_PAUSE:
            self._pause()
        elif kind == Kind.WORKER_STATUS:
            self._status(frame.message)
        elif frame.message is None and kind in INVALID_PAYLOAD:
            raise Refused(*INVALID_PAYLOAD[kind])
        elif isinstance(frame.message, wire.WorkerRequestAckData):
            self.router.requests.acknowledge(connection, frame.message)
        elif isinstance(frame.message, wire.SDKResponse):
            await self._reply(frame.message)
        elif isinstance(frame.message, wire.WorkerRequestExtendLeaseData):
            await self._extend(frame.message)

    async def _wait_for_faults(self, kind: int) -> None:
        connection = self.connection
        delay = max(connection.faults.data_delay, connection.shared_faults.data_delay)
        if delay and kind not in CONTROL:
            await asyncio.sleep(delay)
        while connection.any_fault("hold", kind_name(kind)):
            await asyncio.sleep(0.01)

    # Control messages

    async def _heartbeat(self) -> None:
        connection = self.connection
        connection.heartbeat_at = time.monotonic()
        if connection.gateway_drains or connection.phase in DRAINING:
            connection.set_status("draining")
        elif connection.phase == "ready":
            connection.set_status("ready")
        else:
            connection.set_status("connected")
        self.router.wake()
        await connection.answer(Kind.GATEWAY_HEARTBEAT)

    def _ready(self) -> None:
        connection = self.connection
        if connection.gateway_drains:
            raise Refused(1001, "connect_gateway_closing")
        if connection.phase in ("connected", "ready"):
            self.router.make_ready(connection)

    def _pause(self) -> None:
        connection = self.connection
        connection.advance("paused")
        connection.set_status("draining")
        connection.no_forwarding.set()
        self.router.wake()

    # Data

    def _status(self, message: Message | None) -> None:
        now = time.monotonic()
        if now - self._status_at < STATUS_EVERY:
            return
        self._status_at = now
        if isinstance(message, wire.WorkerStatusData):
            self.connection.status_reports.append(message)
            self.connection.log.touch()

    async def _reply(self, reply: wire.SDKResponse) -> None:
        if self.router.requests.faults.refuses(reply.request_id):
            return
        self.router.requests.save(reply)
        await self.connection.answer(
            Kind.WORKER_REPLY_ACK,
            wire.WorkerReplyAckData(request_id=reply.request_id),
        )

    async def _extend(self, data: wire.WorkerRequestExtendLeaseData) -> None:
        if not ulid.valid(data.lease_id):
            raise Refused(*INVALID_PAYLOAD[Kind.WORKER_REQUEST_EXTEND_LEASE])
        # The lease is extended, whether or not the answer can be written.
        new_lease_id = self.router.requests.extend(self.connection, data)
        await self.connection.answer(
            Kind.WORKER_REQUEST_EXTEND_LEASE_ACK,
            wire.WorkerRequestExtendLeaseAckData(
                request_id=data.request_id,
                account_id=data.account_id,
                env_id=data.env_id,
                app_id=data.app_id,
                function_slug=data.function_slug,
                new_lease_id=new_lease_id,
            ),
        )
