"""What the core orders, and what it passes by."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Delivered, Delivery, Result, State
from inngest_connect_asgi.protocol.actions import Finish, Tell
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from ..simulation import DONE, Simulation, frame, lease
from .twice import FIRST, SECOND, take

NOBODY = 99


def test_what_comes_for_a_link_that_is_no_more_is_nothing() -> None:
    sim = Simulation()
    sim.connect()
    core, now = sim.core, sim.now
    assert core.start_answered(NOBODY, 200, b"", now) == []
    assert core.opened(NOBODY, now) == []
    assert core.received(NOBODY, frame(wire.GATEWAY_HEARTBEAT), now) == []
    assert core.lost(NOBODY, "the connection broke", now) == []
    assert core.links.live is not None


def test_an_answer_that_comes_twice_counts_once() -> None:
    sim = Simulation()
    link = sim.connect()
    assert sim.core.start_answered(link, 500, b"", sim.now) == []
    assert sim.core.opened(link, sim.now) == []
    assert sim.core.links.live is not None


def test_the_state_comes_last_but_for_the_end() -> None:
    sim = Simulation()
    link = sim.connect()
    actions = sim.core.lost(link, "the connection broke", sim.now)
    assert isinstance(actions[-1], Tell)
    assert isinstance(actions[-1].message, State)
    sim = Simulation()
    sim.connect()
    sim.core.drain(5.0, sim.now)
    link = next(iter(sim.queued))
    actions = sim.core.lost(link, "closed", sim.now)
    assert isinstance(actions[-1], Finish)
    assert isinstance(actions[-2], Tell)
    assert isinstance(actions[-2].message, State)
    assert actions[-2].message.connection == "stopped"
    # Whatever comes in the same turn.
    assert sim.core.tick(sim.now) == []
    assert sim.core.next_tick() is None
    assert sim.core.result(Result(lease("late"), DONE), sim.now) == []


def test_a_result_of_what_is_over_is_not_sent() -> None:
    sim = Simulation(settled=[Delivery("job", "lease-0")])
    link = sim.connect()
    sim.result("job")
    assert sim.told.count(Delivered(Delivery("job", "lease-0"))) == 1
    assert not sim.queued[link]


def test_a_result_of_what_was_sent_anew_is_dropped() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    take(sim, link, SECOND)
    sim.result("job", lease_id="lease-1")
    assert Delivered(FIRST) in sim.told
    assert not sim.queued[link]
    sim.result("job", lease_id="lease-2")
    assert len(sim.queued[link]) == 1


def test_a_result_that_is_asked_for_again_is_flushed() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    sim.lose(link)
    assert list(sim.flushes) == ["job"]
    sim.flush_answer("job")
    assert sim.delivered == ["job"]


@pytest.mark.parametrize("data", [b"\xff\xff\xff", "text"])
def test_what_is_no_frame_is_counted_or_ends_the_attempt(data: bytes | str) -> None:
    sim = Simulation()
    link = sim.connect()
    sim.do(sim.core.received(link, data, sim.now))
    sim.advance(1)
    assert sim.state.malformed == 1
    other = Simulation()
    other.start_answer()
    link = other.open()
    other.do(other.core.received(link, data, other.now))
    assert link not in other.queued
    assert "in the handshake" in str(other.state.last_error)


def test_what_a_link_that_closes_says_is_heard_only_where_it_answers() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    sim.write(link)
    sim.drain(30.0)
    live = sim.core.links.get(link)
    assert live is not None
    sim.core.links.close(live, sim.now)
    sim.request(link, "late")
    sim.ack(link, "job")
    sim.extended(link, "job", "lease-1")
    assert sim.delivered == ["job"]
    assert "late" not in sim.requested


def test_every_kind_of_frame_finds_its_part() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.advance(5)
    sim.write(link)
    sim.extended(link, "job", "lease-1")
    assert sim.core.leases.extended == 1
    sim.receive(link, wire.WORKER_STATUS)
    assert "Ignored an unexpected WORKER_STATUS from the gateway" in sim.logs
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.receive(link, wire.GATEWAY_CLOSING)
    assert sim.state.connection == "draining"


def test_a_frame_that_has_waited_is_written_if_it_is_still_wanted() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "other")
    (ack,) = sim.queued[link]
    assert sim.core.wants(ack)
    sim.lose(link)
    assert not sim.core.wants(ack)
    assert sim.core.sent(ack, sim.now) == []
    sim.advance(10)
    link = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    (reply,) = sim.queued[link]
    assert sim.core.wants(reply)
    sim.queued[link] = []
    take(sim, link, SECOND)
    assert not sim.core.wants(reply)


def test_an_app_that_answers_again_gets_requests_unless_the_worker_stops() -> None:
    for stops in (False, True):
        sim = Simulation(stall_timeout=2.0)
        link = sim.connect(heartbeat="1h")
        sim.request(link, "job")
        sim.write(link)
        sim.advance(3)
        assert sim.state.paused
        if stops:
            sim.drain(30.0)
        sim.pong()
        assert bool(sim.starts) != stops


def test_a_runtime_that_is_late_tells_of_it() -> None:
    sim = Simulation()
    sim.connect()
    told = len(sim.told)
    sim.do(sim.core.late(0.1, sim.now))
    assert len(sim.told) == told
    sim.do(sim.core.late(3.0, sim.now))
    assert len(sim.told) > told
