"""The core and a server of few words, in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from inngest_connect_asgi.configuration import App, Configuration
from inngest_connect_asgi.messages import (
    Accepted,
    Delivered,
    Delivery,
    Extended,
    FromRuntime,
    Lease,
    Log,
    Outcome,
    Ping,
    Request,
    Result,
    Start,
    Undelivered,
    Wanted,
    Withdrawn,
)
from inngest_connect_asgi.protocol.actions import (
    Abort,
    Action,
    Close,
    Finish,
    Flush,
    Open,
    Send,
    SendReply,
    StartLink,
    Tell,
)
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import State

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
        delivery=Delivery(request_id, lease_id),
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


def frame(kind: int, payload: bytes = b"") -> bytes:
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
        settled: Sequence[Delivery] = (),
        state: State | None = None,
        **options: object,
    ) -> None:
        self.now = 0.0
        configured = configuration(**options)
        self.core = Core(configured, rng=random.Random(1))
        self.starts: dict[int, StartLink] = {}
        self.opening: dict[int, Open] = {}
        self.queued: dict[int, list[Send | SendReply]] = {}
        self.closing: dict[int, Close] = {}
        self.flushes: dict[str, Flush] = {}
        self.wire: list[tuple[int, wire.ConnectMessage]] = []
        self.told: list[FromRuntime] = []
        self.offered = {lease.delivery for lease in offered}
        self.requested: Counter[str] = Counter()
        self.running = {lease.delivery: lease for lease in requests}
        """Of the requests that the app has, the newest by their id."""
        self.results = {result.lease.delivery: result for result in results}
        """What the app keeps until it is delivered."""
        self.pings: list[int] = []
        self.wanted: list[Delivery] = []
        self.finished = 0
        start = Start(
            configured,
            tuple(requests),
            tuple(offered),
            tuple(Undelivered(r.lease, len(r.outcome.body)) for r in results),
            tuple(settled),
            state,
        )
        self.do(self.core.start(start, self.now))

    def do(self, actions: list[Action]) -> None:
        self.carry_out(actions)
        # The app has what it is asked for, and sends it.
        while self.wanted:
            result = self.results[self.wanted.pop(0)]
            self.carry_out(self.core.result(result, self.now))

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.finished, f"after the end: {action}"
            if isinstance(action, StartLink):
                self.starts[action.link] = action
            elif isinstance(action, Open):
                self.opening[action.link] = action
            elif isinstance(action, Send | SendReply):
                self.queued[action.link].append(action)
            elif isinstance(action, Close):
                self.closing[action.link] = action
            elif isinstance(action, Abort):
                self.forget(action.link)
            elif isinstance(action, Flush):
                request_id = action.delivery.request_id
                assert request_id not in self.flushes
                self.flushes[request_id] = action
            elif isinstance(action, Finish):
                self.finished += 1
            elif isinstance(action, Tell):
                self.told.append(action.message)
                self.tell(action.message)

    def tell(self, message: FromRuntime) -> None:
        """What an app does at once."""
        if isinstance(message, Request):
            assert message.lease.delivery not in self.offered
            self.offered.add(message.lease.delivery)
            self.running[message.lease.delivery] = message.lease
        elif isinstance(message, Accepted):
            self.offered.remove(message.delivery)
            self.requested[message.delivery.request_id] += 1
        elif isinstance(message, Extended):
            # Of what the app does not run yet it would not keep the id.
            assert message.delivery not in self.offered
        elif isinstance(message, Withdrawn):
            self.offered.remove(message.delivery)
        elif isinstance(message, Delivered):
            self.results.pop(message.delivery, None)
        elif isinstance(message, Wanted):
            self.wanted.append(message.delivery)
        elif isinstance(message, Ping):
            self.pings.append(message.number)

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
        return [m.delivery.request_id for m in self.told if isinstance(m, Delivered)]

    def sent(self, kind: int) -> list[bytes]:
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

    def receive(self, link: int, kind: int, payload: bytes = b"") -> None:
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
        self.receive(link, wire.GATEWAY_HEARTBEAT)
        return link

    def write(self, link: int) -> None:
        """Put on the wire what is queued for a link."""
        while queued := self.queued.get(link):
            send = queued.pop(0)
            if not self.core.wants(send):
                continue
            self.wire.append((link, wire.ConnectMessage.FromString(send.data)))
            if send.delivery is not None:
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

    def result(
        self, request_id: str, outcome: Outcome = DONE, *, lease_id: str = "lease-0"
    ) -> None:
        """The function ends that runs for a request, as it came with a lease."""
        delivery = Delivery(request_id, lease_id)
        ended = self.running.get(delivery, lease(request_id, lease_id))
        result = self.results[delivery] = Result(ended, outcome)
        self.do(self.core.result(result, self.now))

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
        delivery = self.flushes.pop(request_id).delivery
        if body is None:
            body = wire.FlushResponse(request_id=request_id).SerializeToString()
        self.do(self.core.flush_answered(delivery, status, body, self.now))

    def pong(self) -> None:
        """Answer every ping, as an app that is not busy does."""
        while self.pings:
            self.do(self.core.pong(self.pings.pop(0), self.now))

    def drain(self, timeout: float = 25.0) -> None:
        self.do(self.core.drain(timeout, self.now))
