"""The server's half of Connect, as far as a measurement needs it."""

from __future__ import annotations

import asyncio
import time

from inngest_connect_asgi.protocol.wire import connect as wire

from .lean import HttpServer, Socket, field, frame, upgrade_answer
from .load import Load
from .requests import ID, MARK, call_request

__all__ = ["Gateway"]

LEASE_INTERVAL = "5s"
HEARTBEAT_INTERVAL = "10s"

TRACE = b'{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'


class Gateway:
    """The start API and the gateway, on one port of the loopback."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._live: Socket | None = None
        self._went_live = asyncio.Event()
        self.live_at = 0.0
        self.gap = 0.0
        """Seconds for which there was no live connection, last."""
        self._lost_at: float | None = None
        self._connections = 0
        self.registered = 0
        """Bytes of the worker's half of the handshake."""
        self._parts: tuple[bytes, ...] = ()
        self._lease_extensions = 0

    async def listen(self) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: HttpServer(self._answer, self._lost), "127.0.0.1", 0, backlog=1024
        )
        self.port = int(server.sockets[0].getsockname()[1])
        return self.port

    def _answer(
        self, path: str, headers: dict[str, str], body: bytes, http: HttpServer
    ) -> bytes:
        if path.startswith("/v0/connect/start"):
            self._connections += 1
            answer = wire.StartResponse(
                connection_id=(ID % self._connections).decode(),
                gateway_endpoint=f"ws://127.0.0.1:{self.port}/gateway",
                gateway_group=f"group-{self._connections}",
                session_token="session",
                sync_token="sync",
            ).SerializeToString()
        elif path.startswith("/v0/connect/flush"):
            response = wire.SDKResponse.FromString(body)
            self._load.replied(response.request_id.encode(), STATUSES[response.status])
            flushed = wire.FlushResponse(request_id=response.request_id)
            answer = flushed.SerializeToString()
        elif headers.get("upgrade", "").lower() == "websocket":
            socket = Socket(http.transport, lambda data: self._received(socket, data))
            http.socket = socket
            hello = frame(_message(wire.GATEWAY_HELLO))
            return upgrade_answer(headers) + hello
        else:
            # TypeScript's SDK looks for a dev server here.
            answer = b"{}"
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(answer)}\r\n\r\n".encode() + answer

    def _received(self, socket: Socket, data: bytes) -> None:
        # Field 1 is the kind. It would be left out were it zero, as no worker's is.
        kind = data[1]
        if kind == wire.WORKER_REQUEST_ACK:
            return
        if kind == wire.WORKER_REPLY:
            request_id, status = _reply(data)
            socket.send(REPLY_ACK + request_id)
            self._load.replied(request_id, status)
            return
        payload = wire.ConnectMessage.FromString(data).payload
        if kind == wire.WORKER_HEARTBEAT:
            socket.send(frame(_message(wire.GATEWAY_HEARTBEAT)))
        elif kind == wire.WORKER_REQUEST_EXTEND_LEASE:
            self._lease_extensions += 1
            lease = wire.WorkerRequestExtendLeaseData.FromString(payload)
            ack = wire.WorkerRequestExtendLeaseAckData(
                request_id=lease.request_id,
                account_id=lease.account_id,
                env_id=lease.env_id,
                app_id=lease.app_id,
                function_slug=lease.function_slug,
                new_lease_id=(ID % self._lease_extensions).decode(),
            ).SerializeToString()
            socket.send(frame(_message(wire.WORKER_REQUEST_EXTEND_LEASE_ACK, ack)))
        elif kind == wire.WORKER_CONNECT:
            self.registered = len(payload)
            hello = wire.WorkerConnectRequestData.FromString(payload)
            ready = wire.GatewayConnectionReadyData(
                heartbeat_interval=HEARTBEAT_INTERVAL,
                extend_lease_interval=LEASE_INTERVAL,
                status_interval="0s",
            ).SerializeToString()
            socket.send(frame(_message(wire.GATEWAY_CONNECTION_READY, ready)))
            if not hello.worker_manual_readiness_ack:
                self._set_live(socket)
        elif kind == wire.WORKER_READY:
            self._set_live(socket)

    def _set_live(self, socket: Socket) -> None:
        self._live = socket
        self.live_at = time.monotonic()
        self.gap = 0.0 if self._lost_at is None else self.live_at - self._lost_at
        self._lost_at = None
        self._went_live.set()

    def _lost(self, http: HttpServer) -> None:
        if http.socket is not None and http.socket is self._live:
            self._live = None
            self._lost_at = time.monotonic()

    async def wait_live(self, timeout: float, after: float = 0.0) -> None:
        """Wait for a connection that went live later than ``after``."""
        deadline = time.monotonic() + timeout
        while self._live is None or self.live_at <= after:
            self._went_live.clear()
            left = deadline - time.monotonic()
            await asyncio.wait_for(self._went_live.wait(), left)

    async def drop(self) -> float:
        """Cut the connection; returns the seconds until the next one is live."""
        await self.wait_live(30)
        assert self._live is not None
        cut = time.monotonic()
        self._live.transport.abort()
        await self.wait_live(60, after=cut)
        return self.live_at - cut

    async def drain(self) -> float:
        """Say that the gateway closes; returns the seconds without a connection."""
        await self.wait_live(30)
        old = self._live
        assert old is not None
        said = time.monotonic()
        old.send(frame(_message(wire.GATEWAY_CLOSING)))
        await self.wait_live(60, after=said)
        gap = self.gap
        # As the gateway does, for a worker that does not.
        await asyncio.sleep(0.5)
        old.transport.close()
        return gap

    async def prepare(self, app: str, function: str, size: int, lanes: int) -> None:
        """Make the frame of a request, but for its ids."""
        request = wire.GatewayExecutorRequestData(
            request_id=MARK,
            account_id="3a6dcb5a-97d5-4a48-9e2a-2a40d3b0c4ac",
            env_id="9e1d5a46-4f1e-4c54-9a58-6f1c1d0cbbd1",
            app_id="5f1a0a2c-5a24-4a86-8f8f-2c1c6d4b6e11",
            app_name=app,
            function_id="7bd2ad6c-2c4f-5d1f-8bd5-4a1ee1e5fb63",
            function_slug=f"{app}-{function}",
            step_id="step",
            request_payload=call_request(function, size),
            system_trace_ctx=TRACE,
            user_trace_ctx=TRACE,
            run_id="01JDRUN000000000000000000R",
            lease_id=MARK,
            job_id=MARK,
        ).SerializeToString()
        data = frame(_message(wire.GATEWAY_EXECUTOR_REQUEST, request))
        self._parts = tuple(data.split(MARK.encode()))
        assert len(self._parts) == 4

    def send(self, request_id: bytes) -> None:
        assert self._live is not None
        # Each is of a job of its own: the same one would not run twice.
        self._live.send(request_id.join(self._parts))


def _message(kind: int, payload: bytes = b"") -> bytes:
    return wire.ConnectMessage(kind=kind, payload=payload).SerializeToString()


REPLY_ACK = frame(
    _message(
        wire.WORKER_REPLY_ACK,
        wire.WorkerReplyAckData(request_id=MARK).SerializeToString(),
    )
).removesuffix(MARK.encode())


STATUSES = {0: 206, 1: 200, 2: 500}
"""Of HTTP, by that of an SDKResponse."""


def _reply(data: bytes) -> tuple[bytes, int]:
    """Request id and status of a reply, without a copy of its body."""
    # Behind the kind there is the payload: a tag, a size, and the fields in order.
    at, _ = field(data, 3)
    request_id, status = b"", 0
    while at < len(data) and (tag := data[at]) <= 0x28:
        start, end = field(data, at + 1)
        if tag == 0x28:
            # Not a size but a number, which is read in the same way.
            status = end - start
            break
        if tag == 0x0A:
            request_id = data[start:end]
        at = end
    return request_id, STATUSES[status]
