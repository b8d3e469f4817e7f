"""The load generator: the server's half of Connect, or a client of serve.

A process of its own, which takes commands as lines of JSON from standard input and
answers each with one. :class:`Generator` is the other end of that.

    python -m benchmarks.load connect
    python -m benchmarks.load serve http://127.0.0.1:8000/api/inngest
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from .lean import HttpServer, Socket, field, frame, new_event_loop, upgrade_answer

__all__ = ["DESCRIPTORS", "Generator", "allow_descriptors"]

DESCRIPTORS = 16384
"""Open files, for a connection per request in flight."""

ID = b"%026d"
"""All ids have 26 characters, as ULIDs do, so that frames have one length."""

MARK = "#" * 26
"""Where the id of a request, of its lease, or of its job belongs in a frame."""

REQUEST_TIMEOUT = 60.0
"""Seconds without a reply after which a measurement fails."""

LEASE_INTERVAL = "5s"
HEARTBEAT_INTERVAL = "10s"


def allow_descriptors() -> None:
    """Raise the limit on open files, for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def call_request(function: str, size: int) -> bytes:
    """The JSON body of a call request, with ``size`` bytes of payload."""
    event = {
        "data": {"payload": "x" * size},
        "id": "01JDEVENT0000000000000000E",
        "name": function,
        "ts": 1750000000000,
    }
    return json.dumps(
        {
            "ctx": {
                "attempt": 0,
                "disable_immediate_execution": False,
                "env": "local",
                "fn_id": "7bd2ad6c-2c4f-5d1f-8bd5-4a1ee1e5fb63",
                "max_attempts": 4,
                "run_id": "01JDRUN000000000000000000R",
                "stack": {"stack": [], "current": 0},
                "step_id": "step",
                "use_api": False,
            },
            "event": event,
            "events": [event],
            "steps": {},
            "use_api": False,
        }
    ).encode()


class Lane(Protocol):
    """What carries requests to a worker, and tells :class:`Load` of replies."""

    async def prepare(self, app: str, function: str, size: int, lanes: int) -> None: ...
    def send(self, request_id: bytes) -> None: ...


class Load:
    """Keeps a number of requests in flight, and times each of them."""

    def __init__(self) -> None:
        self.lane: Lane
        self._number = 0
        self._sent: dict[bytes, float] = {}
        self._held: set[bytes] = set()
        """Requests that wait for something, while others are measured."""
        self._latencies: list[float] = []
        self._unexpected = 0
        self._expected = 200
        self._until = 0.0
        """Until when a reply is followed by the next request."""
        self._ended: asyncio.Future[None] | None = None
        self._collected: asyncio.Future[None] | None = None

    def _next_id(self) -> bytes:
        self._number += 1
        return ID % self._number

    def _send(self) -> None:
        request_id = self._next_id()
        self._sent[request_id] = time.perf_counter()
        self.lane.send(request_id)

    def replied(self, request_id: bytes, status: int) -> None:
        now = time.perf_counter()
        asked = self._sent.pop(request_id, None)
        if asked is None:
            self._held.discard(request_id)
            if not self._held and self._collected is not None:
                self._collected.set_result(None)
                self._collected = None
            return
        self._latencies.append(now - asked)
        if status != self._expected:
            self._unexpected = status
        if now < self._until and not self._unexpected:
            self._send()
        elif not self._sent and self._ended is not None:
            self._ended.set_result(None)
            self._ended = None

    async def run(
        self, concurrency: int, seconds: float, expected: int
    ) -> dict[str, Any]:
        """Keep ``concurrency`` requests in flight, and then let them end."""
        self._latencies.clear()
        self._unexpected = 0
        self._expected = expected
        ended = self._ended = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self._until = start + seconds
        for _ in range(concurrency):
            self._send()
        await asyncio.wait_for(ended, seconds + REQUEST_TIMEOUT)
        elapsed = time.perf_counter() - start
        if self._unexpected:
            raise RuntimeError(f"a reply with status {self._unexpected}")
        taken = sorted(self._latencies)
        return {
            "runs": len(taken),
            "rate": len(taken) / elapsed,
            "p50": taken[len(taken) // 2],
            "p99": taken[min(len(taken) - 1, int(len(taken) * 0.99))],
        }

    def hold(self, count: int) -> None:
        """Send requests that will not be replied to until something happens."""
        for _ in range(count):
            request_id = self._next_id()
            self._held.add(request_id)
            self.lane.send(request_id)

    async def collect(self) -> None:
        """Wait for the replies to all of them."""
        if self._held:
            self._collected = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._collected, REQUEST_TIMEOUT)


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


class ServeClient:
    """Posts call requests as the server does: on connections that are kept."""

    def __init__(self, load: Load, url: str) -> None:
        self._load = load
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._path = parts.path
        self.idle: list[Post] = []
        self.request = b""

    async def prepare(self, app: str, function: str, size: int, lanes: int) -> None:
        loop = asyncio.get_running_loop()
        # A kept connection may have been closed as idle: make new ones each time.
        for post in self.idle:
            post.transport.close()
        self.idle.clear()
        for _ in range(lanes):
            _, post = await loop.create_connection(
                lambda: Post(self, self._load), self._host, self._port
            )
            self.idle.append(post)
        body = call_request(function, size)
        head = (
            f"POST {self._path}?fnId={app}-{function}&stepId=step HTTP/1.1\r\n"
            f"Host: {self._host}:{self._port}\r\n"
            "Content-Type: application/json\r\n"
            "X-Inngest-Server-Kind: dev\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body

    def send(self, request_id: bytes) -> None:
        post = self.idle.pop()
        post.request_id = request_id
        post.transport.write(self.request)


class Post(asyncio.Protocol):
    """A connection to serve, with one request at a time."""

    def __init__(self, client: ServeClient, load: Load) -> None:
        self._client = client
        self._load = load
        self._data = bytearray()
        self._size = 0
        """Of the whole answer, once its head is read."""
        self.request_id = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has transports that are none by inheritance.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._size:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._data[:end]).lower()
            _, _, rest = head.partition(b"content-length:")
            self._size = end + 4 + int(rest.partition(b"\r\n")[0])
        if len(self._data) < self._size:
            return
        status = int(self._data[9:12])
        self._data.clear()
        self._size = 0
        self._client.idle.append(self)
        self._load.replied(self.request_id, status)


TRACE = b'{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'


def _message(kind: wire.Kind.ValueType, payload: bytes = b"") -> bytes:
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


async def obey(arguments: list[str]) -> None:
    loop = asyncio.get_running_loop()
    load = Load()
    gateway = None
    if arguments[0] == "connect":
        load.lane = gateway = Gateway(load)
        print(json.dumps({"port": await gateway.listen()}), flush=True)
    else:
        load.lane = ServeClient(load, arguments[1])
        print(json.dumps({}), flush=True)

    async def answer(command: dict[str, Any]) -> Any:
        kind = command.pop("do")
        if kind in ("run", "hold"):
            lanes = command["count"]
            await load.lane.prepare(
                command["app"], command["function"], command["size"], lanes
            )
        if kind == "run":
            return await load.run(
                command["count"], command["seconds"], command["expected"]
            )
        if kind == "hold":
            return load.hold(command["count"])
        if kind == "collect":
            return await load.collect()
        assert gateway is not None
        if kind == "wait_live":
            await gateway.wait_live(command["timeout"])
            return {"at": gateway.live_at, "registered": gateway.registered}
        return await {"drop": gateway.drop, "drain": gateway.drain}[kind]()

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            result = {"result": await answer(json.loads(line))}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


class Generator:
    """A load generator in a process of its own.

    Raises:
        RuntimeError: From every method: what was asked for did not come about.
    """

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port: int = self._read().get("port", 0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def environ(self) -> Mapping[str, str]:
        """What leads a worker here."""
        return {"INNGEST_DEV": f"http://127.0.0.1:{self.port}"}

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        return json.loads(line)

    def begin(self, command: str, **arguments: Any) -> None:
        """Give a command without waiting for what comes of it."""
        assert self._process.stdin is not None
        line = json.dumps({"do": command, **arguments})
        print(line, file=self._process.stdin, flush=True)

    def end(self) -> Any:
        """Wait for what came of the command."""
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def ask(self, command: str, **arguments: Any) -> Any:
        self.begin(command, **arguments)
        return self.end()

    def begin_run(
        self,
        function: str,
        count: int,
        seconds: float,
        *,
        app: str = "app",
        size: int = 0,
        expected: int = 200,
    ) -> None:
        """Keep ``count`` requests in flight for so long, and let them end."""
        self.begin(
            "run",
            app=app,
            function=function,
            size=size,
            count=count,
            seconds=seconds,
            expected=expected,
        )

    def run(self, function: str, count: int, seconds: float, **options: Any) -> Any:
        self.begin_run(function, count, seconds, **options)
        return self.end()

    def hold(self, function: str, count: int) -> None:
        """Send ``count`` requests that wait, until :meth:`collect`."""
        self.ask("hold", app="app", function=function, size=0, count=count)

    def collect(self) -> None:
        self.ask("collect")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    allow_descriptors()
    new_event_loop().run_until_complete(obey(sys.argv[1:]))
