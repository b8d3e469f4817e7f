"""A Connect API, a gateway and an executor in one object."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import pkgutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Literal, TypeVar

from starlette.types import ASGIApp

from ..health.embedded import listen
from ..protocol.wire import connect_pb2
from .api import API
from .connection import Connection
from .executor import Executor, Function, Run, build_request
from .faults import Faults
from .log import Log, Seen
from .router import Delivery, Leases, Router
from .serving import lifespan
from .sockets import Sockets

__all__ = ["LocalGateway", "call_request"]

T = TypeVar("T")

START_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0


class LocalGateway:
    """A small Inngest on loopback, with real sockets and the real wire.

    Made for tests and demos: it keeps everything in memory, knows nothing of
    concurrency keys, rate limits or schedules, and can be told to misbehave. About
    requests it is as strict as the newest server, and where versions differ as the
    strictest. For development, run Inngest's own dev server.

    It runs in a thread of its own. Every method may be called from any thread, and
    blocks; from a coroutine, call it through :func:`asyncio.to_thread`.

    Args:
        heartbeat_interval: A Go duration, sent to workers as it stands.
        extend_lease_interval: Likewise.
        status_interval: Likewise; ``0s`` asks for no status reports.
        lease_duration: Seconds.
        signing_keys: Raw keys. With them LocalGateway is like the cloud, and takes
            workers that know one of them; without, it is like the dev server.
        retry_delay: Seconds until a failed attempt is repeated, where the function
            does not say.
        honour_previous_lease: Answer an extension under the lease id before with the
            current one, where the same instance asks, as servers since 1.41 do.
            Those before refuse it.
        request_ids: Whether each ``dispatch`` has an id of its own, or each ``job``,
            over all its attempts, as up to 1.19.2.
        drain_timeout: Seconds that a draining gateway waits for the worker to close.
        use_api: Leave events and steps out of requests, for the SDK to fetch.
        api_port: Port of the HTTP API; 0 takes a free one.
        gateway_port: Port of the WebSocket gateway; 0 takes a free one.
    """

    def __init__(
        self,
        *,
        heartbeat_interval: str = "10s",
        extend_lease_interval: str = "5s",
        status_interval: str = "0s",
        lease_duration: float = 20.0,
        signing_keys: tuple[str, ...] = (),
        retry_delay: float = 0.1,
        honour_previous_lease: bool = False,
        request_ids: Literal["dispatch", "job"] = "dispatch",
        drain_timeout: float = 25.0,
        use_api: bool = False,
        api_port: int = 0,
        gateway_port: int = 0,
    ) -> None:
        self.faults = Faults()
        self._log = Log()
        self._router = Router(
            self._log,
            self.faults,
            lease_duration,
            heartbeat_interval=heartbeat_interval,
            honour_previous_lease=honour_previous_lease,
            one_id_per_job=request_ids == "job",
        )
        self._executor = Executor(
            log=self._log,
            router=self._router,
            retry_delay=retry_delay,
            use_api=use_api,
        )
        self._sockets = Sockets(
            log=self._log,
            faults=self.faults,
            router=self._router,
            intervals=connect_pb2.GatewayConnectionReadyData(
                heartbeat_interval=heartbeat_interval,
                extend_lease_interval=extend_lease_interval,
                status_interval=status_interval,
            ),
            on_apps=self._executor.register,
            drain_timeout=drain_timeout,
        )
        self._signing_keys = signing_keys
        self._ports = (api_port, gateway_port)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LocalGateway:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: A port is taken.
        """
        api_listener, gateway_listener = (
            listen("127.0.0.1", port) for port in self._ports
        )
        self.api_port: int = api_listener.getsockname()[1]
        self.gateway_port: int = gateway_listener.getsockname()[1]
        self._api = API(
            log=self._log,
            faults=self.faults,
            router=self._router,
            executor=self._executor,
            sockets=self._sockets,
            gateway_url=f"ws://127.0.0.1:{self.gateway_port}/v0/connect",
        )
        self.accept(*self._signing_keys)
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(
                self._run(api_listener, gateway_listener, started)
            ),
            name="local-gateway",
            daemon=True,
        )
        self._thread.start()
        started.wait(START_TIMEOUT)

    async def _run(
        self,
        api_listener: socket.socket,
        gateway_listener: socket.socket,
        started: threading.Event,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        await self._sockets.start(gateway_listener)
        await self._api.start(api_listener)
        started.set()
        await self._ended.wait()
        await self._api.stop()
        await self._sockets.stop()

    def stop(self) -> None:
        """Close every connection and both ports, and forget what is under way."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            thread.join()

    def reset(self) -> None:
        """Be as new, at the same address.

        Closes every connection, ends every run, forgets what it saw, and takes back
        faults; workers that are still there come back.
        """
        self._await(self._reset())

    async def _reset(self) -> None:
        self.faults.reset()
        if not self._api.is_up:
            await self._api.start(listen("127.0.0.1", self.api_port))
        await self._executor.reset()
        await self._sockets.reset()
        self._router.reset()
        self._log.clear()

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        async def call() -> T:
            return function(*args)

        return self._await(call())

    # Where it is

    @property
    def origin(self) -> str:
        """URL of the HTTP API."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that lead the SDK here."""
        if not self._signing_keys:
            return {"INNGEST_DEV": self.origin}
        return {
            "INNGEST_DEV": "0",
            "INNGEST_BASE_URL": self.origin,
            "INNGEST_SIGNING_KEY": self._signing_keys[0],
            "INNGEST_EVENT_KEY": "local",
        }

    def accept(self, *signing_keys: str) -> None:
        """Take workers that know one of these keys, and no others."""
        self._api.hashed_signing_keys = {_hash(key) for key in signing_keys}

    # What it saw

    @property
    def seen(self) -> list[Seen]:
        """Everything that happened, in order."""
        return list(self._log.entries)

    def received(self, kind: str, connection: Connection | None = None) -> list[Seen]:
        """The frames of one kind, as ``WORKER_HEARTBEAT``, in order of arrival."""
        return [
            seen
            for seen in self.seen
            if seen.event == "received"
            and seen.kind == kind
            and connection in (None, seen.connection)
        ]

    def requests(self, name: str) -> list[Seen]:
        """The HTTP requests to ``start`` or ``flush``, in order."""
        return [seen for seen in self.seen if seen.event == name]

    @property
    def connections(self) -> list[Connection]:
        """Every connection there ever was, the first one first."""
        return list(self._router.connections)

    @property
    def ready_connections(self) -> list[Connection]:
        """Those that requests are sent to."""
        return [each for each in self.connections if each.phase == "ready"]

    @property
    def functions(self) -> dict[str, Function]:
        """The functions that workers registered, by their id."""
        return dict(self._executor.functions)

    @property
    def runs(self) -> list[Run]:
        return list(self._executor.runs)

    @property
    def executions(self) -> Counter[str]:
        """How often each request was acknowledged, by request id; void
        acknowledgements are in :attr:`void_acks`."""
        return Counter(self._router.executions)

    @property
    def void_acks(self) -> list[Seen]:
        """The acknowledgements that came for a request that none was expected of, on
        the connection that they came from: it was given back, or never sent there, or
        acknowledged before. The server throws them away, and so the request may run
        somewhere else as well."""
        return [seen for seen in self.seen if seen.event == "void"]

    @property
    def replies(self) -> dict[str, connect_pb2.SDKResponse]:
        """The first reply to each request, by request id."""
        return dict(self._router.replies)

    def wait_until(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """Wait until something is so, and return what ``predicate`` returned.

        Raises:
            TimeoutError: It was not within ``timeout`` seconds; lists the last
                events.
        """
        return self._log.wait_until(predicate, timeout)

    def wait_for_worker(self, count: int = 1, timeout: float = 10.0) -> Connection:
        """Wait for ``count`` ready connections, and return the newest."""
        self.wait_until(lambda: len(self.ready_connections) >= count, timeout)
        return self.ready_connections[-1]

    def wait_for_run(
        self, event_id: str, timeout: float = 10.0, *, function: str | None = None
    ) -> Run:
        """Wait until a run that an event triggered has ended, and return it.

        Args:
            function: The function's id, with the app in front, where the event
                triggers several; by default the run that ends first.

        Raises:
            TimeoutError: None has within ``timeout`` seconds; lists the last events.
        """

        def ended() -> Run | None:
            for run in self.runs:
                if (
                    run.event["id"] == event_id
                    and run.status != "running"
                    and function in (None, run.function.id)
                ):
                    return run
            return None

        run = self.wait_until(ended, timeout)
        assert run is not None
        return run

    # What it does

    def send(self, name: str, data: dict[str, Any] | None = None) -> str:
        """Send an event, as ``POST /e/{key}`` does, and return its id."""
        event = {"name": name, "data": data or {}}
        return self._call(self._executor.receive, event)

    def run(
        self,
        name: str,
        data: dict[str, Any] | None = None,
        timeout: float = 10.0,
        *,
        function: str | None = None,
    ) -> Run:
        """Send an event, and wait for the run that it triggers.

        See :meth:`wait_for_run`; the run may have failed.
        """
        return self.wait_for_run(self.send(name, data), timeout, function=function)

    @contextlib.contextmanager
    def serving(self, app: ASGIApp | str, timeout: float = 10.0) -> Iterator[None]:
        """Run an app with its worker, in a thread, until the block ends.

        It starts up and shuts down as under a server, but takes no HTTP requests.

        Args:
            app: The app, or where to import it from, as ``"shop.main:app"``.
            timeout: Seconds that its worker has to connect.

        Raises:
            RuntimeError: The app's start-up failed.
            TimeoutError: No worker connected.
        """
        if isinstance(app, str):
            app = pkgutil.resolve_name(app)
        assert not isinstance(app, str)
        before = len(self.connections)
        with lifespan(app):
            try:
                self.wait_until(
                    lambda: any(
                        each.phase == "ready" for each in self.connections[before:]
                    ),
                    timeout,
                )
            except TimeoutError as error:
                raise TimeoutError(
                    "The app's worker did not connect. A client reads the environment "
                    "when it is made: was this one made before INNGEST_DEV was "
                    f"{self.origin}?\n{error}"
                ) from None
            yield
        # The app's side is over; see this one's end as well.
        with contextlib.suppress(TimeoutError):
            self.wait_until(
                lambda: all(
                    each.phase == "closed" for each in self.connections[before:]
                ),
                CLOSE_TIMEOUT,
            )

    def request(
        self,
        function: str,
        payload: dict[str, Any] | bytes | None = None,
        *,
        app: str | None = None,
        request_id: str | None = None,
        job_id: str | None = None,
        run_id: str | None = None,
        step_id: str = "step",
        connection: Connection | None = None,
    ) -> Delivery:
        """Send one request to a ready connection, with no executor behind it.

        Args:
            function: The function's id, with the app in front.
            payload: The body of a call request; by default a sound one.
            app: The app to name; by default the one before the first hyphen.
            request_id: To send a request again, under a lease of its own; by default
                a new one.
            job_id: By default a new one. To send the same attempt of a job again takes
                the same job, run, step and payload.
            run_id: By default a new one.
            connection: Where to send it; by default the newest ready connection.
        """
        if payload is None:
            payload = call_request()
        if not isinstance(payload, bytes):
            payload = json.dumps(payload).encode()
        request = build_request(
            app=app if app is not None else function.partition("-")[0],
            function=function,
            payload=payload,
            request_id=request_id,
            job_id=job_id,
            run_id=run_id,
            step_id=step_id,
        )
        target = connection or self.ready_connections[-1]
        return self._await(self._forward(request, target))

    async def _forward(
        self, request: connect_pb2.GatewayExecutorRequestData, connection: Connection
    ) -> Delivery:
        known = self._router.deliveries.get(request.request_id)
        delivery = known or self._router.track(request, has_executor=False)
        await self._router.send(delivery, connection)
        return delivery

    def forward(self, delivery: Delivery, connection: Connection | None = None) -> None:
        """Send a request again under the lease that it has.

        As the executor does where no acknowledgement has come, and the gateway has
        given the request back.
        """
        target = connection or self.ready_connections[-1]
        self._await(self._router.write(delivery, target))

    def restart_executor(self, leases: Leases = "lost") -> None:
        """Have the executor forget what it waits for, and send it anew.

        Every attempt that is under way is sent again with the same job id, under a new
        request id, or the same one where a job has only one. What comes back for the
        first request is taken, and helps nobody.

        Args:
            leases: ``lost`` with everything that was known about requests, as by a
                server that keeps it in memory; ``kept``, for workers to go on
                extending them; or ``over`` before anything is sent again.
        """
        self._call(self._router.restart_executor, leases)

    def drain(self, connection: Connection | None = None) -> None:
        """Send GATEWAY_CLOSING, and close after ``drain_timeout``."""
        for each in self._targets(connection):
            self._await(self._sockets.drain(each))

    def drop(self, connection: Connection | None = None) -> None:
        """Break the TCP connection, without a close frame."""
        for each in self._targets(connection):
            self._call(each.socket.transport.abort)

    def close(
        self, code: int, reason: str = "", connection: Connection | None = None
    ) -> None:
        """Close the WebSocket."""
        for each in self._targets(connection):
            self._await(each.socket.close(code, reason))

    def freeze(self, connection: Connection | None = None) -> None:
        """Read no more, and write nothing either, but stay connected."""
        for each in self._targets(connection):
            each.faults.mute = each.faults.ignore = set(connect_pb2.Kind.keys())
            self._call(each.socket.transport.pause_reading)

    def stop_reading(self, connection: Connection | None = None) -> None:
        """Read no more, but go on writing: the worker's writes come to a halt."""
        for each in self._targets(connection):
            self._call(each.socket.transport.pause_reading)

    def send_raw(
        self, *frames: bytes | str, connection: Connection | None = None
    ) -> None:
        """Send WebSocket messages as they stand, text or binary."""
        for each in self._targets(connection):
            for frame in frames:
                self._await(each.send_raw(frame))

    def expire_leases(self) -> None:
        """Delete every lease: the next extension is refused."""
        self._call(self._router.delete_leases)

    def api_down(self) -> None:
        """Stop listening on the API's port."""
        self._await(self._api.stop())

    def api_up(self) -> None:
        """Listen on it again."""
        self._await(self._api.start(listen("127.0.0.1", self.api_port)))

    def gateway_down(self) -> None:
        """Break every connection, and stop listening on the gateway's port."""
        self._await(self._sockets.stop())

    def gateway_up(self) -> None:
        """Listen on it again."""
        self._await(self._sockets.start(listen("127.0.0.1", self.gateway_port)))

    def _targets(self, connection: Connection | None) -> list[Connection]:
        return [connection] if connection is not None else self._sockets.open()


def _hash(signing_key: str) -> str:
    prefix, hyphen, secret = signing_key.rpartition("-")
    return prefix + hyphen + hashlib.sha256(bytes.fromhex(secret)).hexdigest()


def call_request(
    run_id: str = "run", data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The body of a call request, for an event with this ``data``."""
    event = {"name": "test", "data": data or {}, "id": "event", "ts": 1}
    return {
        "ctx": {
            "attempt": 0,
            "disable_immediate_execution": False,
            "run_id": run_id,
            "stack": {"stack": [], "current": 0},
        },
        "event": event,
        "events": [event],
        "steps": {},
        "use_api": False,
    }
