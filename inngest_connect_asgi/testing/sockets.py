"""The gateway's side of the WebSocket: handshake, frames, drain and close."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from google.protobuf.message import DecodeError, Message
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from ..durations import parse_duration
from ..wire import connect_pb2
from . import ulid
from .connection import Connection, kind_name
from .faults import Faults
from .log import Log, Seen
from .router import Router

__all__ = ["Sockets"]

logger = logging.getLogger(__name__)

SUBPROTOCOL = Subprotocol("v0.connect.inngest.com")
MAX_MESSAGE_SIZE = 8 * 1024 * 1024
MAX_APPS = 10
HELLO_TIMEOUT = 5.0
DRAIN_TIMEOUT = 5.0
MISSED_HEARTBEATS = 5

Kind = connect_pb2.Kind

PAYLOADS: dict[int, type[Message]] = {
    Kind.WORKER_CONNECT: connect_pb2.WorkerConnectRequestData,
    Kind.WORKER_REQUEST_ACK: connect_pb2.WorkerRequestAckData,
    Kind.WORKER_REPLY: connect_pb2.SDKResponse,
    Kind.WORKER_REQUEST_EXTEND_LEASE: connect_pb2.WorkerRequestExtendLeaseData,
    Kind.WORKER_STATUS: connect_pb2.WorkerStatusData,
}
# What pkg/connect/gateway_msg_*.go closes with where such a payload is invalid.
# An invalid WORKER_STATUS is ignored.
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


class Sockets:
    """Accepts connections. Lives on the gateway's event loop."""

    def __init__(
        self,
        *,
        log: Log,
        faults: Faults,
        router: Router,
        intervals: connect_pb2.GatewayConnectionReadyData,
        on_apps: Callable[[Connection], None],
    ) -> None:
        self.log = log
        self.faults = faults
        self.router = router
        self.intervals = intervals
        self.on_apps = on_apps
        self.issued: dict[str, tuple[str, str]] = {}
        """Session token and gateway group by connection id."""
        self._server: Server | None = None
        self._count = 0

    async def start(self, listener: socket.socket) -> None:
        self._server = await serve(
            self._handle,
            sock=listener,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=MAX_MESSAGE_SIZE,
            ping_interval=None,
            close_timeout=5.0,
            process_request=self._process_request,
            logger=logger,
        )

    async def stop(self) -> None:
        assert self._server is not None
        await self._close_all()
        self._server.close()
        await self._server.wait_closed()

    async def reset(self) -> None:
        """Close every connection, and forget that there were any."""
        await self._close_all()
        while self.open():
            await self.router.changed()
        self.issued.clear()
        self._count = 0

    async def _close_all(self) -> None:
        open_connections = self.open()
        closing = [
            asyncio.ensure_future(
                connection.socket.close(1001, "connect_gateway_closing")
            )
            for connection in open_connections
        ]
        if closing:
            await asyncio.wait(closing, timeout=1.0)
        for connection in open_connections:
            connection.socket.transport.abort()
        await asyncio.gather(*closing, return_exceptions=True)

    def open(self) -> list[Connection]:
        return [c for c in self.router.connections if c.phase != "closed"]

    async def _process_request(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        if self.faults.upgrade is None:
            return None
        return connection.respond(HTTPStatus(self.faults.upgrade), "")

    async def _handle(self, websocket: ServerConnection) -> None:
        self._count += 1
        connection = Connection(websocket, self._count, self.log, self.faults)
        self.router.connections.append(connection)
        self._note(connection, "opened")
        try:
            await self._shake_hands(connection)
            while True:
                await self._receive(connection)
        except ConnectionClosed:
            pass
        except Refused as refused:
            await websocket.close(refused.code, refused.reason)
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        for task in connection.tasks:
            task.cancel()
        protocol = connection.socket.protocol
        connection.phase = "closed"
        connection.closed_at = time.monotonic()
        connection.close_code = protocol.close_code
        connection.close_reason = protocol.close_reason or ""
        if protocol.close_rcvd_then_sent is not None:
            connection.closed_by = (
                "worker" if protocol.close_rcvd_then_sent else "gateway"
            )
        elif protocol.close_rcvd is not None:
            connection.closed_by = "worker"
        self.router.release(connection)
        self._note(
            connection,
            "closed",
            code=connection.close_code,
            reason=connection.close_reason,
        )

    def _note(
        self,
        connection: Connection,
        event: str,
        *,
        code: int | None = None,
        reason: str = "",
    ) -> None:
        self.log.append(
            Seen(
                time.monotonic(),
                event,  # type: ignore[arg-type]
                connection=connection,
                code=code,
                reason=reason,
            )
        )

    # Handshake

    async def _shake_hands(self, connection: Connection) -> None:
        if self.faults.handshake == "ready_first":
            await connection.send(Kind.GATEWAY_CONNECTION_READY, self.intervals)
        else:
            await connection.send(Kind.GATEWAY_HELLO)
        try:
            kind, message = await asyncio.wait_for(
                self._next(connection), HELLO_TIMEOUT
            )
        except asyncio.TimeoutError:
            raise Refused(1008, "connect_worker_hello_timeout") from None
        if kind != Kind.WORKER_CONNECT:
            raise Refused(1008, "connect_worker_hello_invalid_msg")
        assert isinstance(message, connect_pb2.WorkerConnectRequestData)
        connection.hello = message
        connection.id = message.connection_id
        self._check(connection)
        if self.faults.handshake == "sync_failed":
            await self._fail_sync(connection, "could not sync")
        try:
            self.on_apps(connection)
        except ValueError as exc:
            await self._fail_sync(connection, str(exc))
        if self.faults.handshake == "garbage_ready":
            frame = connect_pb2.ConnectMessage(
                kind=Kind.GATEWAY_CONNECTION_READY, payload=b"\xff\xff\xff"
            )
            await connection.send_raw(frame.SerializeToString())
        else:
            await connection.send(Kind.GATEWAY_CONNECTION_READY, self.intervals)
        connection.heartbeat_at = time.monotonic()
        connection.spawn(self._watch_heartbeats(connection))
        if message.worker_manual_readiness_ack:
            connection.phase = "connected"
            self.log.touch()
        else:
            self._make_ready(connection)

    def _check(self, connection: Connection) -> None:
        hello = connection.hello
        token, group = self.issued.get(hello.connection_id, ("", ""))
        if not ulid.valid(hello.connection_id) or not hello.instance_id or not token:
            raise Refused(1008, "connect_worker_hello_invalid_payload")
        if hello.auth_data.session_token != token:
            raise Refused(1008, "connect_authentication_failed")
        if not hello.apps:
            raise Refused(1008, "connect_worker_hello_invalid_payload")
        if len(hello.apps) > MAX_APPS:
            raise Refused(1008, "connect_too_many_apps_per_connection")
        connection.group = group

    async def _fail_sync(self, connection: Connection, message: str) -> None:
        code = "connect_invalid_function_config"
        await connection.send(
            Kind.SYNC_FAILED, connect_pb2.SystemError(code=code, message=message)
        )
        raise Refused(1008, code)

    def _make_ready(self, connection: Connection) -> None:
        connection.phase = "ready"
        if connection.ready_at is None:
            connection.ready_at = time.monotonic()
            self._note(connection, "ready")
        self.router.wake()

    async def _watch_heartbeats(self, connection: Connection) -> None:
        try:
            interval = parse_duration(self.intervals.heartbeat_interval)
        except ValueError:
            return
        while interval:
            await asyncio.sleep(interval)
            silence = time.monotonic() - connection.heartbeat_at
            if silence > MISSED_HEARTBEATS * interval:
                # The real gateway sends no close frame here either.
                connection.socket.transport.abort()
                return

    # Frames

    async def _next(self, connection: Connection) -> tuple[int, Message | None]:
        data = await connection.socket.recv()
        if isinstance(data, str):
            # The gateway looks at the bytes, whatever the type of the frame.
            data = data.encode()
        now = time.monotonic()
        frame = connect_pb2.ConnectMessage()
        try:
            frame.ParseFromString(data)
        except DecodeError:
            self.log.append(Seen(now, "received", "?", connection, data=data))
            raise Refused(1007, "failed to unmarshal Protobuf") from None
        message: Message | None = None
        broken = False
        if frame.kind in PAYLOADS:
            message = PAYLOADS[frame.kind]()
            try:
                message.ParseFromString(frame.payload)
            except DecodeError:
                message, broken = None, True
        self.log.append(
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
        if broken and frame.kind in INVALID_PAYLOAD:
            raise Refused(*INVALID_PAYLOAD[frame.kind])
        return frame.kind, message

    async def _receive(self, connection: Connection) -> None:
        kind, message = await self._next(connection)
        if connection.any_fault("ignore", kind_name(kind)):
            return
        if kind == Kind.WORKER_HEARTBEAT:
            connection.heartbeat_at = time.monotonic()
            await connection.send(Kind.GATEWAY_HEARTBEAT)
        elif kind == Kind.WORKER_READY:
            if connection.phase in ("connected", "ready"):
                self._make_ready(connection)
        elif kind == Kind.WORKER_PAUSE:
            connection.phase = "paused"
            self.router.release(connection)
        elif isinstance(message, connect_pb2.WorkerRequestAckData):
            self.router.acknowledge(connection, message)
        elif isinstance(message, connect_pb2.SDKResponse):
            self.router.save(message)
            await connection.send(
                Kind.WORKER_REPLY_ACK,
                connect_pb2.WorkerReplyAckData(request_id=message.request_id),
            )
        elif isinstance(message, connect_pb2.WorkerRequestExtendLeaseData):
            await self._extend(connection, message)

    async def _extend(
        self, connection: Connection, data: connect_pb2.WorkerRequestExtendLeaseData
    ) -> None:
        if not ulid.valid(data.lease_id):
            raise Refused(*INVALID_PAYLOAD[Kind.WORKER_REQUEST_EXTEND_LEASE])
        await connection.send(
            Kind.WORKER_REQUEST_EXTEND_LEASE_ACK,
            connect_pb2.WorkerRequestExtendLeaseAckData(
                request_id=data.request_id,
                account_id=data.account_id,
                env_id=data.env_id,
                app_id=data.app_id,
                function_slug=data.function_slug,
                new_lease_id=self.router.extend(connection, data),
            ),
        )

    # Endings

    async def drain(self, connection: Connection) -> None:
        if connection.phase == "closed":
            return
        connection.phase = "draining"
        self.router.release(connection)
        await connection.send(Kind.GATEWAY_CLOSING)
        connection.spawn(self._close_after(connection, DRAIN_TIMEOUT))

    async def _close_after(self, connection: Connection, delay: float) -> None:
        await asyncio.sleep(delay)
        await connection.socket.close(1001, "connect_gateway_closing")
