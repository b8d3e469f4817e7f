"""The core and a server of few words, in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from inngest_connect_asgi.actions import (
    Abort,
    Action,
    Close,
    Finish,
    Flush,
    Open,
    Send,
    StartLink,
    Tell,
)
from inngest_connect_asgi.core import Core
from inngest_connect_asgi.messages import (
    Accepted,
    App,
    Configuration,
    Delivered,
    Extended,
    FromRuntime,
    Lease,
    Log,
    Outcome,
    Ping,
    Request,
    Result,
    State,
    Withdrawn,
)
from inngest_connect_asgi.wire import connect_pb2 as wire

__all__ = ["DONE", "Simulation", "configuration", "frame", "lease"]

DONE = Outcome(200, b'"done"')


def configuration(**options: object) -> Configuration:
    defaults: dict[str, object] = {
        "apps": (App("app", None, b"[]"),),
        "api_origin": "http://api.test",
        "instance_id": "instance",
        "sdk_version": "1",
    }
    return Configuration(**(defaults | options))  # type: ignore[arg-type]


def lease(request_id: str, lease_id: str = "lease-0") -> Lease:
    return Lease(
        request_id=request_id,
        lease_id=lease_id,
        account_id="account",
        env_id="env",
        app_id="app-id",
        function_slug="app-f",
        step_id=None,
        run_id="run",
        system_trace_ctx=b"{}",
        user_trace_ctx=b"{}",
    )


def frame(kind: wire.Kind.ValueType, payload: bytes = b"") -> bytes:
    return wire.ConnectMessage(kind=kind, payload=payload).SerializeToString()


class Simulation:
    """Carries out the core's actions, and keeps what it said and sent.

    Frames stay in ``queued`` until :meth:`write` puts them on the wire, as in a
    socket whose peer is slow.
    """

    def __init__(
        self,
        *,
        requests: Sequence[Lease] = (),
        offered: Sequence[Lease] = (),
        results: Sequence[Result] = (),
        settled: Sequence[str] = (),
        state: State | None = None,
        **options: object,
    ) -> None:
        self.now = 0.0
        self.core = Core(configuration(**options), rng=random.Random(1))
        self.starts: dict[int, StartLink] = {}
        self.opening: dict[int, Open] = {}
        self.queued: dict[int, list[Send]] = {}
        self.closing: dict[int, Close] = {}
        self.flushes: dict[str, Flush] = {}
        self.wire: list[tuple[int, wire.ConnectMessage]] = []
        self.told: list[FromRuntime] = []
        self.offered = {lease.request_id for lease in offered}
        self.requested: Counter[str] = Counter()
        self.pings: list[int] = []
        self.finished = 0
        self.do(self.core.start(self.now, requests, offered, results, settled, state))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.finished, f"after the end: {action}"
            if isinstance(action, StartLink):
                self.starts[action.link] = action
            elif isinstance(action, Open):
                self.opening[action.link] = action
            elif isinstance(action, Send):
                self.queued[action.link].append(action)
            elif isinstance(action, Close):
                self.closing[action.link] = action
            elif isinstance(action, Abort):
                self.forget(action.link)
            elif isinstance(action, Flush):
                assert action.request_id not in self.flushes
                self.flushes[action.request_id] = action
            elif isinstance(action, Finish):
                self.finished += 1
            elif isinstance(action, Tell):
                self.told.append(action.message)
                if isinstance(action.message, Request):
                    assert action.message.lease.request_id not in self.offered
                    self.offered.add(action.message.lease.request_id)
                elif isinstance(action.message, Accepted):
                    self.offered.remove(action.message.request_id)
                    self.requested[action.message.request_id] += 1
                elif isinstance(action.message, Extended):
                    # Of what the app does not run yet it would not keep the id.
                    assert action.message.request_id not in self.offered
                elif isinstance(action.message, Withdrawn):
                    self.offered.remove(action.message.request_id)
                elif isinstance(action.message, Ping):
                    self.pings.append(action.message.number)

    def forget(self, link: int) -> None:
        for each in (self.starts, self.opening, self.queued, self.closing):
            each.pop(link, None)

    # What has happened.

    @property
    def state(self) -> State:
        return next(m for m in reversed(self.told) if isinstance(m, State))

    @property
    def logs(self) -> list[str]:
        return [m.message for m in self.told if isinstance(m, Log)]

    @property
    def delivered(self) -> list[str]:
        return [m.request_id for m in self.told if isinstance(m, Delivered)]

    def sent(self, kind: wire.Kind.ValueType) -> list[bytes]:
        """The payloads of the frames of one kind on the wire."""
        return [message.payload for _, message in self.wire if message.kind == kind]

    # What happens.

    def advance(self, seconds: float) -> None:
        """Let time pass, with every tick that falls in it."""
        end = self.now + seconds
        ticks = 0
        while (due := self.core.next_tick()) is not None and due <= end:
            self.now = max(self.now, due)
            self.do(self.core.tick(self.now))
            after = self.core.next_tick()
            assert after is None or after > self.now, "it spins"
            ticks += 1
            assert ticks < 100_000
        self.now = end

    def start_answer(
        self, status: int = 200, *, group: str = "group", body: bytes | None = None
    ) -> int:
        """Answer the oldest start call; returns its link."""
        link = next(iter(self.starts))
        del self.starts[link]
        if body is None:
            body = wire.StartResponse(
                connection_id=f"connection-{link}",
                gateway_endpoint="ws://gateway.test",
                gateway_group=group,
            ).SerializeToString()
        self.do(self.core.start_answered(link, status, body, self.now))
        return link

    def open(self) -> int:
        link = next(iter(self.opening))
        del self.opening[link]
        self.queued[link] = []
        self.do(self.core.opened(link, self.now))
        return link

    def receive(
        self, link: int, kind: wire.Kind.ValueType, payload: bytes = b""
    ) -> None:
        self.do(self.core.received(link, frame(kind, payload), self.now))

    def ready(
        self, link: int, *, heartbeat: str = "10s", extend: str = "5s", status: str = ""
    ) -> None:
        data = wire.GatewayConnectionReadyData(
            heartbeat_interval=heartbeat,
            extend_lease_interval=extend,
            status_interval=status,
        )
        payload = data.SerializeToString()
        self.receive(link, wire.GATEWAY_CONNECTION_READY, payload)

    def connect(self, **intervals: str) -> int:
        """From the start call that waits to a live connection."""
        self.start_answer()
        link = self.open()
        self.receive(link, wire.GATEWAY_HELLO)
        self.write(link)
        self.ready(link, **intervals)
        self.write(link)
        return link

    def write(self, link: int) -> None:
        """Put on the wire what is queued for a link."""
        while queued := self.queued.get(link):
            send = queued.pop(0)
            self.wire.append((link, wire.ConnectMessage.FromString(send.data)))
            if send.request_id is not None:
                self.do(self.core.sent(send, self.now))

    def request(
        self,
        link: int,
        request_id: str,
        app: str = "app",
        lease_id: str = "lease-0",
    ) -> None:
        data = wire.GatewayExecutorRequestData(
            request_id=request_id,
            lease_id=lease_id,
            app_name=app,
            function_slug="app-f",
            system_trace_ctx=b"{}",
        )
        self.receive(link, wire.GATEWAY_EXECUTOR_REQUEST, data.SerializeToString())

    def result(self, request_id: str, outcome: Outcome = DONE) -> None:
        self.do(self.core.result(Result(lease(request_id), outcome), self.now))

    def ack(self, link: int, request_id: str) -> None:
        data = wire.WorkerReplyAckData(request_id=request_id)
        self.receive(link, wire.WORKER_REPLY_ACK, data.SerializeToString())

    def extended(self, link: int, request_id: str, lease_id: str | None) -> None:
        data = wire.WorkerRequestExtendLeaseAckData(
            request_id=request_id, new_lease_id=lease_id
        )
        kind = wire.WORKER_REQUEST_EXTEND_LEASE_ACK
        self.receive(link, kind, data.SerializeToString())

    def lose(self, link: int, reason: str = "the connection broke") -> None:
        self.forget(link)
        self.do(self.core.lost(link, reason, self.now))

    def flush_answer(
        self, request_id: str, status: int = 200, body: bytes | None = None
    ) -> None:
        del self.flushes[request_id]
        if body is None:
            body = wire.FlushResponse(request_id=request_id).SerializeToString()
        self.do(self.core.flush_answered(request_id, status, body, self.now))

    def pong(self) -> None:
        """Answer every ping, as an app that is not busy does."""
        while self.pings:
            self.do(self.core.pong(self.pings.pop(0), self.now))

    def drain(self, timeout: float = 25.0) -> None:
        self.do(self.core.drain(timeout, self.now))
