"""The core in virtual time: shutdown."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import (
    Delivery,
    Extended,
    Outcome,
    Result,
    Stalled,
    Withdrawn,
)
from inngest_connect_asgi.protocol.ending import LEAVE_TIMEOUT
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import DONE, Simulation, lease
from .twice import FIRST, take


def test_shutdown_waits_for_what_runs_and_for_its_replies() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.request(link, "late")
    sim.advance(0.05)
    sim.write(link)
    assert len(sim.sent(wire.WORKER_PAUSE)) == 1
    assert list(sim.requested) == ["r"]
    sim.advance(6)
    sim.write(link)
    assert sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    sim.result("r")
    sim.write(link)
    assert not sim.closing
    sim.ack(link, "r")
    assert sim.closing[link].reason == "WORKER_SHUTDOWN"
    sim.lose(link)
    assert sim.finished == 1
    assert sim.core.next_tick() is None


def test_shutdown_reconnects_for_a_reply_and_takes_nothing_new() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(2)
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.advance(0.05)
    sim.write(link)
    sim.lose(link)
    sim.advance(0)
    ready = len(sim.sent(wire.WORKER_READY))
    link = sim.connect()
    assert len(sim.sent(wire.WORKER_READY)) == ready
    assert len(sim.sent(wire.WORKER_PAUSE)) == 2
    sim.result("r")
    sim.write(link)
    sim.ack(link, "r")
    assert link in sim.closing


def test_shutdown_gives_up_when_its_time_is_over() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "running")
    sim.request(link, "unacked")
    sim.write(link)
    sim.result("unacked")
    sim.drain(3.0)
    sim.advance(3.0)
    assert any("before a run finished" in text for text in sim.logs)
    assert any("had to shut down" in text for text in sim.logs)
    sim.advance(2.1)  # the gateway does not answer the close
    assert sim.finished == 1


def test_shutdown_takes_back_nothing_that_came_twice() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    # Its second acknowledgement is not on the wire yet.
    sim.request(link, "r")
    sim.drain(0.0)
    assert sim.requested["r"] == 1
    assert not [each for each in sim.told if isinstance(each, Withdrawn)]


@pytest.mark.parametrize("phase", ["starting", "opening", "greeting", "backoff"])
def test_shutdown_while_connecting(phase: str) -> None:
    sim = Simulation()
    if phase == "backoff":
        sim.start_answer(500)
    elif phase != "starting":
        sim.start_answer()
        if phase == "greeting":
            sim.open()
    sim.drain()
    assert sim.finished == 1
    assert not {*sim.starts, *sim.opening, *sim.queued}


def test_a_second_drain_changes_nothing() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain(10)
    sim.advance(5)
    sim.drain(10)
    sim.advance(5)
    assert sim.closing


MEBIBYTE = 1024 * 1024


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


def test_one_that_leaves_waits_for_what_is_unclear_and_gives_nothing_up() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    for request_id in ("runs", "extended", "replied"):
        sim.request(link, request_id)
        sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.result("replied")
    sim.write(link)
    sim.do(sim.core.leave(sim.now))
    sim.write(link)
    assert wire.ConnectMessage(kind=wire.WORKER_PAUSE) in [each for _, each in sim.wire]
    sim.ack(link, "replied")
    for request_id in ("runs", "extended"):
        assert link not in sim.closing
        sim.extended(link, request_id, "lease-1")
    assert link in sim.closing
    sim.lose(link)
    assert sim.finished
    assert sim.logs == ["Connected to Inngest"]
    assert Extended(lease("runs").delivery, "lease-1") in sim.told


def test_one_that_leaves_does_not_wait_for_ever_or_send_anything_new() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.write(link)
    sim.do(sim.core.leave(sim.now))
    # A second word changes nothing.
    sim.do(sim.core.drain(100.0, sim.now))
    sim.write(link)
    sim.advance(LEAVE_TIMEOUT + 0.1)
    sim.write(link)
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    assert not sim.flushes
    assert link in sim.closing
    sim.lose(link)
    assert sim.finished
    assert sim.logs == ["Connected to Inngest"]
    # The app has it still.
    assert Delivery("r", "lease-0") in sim.results


def test_a_shutdown_is_no_leaving() -> None:
    sim = Simulation()
    sim.connect()
    sim.do(sim.core.drain(5.0, sim.now))
    sim.do(sim.core.leave(sim.now))
    assert not sim.core.ending.leaves
