"""What the core makes of a request id that comes under a new lease while the reply to
the one before is under way, and of what comes when all is over."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import (
    Delivered,
    Delivery,
    Outcome,
    Result,
    Stalled,
    Wanted,
)
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from .simulation import DONE, Simulation, lease

MEBIBYTE = 1024 * 1024
FIRST, SECOND = Delivery("job", "lease-1"), Delivery("job", "lease-2")


def take(sim: Simulation, link: int, delivery: Delivery) -> None:
    sim.request(link, delivery.request_id, lease_id=delivery.lease_id)
    sim.write(link)


def replies(sim: Simulation) -> list[bytes]:
    return [
        wire.SDKResponse.FromString(payload).body
        for payload in sim.sent(wire.WORKER_REPLY)
    ]


# Whose reply is it


@pytest.mark.parametrize("same_link", [True, False])
def test_an_ack_is_about_what_was_written_first_on_its_link(same_link: bool) -> None:
    sim = Simulation()
    link = newer = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    if not same_link:
        sim.advance(1.0)
        sim.receive(link, wire.GATEWAY_CLOSING)
        sim.advance(0.3)
        newer = sim.connect()
    take(sim, newer, SECOND)
    sim.result("job", lease_id="lease-2")
    sim.write(newer)
    sim.ack(link, "job")
    assert Delivered(SECOND) not in sim.told
    assert sim.core.replies.get(SECOND)
    sim.ack(newer, "job")
    assert Delivered(SECOND) in sim.told


def test_an_ack_that_comes_after_its_reply_was_flushed_is_about_no_other() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    sim.advance(5)
    sim.flush_answer("job")
    take(sim, link, SECOND)
    sim.result("job", lease_id="lease-2")
    sim.write(link)
    sim.ack(link, "job")
    assert Delivered(SECOND) not in sim.told


def test_a_reply_that_waits_is_not_written_behind_the_ack_of_a_newer_delivery() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", Outcome(200, b"1"), lease_id="lease-1")
    waiting, sim.queued[link] = sim.queued[link], []
    take(sim, link, SECOND)
    sim.queued[link] = waiting
    sim.write(link)
    assert not replies(sim)
    sim.result("job", Outcome(200, b"2"), lease_id="lease-2")
    sim.write(link)
    assert replies(sim) == [b"2"]
    assert sim.core.links.live is not None
    assert sim.core.links.live.queued == 0


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_reply_that_is_superseded_leaves_its_room_to_others(is_asked: bool) -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    take(sim, link, FIRST)
    big = Outcome(200, b"x" * 12 * MEBIBYTE)
    if is_asked:
        sim.result("other", big)
    sim.result("job", big, lease_id="lease-1")
    if is_asked:
        # The app is asked for it, and takes its time.
        (action,) = sim.queued[link]
        sim.queued[link] = []
        asked = sim.core.sent(action, sim.now)
        assert any(getattr(each, "message", None) == Wanted(FIRST) for each in asked)
        sim.ack(link, "other")
    else:
        sim.queued[link] = []
    sim.result("last", big)
    assert not sim.queued[link]
    take(sim, link, SECOND)
    assert [body == big.body for body in replies(sim)] == [True]
    assert sim.core.links.live is not None
    assert sim.core.links.live.queued == 0


# After a crash


def test_a_reply_outlives_a_crash_though_an_older_delivery_still_runs() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation(requests=[older], results=[Result(newer, DONE)])
    assert Delivered(SECOND) not in sim.told
    assert list(sim.flushes) == ["job"]
    link = sim.connect()
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    assert not replies(sim)
    assert Delivered(FIRST) in sim.told


def test_of_two_replies_that_outlive_a_crash_the_newer_counts() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation(results=[Result(newer, DONE), Result(older, DONE)])
    assert Delivered(FIRST) in sim.told
    assert [flush.delivery for flush in sim.flushes.values()] == [SECOND]


def test_no_lease_is_held_for_what_is_older_than_a_reply_that_was_delivered() -> None:
    older = lease("job", "lease-1")
    sim = Simulation(requests=[older], settled=[SECOND])
    link = sim.connect()
    sim.advance(0.001)
    sim.write(link)
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    assert not replies(sim)


def test_what_is_older_than_the_request_that_runs_after_a_crash_is_dropped() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation(requests=[newer], results=[Result(older, DONE)])
    assert Delivered(FIRST) in sim.told
    assert not sim.flushes
    link = sim.connect()
    sim.result("job", lease_id="lease-2")
    sim.write(link)
    assert len(replies(sim)) == 1


# Too late


def test_a_result_that_comes_when_the_time_is_up_holds_nothing_up() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    sim.drain(1.0)
    sim.advance(1.0)
    assert link in sim.closing
    sim.result("job", lease_id="lease-1")
    # There is still time to try.
    assert "job" in sim.flushes
    sim.advance(2.0)
    assert sim.finished
    assert sim.state.connection == "stopped"
    assert any("the worker had to shut down" in text for text in sim.logs)


def test_a_result_that_was_asked_for_when_the_time_is_up_is_not_counted_twice() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    sim.lose(link)
    sim.result("job", lease_id="lease-1")
    sim.drain(1.0)
    sim.advance(0.5)
    sim.connect()
    sim.advance(0.6)
    sim.do(sim.core.result(Result(lease("job", "lease-1"), DONE), sim.now))
    assert sim.core.delivering.outcomes["done"] == 1
    assert not len(sim.core.replies)


def test_a_reply_that_was_given_up_is_not_taken_up_again_when_it_comes() -> None:
    sim = Simulation(reply_buffer_size=30 * MEBIBYTE)
    link = sim.connect()
    big = Outcome(200, b"x" * 12 * MEBIBYTE)
    for name in "ab":
        sim.result(name, big)
    (action,) = sim.queued[link]
    # "b" is asked for, and before it comes there is neither a link nor room for it.
    sim.core.sent(action, sim.now)
    sim.lose(link)
    for name in "cd":
        sim.result(name, big)
    given_up = [log for log in sim.logs if "Gave up" in log]
    assert given_up
    lost = [name for name in "abcd" if Delivery(name, "lease-0") not in sim.results]
    for name in lost:
        sim.do(sim.core.result(Result(lease(name), big), sim.now))
        assert sim.core.replies.get(Delivery(name, "lease-0")) is None
    assert sim.core.delivering.outcomes["done"] == 4


def test_nothing_is_said_after_the_end() -> None:
    sim = Simulation()
    sim.drain(1.0)
    sim.now += 3.0
    sim.do(sim.core.late(2.0, sim.now))
    assert sim.finished
    sim.do(sim.core.tick(sim.now))
    assert not any(isinstance(message, Stalled) for message in sim.told)


# Acknowledgements on a link that makes room for another


def test_a_link_is_not_closed_just_behind_an_acknowledgement() -> None:
    sim = Simulation(stall_timeout=2.0)
    old = sim.connect(heartbeat="1h")
    sim.advance(1.99)
    sim.request(old, "r")
    sim.write(old)
    sim.advance(0.01)
    sim.pong()
    sim.connect()
    assert old not in sim.closing
    sim.advance(0.05)
    sim.write(old)
    assert wire.WORKER_PAUSE in [m.kind for link, m in sim.wire if link == old]
    assert old in sim.closing
