"""The core against a server that does anything at any time."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from inngest_connect_asgi.messages import Delivery, Log, Outcome
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation, lease

KINDS = st.sampled_from([*list(wire.Kind), 99])
MAX_REQUESTS = 4


def connected(worker: Worker) -> bool:
    return bool(worker.sim.queued)


def alive(worker: Worker) -> bool:
    return not worker.sim.finished


class Worker(RuleBasedStateMachine):
    """What the server and the app may do, and what must hold whatever they do."""

    @initialize(
        stall_timeout=st.sampled_from([None, 2.0]),
        keys=st.sampled_from([(None, None), ("one", None), ("one", "two")]),
        requests=st.integers(0, MAX_REQUESTS),
        offered=st.integers(0, MAX_REQUESTS),
    )
    def begin(
        self,
        stall_timeout: float | None,
        keys: tuple[str | None, str | None],
        requests: int,
        offered: int,
    ) -> None:
        self.sim = Simulation(
            offered=[lease(f"r{number}") for number in range(offered)],
            stall_timeout=stall_timeout,
            signing_key=keys[0],
            signing_key_fallback=keys[1],
        )
        self.steps = 0
        self.replied: set[str] = set()
        self.given: set[str] = set()
        """Requests whose reply the server has, by whichever way."""
        if requests:
            link = self.sim.connect(status="3s")
            for number in range(requests):
                self.sim.request(link, f"r{number}")
            self.sim.write(link)

    # The network and the server.

    def links(self) -> list[int]:
        return list(self.sim.queued)

    def link(self, which: int) -> int:
        return self.links()[which % len(self.sim.queued)]

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 2.0, 5.0, 11.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        if not self.sim.finished:
            self.sim.advance(seconds)

    @precondition(lambda self: self.sim.starts)
    @rule(
        status=st.sampled_from([200, 200, 200, 200, 401, 429, 500, 0]),
        group=st.sampled_from(["one", "two"]),
    )
    def start_is_answered(self, status: int, group: str) -> None:
        if status:
            self.sim.start_answer(status, group=group)
        else:
            self.sim.lose(next(iter(self.sim.starts)), "unreachable")

    @precondition(lambda self: self.sim.opening)
    @rule(opens=st.sampled_from([True, True, True, False]))
    def socket_is_answered(self, opens: bool) -> None:
        if opens:
            self.sim.open()
        else:
            self.sim.lose(next(iter(self.sim.opening)), "refused")

    @precondition(connected)
    @rule()
    def handshake_goes_on(self) -> None:
        for link in self.links():
            if link not in self.sim.closing:
                self.sim.receive(link, wire.GATEWAY_HELLO)
                self.write_all()
                if link in self.sim.queued:
                    self.sim.ready(link, status="3s")

    @precondition(lambda self: self.sim.core.links.live is None and alive(self))
    @rule()
    def a_connection_is_made(self) -> None:
        """All of the above at once, or the rest would rarely find a connection."""
        self.sim.advance(1.0)
        if self.sim.starts:
            self.sim.connect()

    @precondition(connected)
    @rule()
    def frames_are_written(self) -> None:
        self.write_all()

    def write_all(self) -> None:
        for link in self.links():
            self.sim.write(link)

    @precondition(connected)
    @rule(
        which=st.integers(0, 3),
        number=st.integers(0, MAX_REQUESTS),
        app=st.sampled_from(["app", "app", "app", "unknown"]),
    )
    def request_comes(self, which: int, number: int, app: str) -> None:
        name = f"r{number}" if app == "app" else f"u{number}"
        self.sim.request(self.link(which), name, app)

    @precondition(lambda self: self.sim.core.links.live)
    @rule(number=st.integers(0, MAX_REQUESTS))
    def request_is_taken(self, number: int) -> None:
        assert self.sim.core.links.live is not None
        self.sim.request(self.sim.core.links.live.id, f"r{number}")
        self.write_all()

    @precondition(connected)
    @rule(lost=st.booleans())
    def replies_are_acked(self, lost: bool) -> None:
        for link, message in list(self.sim.wire):
            if message.kind == wire.WORKER_REPLY and link in self.sim.queued:
                reply = wire.SDKResponse.FromString(message.payload)
                self.given.add(reply.request_id)
                if not lost:
                    self.sim.ack(link, reply.request_id)

    @precondition(connected)
    @rule(number=st.integers(0, MAX_REQUESTS), granted=st.booleans())
    def lease_is_answered(self, number: int, granted: bool) -> None:
        for link in self.links()[:1]:
            self.sim.extended(link, f"r{number}", "lease-2" if granted else None)

    @precondition(connected)
    @rule()
    def heartbeats_are_answered(self) -> None:
        for link in self.links():
            self.sim.receive(link, wire.GATEWAY_HEARTBEAT)

    @precondition(connected)
    @rule(
        which=st.integers(0, 3),
        reason=st.sampled_from(
            ["", "connect_gateway_closing", "connect_authentication_failed"]
        ),
    )
    def connection_is_lost(self, which: int, reason: str) -> None:
        self.sim.lose(self.link(which), reason)

    @precondition(connected)
    @rule(which=st.integers(0, 3))
    def gateway_closes(self, which: int) -> None:
        self.sim.receive(self.link(which), wire.GATEWAY_CLOSING)

    @precondition(connected)
    @rule(which=st.integers(0, 3), kind=KINDS, payload=st.binary(max_size=12))
    def nonsense_comes(self, which: int, kind: int, payload: bytes) -> None:
        # Not an ack: it could guess a request id.
        if kind != wire.WORKER_REPLY_ACK:
            self.sim.receive(self.link(which), kind, payload)

    @precondition(connected)
    @rule(which=st.integers(0, 3), data=st.one_of(st.text(), st.binary(max_size=12)))
    def garbage_comes(self, which: int, data: str | bytes) -> None:
        link = self.link(which)
        self.sim.do(self.sim.core.received(link, data, self.sim.now))

    @precondition(lambda self: self.sim.flushes)
    @rule(status=st.sampled_from([200, 200, 401, 500, 400]))
    def flush_is_answered(self, status: int) -> None:
        request_id = next(iter(self.sim.flushes))
        if status == 200:
            self.given.add(request_id)
        self.sim.flush_answer(request_id, status)

    # The app.

    def running(self) -> list[str]:
        return [each for each in self.sim.requested if each not in self.replied]

    @precondition(lambda self: self.running() and alive(self))
    @rule(which=st.integers(0, MAX_REQUESTS), status=st.sampled_from([200, 206, 500]))
    def function_ends(self, which: int, status: int) -> None:
        running = self.running()
        request_id = running[which % len(running)]
        self.replied.add(request_id)
        self.sim.result(request_id, Outcome(status, b"{}"))

    @precondition(lambda self: self.sim.pings and alive(self))
    @rule()
    def app_answers(self) -> None:
        self.sim.pong()

    @precondition(lambda self: self.steps > 20 and alive(self))
    @rule(timeout=st.sampled_from([1.0, 30.0]))
    def app_shuts_down(self, timeout: float) -> None:
        self.sim.drain(timeout)

    # What must hold.

    @invariant()
    def nothing_runs_twice_or_before_its_ack(self) -> None:
        assert set(self.sim.requested.values()) <= {1}
        acks = {
            wire.WorkerRequestAckData.FromString(message.payload).request_id
            for _, message in self.sim.wire
            if message.kind == wire.WORKER_REQUEST_ACK
        }
        assert set(self.sim.requested) <= acks

    @invariant()
    def what_was_offered_is_kept_until_it_is_decided(self) -> None:
        core = self.sim.core
        undecided: set[Delivery] = set()
        for link in core.links:
            undecided |= set(link.unsent_acks)
        assert self.sim.offered <= undecided

    @invariant()
    def every_reply_is_delivered_or_kept_or_given_up(self) -> None:
        core = self.sim.core
        kept = {reply.lease.request_id for reply in core.replies}
        delivered = set(self.sim.delivered)
        lost = self.replied - kept - delivered
        if not self.sim.finished and not core.parts.stopping:
            assert not lost
        said = sum("Gave up a reply" in text for text in self.sim.logs)
        assert said == core.replies.given_up
        assert delivered - self.given <= {
            message.extra["request_id"]
            for message in self.sim.told
            if isinstance(message, Log) and "Gave up a reply" in message.message
        }

    @invariant()
    def one_attempt_at_a_time(self) -> None:
        assert len(self.sim.starts) + len(self.sim.opening) <= 1

    @invariant()
    def time_is_never_behind(self) -> None:
        """What is due now must go away when it is done."""
        self.steps += 1
        if not self.sim.finished:
            self.sim.advance(0.0)

    @invariant()
    def never_away_for_long(self) -> None:
        """A worker without a connection is trying, or soon will."""
        sim = self.sim
        if sim.finished or sim.core.links.live is not None or sim.core.parts.stopping:
            return
        due = sim.core.next_tick()
        trying = sim.starts or sim.opening or sim.queued
        assert trying or (due is not None and due - sim.now <= 27.0)

    def teardown(self) -> None:
        """The server comes back from a restart, and the app shuts down."""
        sim = self.sim
        logged: int | None = None
        if not sim.core.parts.stopping:
            sim.pong()
            for link in [*sim.starts, *sim.opening, *self.links()]:
                sim.lose(link)
            while not sim.starts:
                sim.advance(1.0)
            sim.connect()
            assert sim.state.connection == "ready"
            sim.drain(30.0)
            logged = len(sim.logs)
        rounds = 0
        while not sim.finished:
            self.write_all()
            self.replies_are_acked(False)
            while sim.flushes:
                self.flush_is_answered(200)
            for link in list(sim.closing):
                sim.lose(link)
            for request_id in self.running():
                self.replied.add(request_id)
                sim.result(request_id)
            sim.advance(0.5)
            rounds += 1
            assert rounds < 80
        assert sim.state.connection == "stopped"
        assert not {*sim.starts, *sim.opening, *sim.queued}
        assert sim.core.next_tick() is None
        assert not sim.offered
        if logged is not None:
            # There was time enough, so nothing may have been given up.
            assert not sim.logs[logged:]


Worker.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    # The same examples everywhere; to search for more, say otherwise here.
    derandomize=True,
)
TestWorker = Worker.TestCase
