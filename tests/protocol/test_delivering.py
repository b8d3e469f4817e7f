"""The core in virtual time: replies."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Delivered, Delivery, Outcome, Result, Wanted
from inngest_connect_asgi.protocol.actions import Flush, Tell
from inngest_connect_asgi.protocol.delivering import (
    FLUSH_FIRST,
    REFLUSH_CONCURRENCY,
    SEND_WINDOW,
)
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import STATE_EVERY

from ..simulation import DONE, Simulation, lease
from .twice import FIRST, SECOND, take


def test_a_reply_without_an_ack_is_flushed() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.write(link)
    sim.advance(4.9)
    assert not sim.flushes
    sim.advance(0.2)
    sim.flush_answer("r")
    assert sim.delivered == ["r"]
    assert sim.core.replies.flushed == 1


def test_a_reply_that_waits_to_be_written_is_not_flushed() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.advance(60)
    assert not sim.flushes
    sim.write(link)
    sim.ack(link, "r")
    assert sim.delivered == ["r"]


def test_replies_of_a_lost_link_are_flushed_a_few_at_a_time() -> None:
    sim = Simulation()
    link = sim.connect()
    for number in range(10):
        sim.request(link, f"r{number}")
    sim.write(link)
    for number in range(10):
        sim.result(f"r{number}")
    sim.lose(link)
    assert len(sim.flushes) == 4
    while sim.flushes:
        sim.flush_answer(next(iter(sim.flushes)))
    assert sorted(sim.delivered) == [f"r{number}" for number in range(10)]


def test_a_failing_flush_api_is_asked_two_replies_at_a_time_and_ever_slower() -> None:
    sim = Simulation()
    for request_id in "ab":
        sim.result(request_id)
    sim.flush_answer("a", 500)
    sim.flush_answer("b", 500)
    asked = 0
    for _ in range(600):
        sim.advance(1)
        assert len(sim.flushes) <= 2
        while sim.flushes:
            asked += 1
            sim.flush_answer(next(iter(sim.flushes)), 503)
    assert 20 < asked < 60
    assert len(sim.core.replies) == 2
    sim.advance(30)
    while sim.flushes:
        sim.flush_answer(next(iter(sim.flushes)))
    assert sorted(sim.delivered) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", wire.FlushResponse(request_id="other").SerializeToString()],
)
def test_a_flush_that_is_not_confirmed_is_tried_again(body: bytes) -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    sim.flush_answer("r", 200, body)
    assert not sim.delivered
    sim.advance(1)
    sim.flush_answer("r")
    assert sim.delivered == ["r"]


def test_a_flush_tries_the_other_key_at_once() -> None:
    sim = Simulation(signing_key="one", signing_key_fallback="two")
    sim.result("r")
    assert sim.flushes["r"].signing_key == "one"
    sim.flush_answer("r", 401)
    assert sim.flushes["r"].signing_key == "two"
    sim.flush_answer("r", 401)
    assert not sim.flushes


@pytest.mark.parametrize("status", [400, 413])
def test_a_reply_that_the_server_will_never_take_is_given_up_loudly(
    status: int,
) -> None:
    sim = Simulation()
    sim.result("r")
    sim.flush_answer("r", status)
    # It was not on any connection yet.
    assert not sim.delivered
    link = sim.connect(heartbeat="1h")
    sim.advance(1)
    sim.flush_answer("r", status)
    sim.write(link)
    assert len(sim.sent(wire.WORKER_REPLY)) == 1
    assert not sim.delivered
    sim.advance(5)
    sim.flush_answer("r", status)
    assert sim.delivered == ["r"]
    assert sim.core.replies.given_up == 1
    assert any("Gave up" in x and f"answered {status}" in x for x in sim.logs)


@pytest.mark.parametrize("status", [0, 401, 403, 503])
def test_a_reply_that_the_api_does_not_take_goes_over_each_new_connection_once(
    status: int,
) -> None:
    sim = Simulation()
    sim.result("r")
    for count in (1, 2, 3):
        link = sim.connect(heartbeat="1h")
        for _ in range(5):
            sim.advance(30)
            sim.flush_answer("r", status)
            sim.write(link)
        assert len(sim.sent(wire.WORKER_REPLY)) == count
        sim.advance(30)
        if count < 3:
            sim.lose(link)
            sim.advance(0)
    sim.ack(link, "r")
    assert sim.delivered == ["r"]
    sim.flush_answer("r", status)
    sim.advance(60)
    assert not sim.flushes


def test_replies_that_the_api_does_not_take_leave_room_on_a_connection() -> None:
    sim = Simulation()
    large = Outcome(200, bytes(SEND_WINDOW // 2 + 1))
    for number in range(3):
        sim.result(f"r{number}", large)
    link = sim.connect(heartbeat="1h")
    for number in range(3):
        sim.flush_answer(f"r{number}", 503)
    # The next one when this one is written.
    assert len(sim.queued[link]) == 1
    sim.write(link)
    assert len(sim.sent(wire.WORKER_REPLY)) == 3
    for number in range(3):
        sim.ack(link, f"r{number}")
    assert sim.delivered == ["r0", "r1", "r2"]


def test_an_ack_that_comes_while_a_reply_is_flushed_settles_it() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.write(link)
    sim.advance(5)
    assert "r" in sim.flushes
    sim.ack(link, "r")
    sim.flush_answer("r", 500)
    assert sim.delivered == ["r"]
    assert not sim.core.replies.waiting


def test_the_reply_buffer_gives_up_the_oldest_and_says_so() -> None:
    sim = Simulation(reply_buffer_size=10_000)
    outcome = Outcome(200, b"x" * 3_000)
    for number in range(10):
        sim.result(f"r{number}", outcome)
        assert sim.core.replies.size <= 10_000 + 4 * 3_100  # what is being flushed
    assert sim.core.replies.given_up > 0
    given_up = sum("buffer is full" in text for text in sim.logs)
    assert given_up == sim.core.replies.given_up == len(sim.delivered)


def test_the_reply_buffer_holds_when_a_link_is_lost() -> None:
    sim = Simulation(reply_buffer_size=10_000)
    link = sim.connect()
    for number in range(10):
        sim.request(link, f"r{number}")
        sim.write(link)
        sim.result(f"r{number}", Outcome(200, b"x" * 3_000))
    # What is on its way to the gateway can't be taken back.
    assert not sim.delivered
    sim.lose(link)
    assert sim.core.replies.size <= 10_000
    assert sim.state.replies_given_up == 7
    assert sim.delivered == [f"r{number}" for number in range(7)]


def test_a_reply_that_is_refused_holds_up_no_other() -> None:
    sim = Simulation()
    for request_id in ("poison", "good-1", "good-2"):
        sim.result(request_id)
    tried = 0
    sim.flush_answer("good-1", 503)
    sim.flush_answer("good-2", 503)
    sim.flush_answer("poison", 403)
    for _ in range(600):
        sim.advance(1)
        for request_id in list(sim.flushes):
            poison = request_id == "poison"
            tried += poison
            sim.flush_answer(request_id, 403 if poison else 200)
        if sim.now > 5:
            assert sorted(sim.delivered) == ["good-1", "good-2"]
    assert 20 < tried < 60


def test_replies_that_hang_hold_up_no_other() -> None:
    sim = Simulation()
    for number in range(8):
        sim.result(f"poison-{number}")
    for _ in range(8):
        # Each takes its time for the first call.
        sim.advance(10)
        for request_id in list(sim.flushes):
            sim.flush_answer(request_id, 0)
    sim.advance(30)
    assert sim.flushes
    sim.result("good")
    assert "good" in sim.flushes


def test_a_failing_poison_does_not_close_the_gate_for_others() -> None:
    sim = Simulation()
    sim.result("poison")
    for _ in range(10):
        sim.advance(30)
        sim.flush_answer("poison", 500)
    sim.result("good")
    sim.flush_answer("good", 500)
    sim.advance(1)
    assert "good" in sim.flushes


def test_the_runtime_keeps_no_reply_that_it_does_not_write() -> None:
    sim = Simulation()
    link = sim.connect()
    body = b'"' + b"x" * (10 * 1024 * 1024) + b'"'
    for number in range(5):
        sim.request(link, f"r{number}")
    sim.write(link)
    for number in range(5):
        sim.result(f"r{number}", Outcome(200, body))
    # The others wait with the app until there is room.
    assert len(sim.queued[link]) == 1
    sim.write(link)
    assert len(sim.sent(wire.WORKER_REPLY)) == 5
    for number in range(5):
        sim.ack(link, f"r{number}")
    assert len(sim.delivered) == 5
    assert sim.core.links.live is not None
    assert sim.core.links.live.queued == 0


def test_replies_that_wait_for_room_are_flushed_when_their_link_is_lost() -> None:
    sim = Simulation()
    link = sim.connect()
    body = b"x" * (10 * 1024 * 1024)
    for number in range(3):
        sim.result(f"r{number}", Outcome(200, body))
    sim.lose(link)
    while sim.flushes:
        sim.flush_answer(next(iter(sim.flushes)))
    assert sorted(sim.delivered) == ["r0", "r1", "r2"]


def test_repeated_outcomes_are_counted() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.do(sim.core.result(Result(lease("r"), DONE, repeated=True), sim.now))
    sim.advance(1)
    assert (sim.state.requests_repeated, sim.state.requests_done) == (1, 1)
    assert Simulation(state=sim.state).core.delivering.outcomes["repeated"] == 1


def test_a_reply_that_nobody_asked_for_is_not_sent_twice() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    assert len(sim.queued[link]) == 1
    sim.do(sim.core.result(Result(lease("job"), DONE), sim.now))
    assert len(sim.queued[link]) == 1
    assert not sim.flushes


def test_an_answer_asked_for_once_is_flushed_once() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    sim.lose(link)
    assert list(sim.flushes) == ["job"]
    again = sim.core.result(Result(lease("job"), DONE), sim.now)
    assert not any(isinstance(action, Flush) for action in again)


def test_what_was_written_on_a_link_that_is_no_more_waits_for_the_flush_api() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    (reply,) = sim.queued[link]
    sim.lose(link)
    sim.do(sim.core.sent(reply, sim.now))
    assert list(sim.flushes) == ["job"]


def test_an_ack_for_what_is_delivered_is_no_news() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    sim.write(link)
    sim.advance(6)
    sim.flush_answer("job")
    sim.ack(link, "job")
    sim.ack(link, "nobody")
    assert sim.delivered == ["job"]


@pytest.mark.parametrize("written", [False, True])
def test_a_newer_delivery_drops_the_reply_to_the_older(written: bool) -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    live = sim.core.links.live
    assert live is not None
    (reply,) = sim.queued[link]
    if written:
        sim.write(link)
        assert live.queued == 0
    else:
        sim.queued[link] = []
        assert live.queued == len(DONE.body)
    take(sim, link, SECOND)
    assert live.queued == 0
    assert Delivered(FIRST) in sim.told
    assert any("Dropped a reply" in text for text in sim.logs)
    # Should it be on its way all the same, it takes no room from others.
    sim.do(sim.core.sent(reply, sim.now))
    assert live.queued == 0


def test_a_reply_that_waits_without_a_link_is_dropped_for_a_newer_delivery() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    sim.lose(link)
    sim.advance(10)
    link = sim.connect()
    take(sim, link, SECOND)
    assert Delivered(FIRST) in sim.told
    assert sim.core.replies.of("job") is None


def test_what_is_left_at_the_end_is_given_up_by_name() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.result("job")
    sim.write(link)
    sim.drain(1.0)
    sim.advance(1.0)
    assert any("had to shut down" in text for text in sim.logs)
    assert sim.core.replies.given_up == 1


def test_what_another_runtime_did_not_deliver_is_flushed_once() -> None:
    result = Result(lease("job"), DONE)
    sim = Simulation(results=[result])
    sim.core.delivering.take_over(result.lease, len(DONE.body))
    assert list(sim.flushes) == ["job"]
    assert len(sim.core.replies) == 1


def test_a_reply_that_was_asked_for_is_flushed_where_its_link_was_lost() -> None:
    sim = Simulation()
    link = sim.connect()
    big = Outcome(200, b"x" * (SEND_WINDOW * 3 // 4))
    for request_id in ("first", "second"):
        sim.request(link, request_id)
    sim.write(link)
    for request_id in ("first", "second"):
        sim.result(request_id, big)
    (reply,) = sim.queued[link]
    sim.queued[link] = []
    (asked,) = sim.core.sent(reply, sim.now)
    assert asked == Tell(Wanted(lease("second").delivery))
    sim.lose(link)
    assert sorted(sim.flushes) == ["first", "second"]


def sized(size: int) -> Outcome:
    return Outcome(200, b"x" * size)


def test_a_reply_that_fills_the_window_is_sent_and_the_next_one_waits() -> None:
    sim = Simulation()
    link = sim.connect()
    # However large, the first goes.
    sim.result("large", sized(SEND_WINDOW + 1))
    sim.result("next", sized(1))
    (reply,) = sim.queued[link]
    assert reply.delivery == Delivery("large", "lease-0")
    sim.write(link)
    assert len(sim.sent(wire.WORKER_REPLY)) == 2
    sim.result("half", sized(SEND_WINDOW // 2))
    sim.result("other half", sized(SEND_WINDOW // 2))
    # Together they fit exactly.
    assert len(sim.queued[link]) == 2


def test_those_that_wait_for_room_are_sent_when_half_of_it_is_free() -> None:
    sim = Simulation()
    link = sim.connect()
    for name in ("first", "second"):
        sim.result(name, sized(SEND_WINDOW // 2))
    sim.result("waits", sized(1))
    first, second = sim.queued[link]
    sim.do(sim.core.sent(first, sim.now))
    assert len(sim.queued[link]) == 2
    sim.do(sim.core.sent(second, sim.now))
    assert len(sim.queued[link]) == 3


def test_a_reply_that_is_dropped_makes_room_for_those_that_wait() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.result("job", sized(SEND_WINDOW), lease_id="first")
    sim.result("waits", sized(1))
    reply = sim.queued[link].pop()
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    assert not sim.core.wants(reply)
    assert len(sim.sent(wire.WORKER_REPLY)) == 1
    live = sim.core.links.live
    assert live is not None
    assert live.queued == 0


def test_what_was_given_up_is_over() -> None:
    sim = Simulation(reply_buffer_size=10)
    link = sim.connect()
    sim.advance(2)
    for name in ("older", "newer"):
        sim.request(link, name)
        sim.write(link)
        sim.result(name, sized(8))
    sim.lose(link)
    assert sim.delivered == ["older"]
    sim.advance(0)
    link = sim.connect()
    # Should it come again, it is not run again.
    sim.request(link, "older")
    sim.write(link)
    assert sim.requested["older"] == 1


def test_what_the_server_has_is_over() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.write(link)
    sim.core.telling.state_at = None
    sim.ack(link, "r")
    assert sim.core.telling.state_at is not None
    assert sim.core.deliveries.is_settled(Delivery("r", "lease-0"))
    sim.result("r")
    assert not sim.core.replies
    assert len(sim.sent(wire.WORKER_REPLY)) == 1


def test_what_is_given_up_at_the_end_is_over() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    sim.core.delivering.give_up_all(sim.now)
    assert not sim.core.replies
    assert sim.core.replies.given_up == 1
    assert sim.core.deliveries.is_settled(Delivery("r", "lease-0"))
    (text,) = (text for text in sim_logs(sim) if "had to shut down" in text)
    assert text.startswith("Gave up a reply")


def sim_logs(sim: Simulation) -> list[str]:
    """With what is said, but not taken yet."""
    sim.carry_out(sim.core.telling.take())
    return sim.logs


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_failing_api_is_left_alone_for_a_while(status: int) -> None:
    sim = Simulation()
    sim.result("r")
    sim.flush_answer("r", status)
    assert any("Could not flush" in text for text in sim.logs)
    assert sim.core.delivering.next_flush is not None
    assert sim.core.delivering._flush_at > sim.now


@pytest.mark.parametrize("status", [302, 403, 404, 499])
def test_a_reply_that_is_refused_says_nothing_of_the_api(status: int) -> None:
    sim = Simulation()
    sim.result("r")
    sim.flush_answer("r", status)
    assert sim.core.delivering._flush_at <= sim.now
    assert sim.core.replies.get(Delivery("r", "lease-0"))


def test_an_api_that_is_back_is_asked_at_once_for_the_others() -> None:
    sim = Simulation()
    for number in range(4):
        sim.result(f"r{number}")
    for number in range(3):
        sim.flush_answer(f"r{number}", 503)
    assert sim.core.delivering._flush_at > sim.now
    sim.flush_answer("r3")
    assert sim.core.delivering._flush_at == sim.now
    sim.result("r4")
    sim.flush_answer("r4", 503)
    # Nor do the failures before count any more.
    assert sim.core.delivering._flush_at - sim.now <= FLUSH_FIRST


def test_only_a_rejected_key_is_changed() -> None:
    sim = Simulation(signing_key="one", signing_key_fallback="two")
    sim.result("r")
    sim.flush_answer("r", 403)
    assert not sim.flushes
    sim.advance(1)
    assert sim.flushes["r"].signing_key == "one"


def test_a_flush_that_is_not_confirmed_is_counted_and_said() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    sim.flush_answer("r", 200, b"<html>")
    assert any("answered with no FlushResponse" in text for text in sim.logs)
    sim.advance(STATE_EVERY)
    assert sim.state.malformed == 1


def test_a_flush_that_fails_needs_no_confirmation() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    sim.flush_answer("r", 400, b"<html>")
    assert sim.core.delivering.malformed == 0
    assert any("the flush API answered 400" in text for text in sim.logs)


def test_two_that_failed_are_flushed_at_once_and_no_more() -> None:
    sim = Simulation()
    for number in range(4):
        sim.result(f"r{number}")
    for number in range(4):
        sim.flush_answer(f"r{number}", 403)
    sim.advance(5)
    assert len(sim.flushes) == REFLUSH_CONCURRENCY
    assert sim.core.delivering.next_flush is None


@pytest.mark.parametrize(
    ("status", "counted"),
    [(200, (1, 0)), (206, (1, 0)), (201, (0, 1)), (500, (0, 1))],
)
def test_an_outcome_is_done_or_failed(status: int, counted: tuple[int, int]) -> None:
    sim = Simulation()
    sim.result("r", Outcome(status, b"{}"))
    outcomes = sim.core.delivering.outcomes
    assert (outcomes["done"], outcomes["failed"]) == counted


def test_what_is_known_already_is_not_taken_over() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    reply = sim.core.replies.get(Delivery("r", "lease-0"))
    sim.core.delivering.take_over(lease("r"), 6)
    assert sim.core.replies.get(Delivery("r", "lease-0")) is reply
    assert sim.core.replies.size == 6


def test_the_same_delivery_drops_no_reply_of_its_own() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    sim.core.delivering.drop_older(lease("r"), sim.now)
    assert sim.core.replies.get(Delivery("r", "lease-0"))
    assert not sim.core.deliveries.was_superseded(Delivery("r", "lease-0"))


def test_a_reply_is_on_its_way_until_it_is_clear_what_became_of_it() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    delivering = sim.core.delivering
    assert delivering.is_on_its_way
    sim.flush_answer("r", 500)
    assert not delivering.is_on_its_way
    link = sim.connect()
    sim.result("other")
    assert delivering.is_on_its_way
    sim.write(link)
    sim.ack(link, "other")
    assert not delivering.is_on_its_way
