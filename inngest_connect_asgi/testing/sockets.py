"""The gateway's side of the WebSocket: handshake, frames, drain and close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from ..protocol.wire import connect as wire
from . import ulid
from .connection import PHASES, Connection, Seen
from .durations import interval
from .faults import Faults
from .inbox import Inbox, Refused
from .log import Log
from .router import Router

__all__ = ["Sockets"]

logger = logging.getLogger(__name__)

SUBPROTOCOL = Subprotocol("v0.connect.inngest.com")
MAX_MESSAGE_SIZE = 8 * 1024 * 1024
MAX_APPS = 10
HELLO_TIMEOUT = 5.0
MISSED_HEARTBEATS = 5
CLOSING = (1001, "connect_gateway_closing")

STOP_TIMEOUT = 3.0
"""Seconds to wait for connections to be closed when the gateway stops listening."""

Kind = wire.Kind


class Sockets:
    """Accepts connections. Lives on the gateway's event loop."""

    def __init__(
        self,
        *,
        log: Log[Seen],
        faults: Faults,
        router: Router,
        intervals: wire.GatewayConnectionReadyData,
        on_apps: Callable[[Connection], None],
        drain_timeout: float,
    ) -> None:
        self.log = log
        self.faults = faults
        self.router = router
        self.intervals = intervals
        self.on_apps = on_apps
        self.drain_timeout = drain_timeout
        self.issued: dict[str, tuple[str, str]] = {}
        """Session token and gateway group by connection id."""
        self._server: Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._count = 0

    @property
    def is_up(self) -> bool:
        return self._server is not None and self._server.is_serving()

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
        closed = asyncio.ensure_future(self._server.wait_closed())
        await asyncio.wait([closed], timeout=STOP_TIMEOUT)
        if not closed.done():
            # One that was accepted meanwhile; or asyncio has lost count of them.
            logger.warning("Stopped listening, and a connection is not closed yet")
            closed.cancel()

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
            asyncio.ensure_future(_close(connection)) for connection in open_connections
        ]
        if closing:
            await asyncio.wait(closing, timeout=1.0)
        for connection in open_connections:
            connection.socket.transport.abort()
        # Nobody is to wait here for a peer, or for a task of ours.
        at_work = [*closing, *self._handlers]
        if at_work:
            _, at_work_still = await asyncio.wait(at_work, timeout=STOP_TIMEOUT)
            if at_work_still:
                left = ", ".join(f"#{each.number} {each.phase}" for each in self.open())
                logger.warning("Had to end what was at work on connections: %s", left)
                for task in at_work_still:
                    task.cancel()
                await asyncio.wait(at_work_still, timeout=STOP_TIMEOUT)
        for connection in self.router.connections:
            for handler in connection.handlers:
                handler.cancel()

    def open(self) -> list[Connection]:
        return [c for c in self.router.connections if c.phase != "closed"]

    async def _process_request(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        if self.faults.upgrade is None:
            return None
        return connection.respond(HTTPStatus(self.faults.upgrade), "")

    async def _handle(self, websocket: ServerConnection) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)
        _close_as_the_server(websocket)
        self._count += 1
        connection = Connection(websocket, self._count, self.log, self.faults)
        inbox = Inbox(connection, self.router)
        self.router.connections.append(connection)
        connection.note("opened")
        try:
            await self._shake_hands(connection, inbox)
            await inbox.run()
        except ConnectionClosed:
            self._disconnect(connection)
            _read_close_reason(connection)
        except Refused as refused:
            self._disconnect(connection)
            await websocket.close(refused.code, refused.reason)
        finally:
            self._forget(connection)

    def _disconnect(self, connection: Connection) -> None:
        connection.advance("disconnecting")
        connection.set_status("disconnecting")
        self.router.wake()

    def _forget(self, connection: Connection) -> None:
        for task in connection.tasks:
            task.cancel()
        protocol = connection.socket.protocol
        connection.closed_at = time.monotonic()
        connection.close_code = protocol.close_code
        connection.close_reason = protocol.close_reason or ""
        if protocol.close_rcvd_then_sent is not None:
            connection.closed_by = (
                "worker" if protocol.close_rcvd_then_sent else "gateway"
            )
        elif protocol.close_rcvd is not None:
            connection.closed_by = "worker"
        connection.disconnect_reason = connection.disconnect_reason or "UNEXPECTED"
        connection.advance("closed")
        connection.set_status("deleted")
        connection.no_forwarding.set()
        self.router.wake()
        connection.note("closed", connection.close_code, connection.close_reason)

    # Handshake

    async def _shake_hands(self, connection: Connection, inbox: Inbox) -> None:
        if self.faults.handshake == "ready_first":
            await connection.send(Kind.GATEWAY_CONNECTION_READY, self.intervals)
        else:
            await connection.send(Kind.GATEWAY_HELLO)
        try:
            frame = await asyncio.wait_for(inbox.read(), HELLO_TIMEOUT)
        except asyncio.TimeoutError:
            raise Refused(1008, "connect_worker_hello_timeout") from None
        if frame.kind != Kind.WORKER_CONNECT:
            raise Refused(1008, "connect_worker_hello_invalid_msg")
        message = frame.message
        if not isinstance(message, wire.WorkerConnectRequestData):
            raise Refused(1008, "connect_worker_hello_invalid_payload")
        connection.hello = message
        connection.id = message.connection_id
        self._check(connection)
        self.router.requests.store.set_capacity(
            message.instance_id, message.max_worker_concurrency or 0
        )
        if self.faults.handshake == "sync_failed":
            await self._fail_sync(connection, "could not sync")
        try:
            self.on_apps(connection)
        except ValueError as exc:
            await self._fail_sync(connection, str(exc))
        connection.set_status("connected")
        if self.faults.handshake == "garbage_ready":
            garbage = wire.ConnectMessage(
                kind=Kind.GATEWAY_CONNECTION_READY, payload=b"\xff\xff\xff"
            )
            await connection.send_raw(garbage.SerializeToString())
        else:
            await connection.send(Kind.GATEWAY_CONNECTION_READY, self.intervals)
        connection.heartbeat_at = time.monotonic()
        connection.spawn(self._watch_heartbeats(connection))
        if message.worker_manual_readiness_ack:
            connection.advance("connected")
        else:
            self.router.make_ready(connection)

    def _check(self, connection: Connection) -> None:
        hello = connection.hello
        token, group = self.issued.get(hello.connection_id, ("", ""))
        if not ulid.valid(hello.connection_id) or not hello.instance_id or not token:
            raise Refused(1008, "connect_worker_hello_invalid_payload")
        if hello.auth_data is None or hello.auth_data.session_token != token:
            raise Refused(1008, "connect_authentication_failed")
        if not hello.apps:
            raise Refused(1008, "connect_worker_hello_invalid_payload")
        if len(hello.apps) > MAX_APPS:
            raise Refused(1008, "connect_too_many_apps_per_connection")
        connection.group = group

    async def _fail_sync(self, connection: Connection, message: str) -> None:
        code = "connect_invalid_function_config"
        await connection.send(
            Kind.SYNC_FAILED, wire.SystemError(code=code, message=message)
        )
        raise Refused(1008, code)

    async def _watch_heartbeats(self, connection: Connection) -> None:
        seconds = interval(self.intervals.heartbeat_interval)
        while seconds:
            await asyncio.sleep(seconds)
            silence = time.monotonic() - connection.heartbeat_at
            if silence > MISSED_HEARTBEATS * seconds:
                connection.disconnect_reason = "CONSECUTIVE_HEARTBEATS_MISSED"
                # The real gateway sends no close frame here either.
                connection.socket.transport.abort()
                return

    # Endings

    async def drain(self, connection: Connection) -> None:
        """Begin to drain, as a gateway that is told to end (gateway.go)."""
        if PHASES.index(connection.phase) >= PHASES.index("disconnecting"):
            return
        connection.gateway_drains = True
        if connection.phase == "handshaking":
            await connection.socket.close(*CLOSING)
            return
        # The router goes on to choose it: the status changes with the next heartbeat.
        connection.advance("draining")
        self.router.wake()
        connection.disconnect_reason = "GATEWAY_DRAINING"
        if await connection.send(Kind.GATEWAY_CLOSING):
            connection.spawn(self._close_drained(connection))
        else:
            connection.set_status("draining")
            connection.no_forwarding.set()
            connection.socket.transport.abort()

    async def _close_drained(self, connection: Connection) -> None:
        await asyncio.sleep(self.drain_timeout)
        connection.set_status("draining")
        connection.no_forwarding.set()
        await connection.socket.close(*CLOSING)


async def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):  # it may be broken already
        await connection.socket.close(*CLOSING)


def _read_close_reason(connection: Connection) -> None:
    """Take over why a worker closed, as the read loop in gateway.go does.

    A close without a reason says nothing.
    """
    protocol = connection.socket.protocol
    received, sent = protocol.close_rcvd, protocol.close_sent
    if received is None:
        if sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
            connection.disconnect_reason = "MESSAGE_TOO_LARGE"
    elif (received.code, received.reason) == CLOSING:
        connection.disconnect_reason = "GATEWAY_DRAINING"
    elif received.reason:
        connection.disconnect_reason = received.reason


def _close_as_the_server(websocket: ServerConnection) -> None:
    """Give a message that is too long the reason that the server's library gives."""
    fail = websocket.protocol.fail

    def fail_as_the_server(code: int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG:
            reason = f"read limited at {MAX_MESSAGE_SIZE + 1} bytes"
        fail(code, reason)

    websocket.protocol.fail = fail_as_the_server  # type: ignore[method-assign]
