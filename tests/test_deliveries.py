"""What the core makes of requests, leases and replies that the server sends again,
gives back, refuses, or leaves without an answer."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.messages import (
    SILENCE,
    STATE_EVERY,
    Delivery,
    Extended,
    Outcome,
    Result,
    State,
    Withdrawn,
)
from inngest_connect_asgi.protocol.link import ATTEMPT_TIMEOUT
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from .simulation import DONE, Simulation, lease


def extensions(sim: Simulation) -> list[tuple[int, str]]:
    """The leases that were extended: over which link, under which id."""
    return [
        (
            link,
            wire.WorkerRequestExtendLeaseData.FromString(message.payload).lease_id,
        )
        for link, message in sim.wire
        if message.kind == wire.WORKER_REQUEST_EXTEND_LEASE
    ]


def kinds(sim: Simulation) -> list[str]:
    return [wire.Kind.Name(message.kind) for _, message in sim.wire]


# Acknowledgements that come too late


@pytest.mark.parametrize("why", ["drain", "stall", "closing"])
def test_an_acknowledgement_that_waits_is_withdrawn(why: str) -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    waiting, sim.queued[link] = sim.queued[link], []
    if why == "drain":
        sim.drain()
    elif why == "stall":
        sim.advance(2.0)
    else:
        sim.receive(link, wire.GATEWAY_CLOSING)
    sim.queued[link] += waiting
    sim.write(link)
    assert Withdrawn(Delivery("r", "lease-0")) in sim.told
    assert wire.WORKER_REQUEST_ACK not in [m.kind for _, m in sim.wire]
    assert not sim.requested


def test_nothing_is_taken_on_a_link_that_closes() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.request(link, "behind")
    sim.write(link)
    assert not sim.requested
    assert not sim.sent(wire.WORKER_REQUEST_ACK)


def test_a_pause_leaves_the_acknowledgements_before_it_some_time() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.write(link)
    assert "WORKER_PAUSE" not in kinds(sim)
    sim.request(link, "late")
    sim.advance(0.05)
    sim.write(link)
    assert kinds(sim)[-1] == "WORKER_PAUSE"
    assert list(sim.requested) == ["r"]


def test_a_worker_that_is_done_before_its_pause_says_it_all_the_same() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.result("r")
    sim.write(link)
    sim.ack(link, "r")
    sim.write(link)
    assert kinds(sim)[-1] == "WORKER_PAUSE"
    assert sim.closing[link].reason == "WORKER_SHUTDOWN"


# The same request id again


def test_an_id_that_comes_with_a_new_lease_is_run_again() -> None:
    sim = Simulation()
    link = sim.connect()
    for number in range(3):
        sim.request(link, "job", lease_id=f"lease-{number}")
        sim.write(link)
        sim.result("job", lease_id=f"lease-{number}")
        sim.write(link)
        sim.ack(link, "job")
    assert sim.requested == {"job": 3}
    assert len(sim.sent(wire.WORKER_REPLY)) == 3


def test_what_comes_again_under_its_lease_goes_on_under_the_newest_id() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.extended(link, "r", "lease-1")
    sim.request(link, "r")
    sim.advance(5)
    sim.write(link)
    assert [lease_id for _, lease_id in extensions(sim)] == ["lease-0", "lease-1"]
    assert sim.requested == {"r": 1}


def test_a_lease_that_was_refused_is_taken_up_when_it_comes_again() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.extended(link, "r", None)
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    assert len(extensions(sim)) == 2
    assert sim.requested == {"r": 1}


def test_a_newer_delivery_supersedes_what_still_runs() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    assert extensions(sim) == [(link, "second")]
    sim.result("job", lease_id="first")
    sim.write(link)
    # It would be taken for the answer to the second.
    assert not sim.sent(wire.WORKER_REPLY)
    assert any("Dropped a reply" in text for text in sim.logs)
    sim.result("job", Outcome(200, b'"second"'), lease_id="second")
    sim.write(link)
    (reply,) = sim.sent(wire.WORKER_REPLY)
    assert wire.SDKResponse.FromString(reply).body == b'"second"'


def test_a_newer_delivery_supersedes_a_reply_that_waits() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.lose(link)
    sim.result("job", lease_id="first")
    sim.flush_answer("job", 503)
    sim.advance(1)
    link = sim.connect()
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    # One was under way.
    sim.flush_answer("job", 503)
    sim.advance(60)
    assert not sim.flushes
    assert any("Dropped a reply" in text for text in sim.logs)
    sim.result("job", lease_id="second")
    assert sim.core.replies.get(Delivery("job", "second"))


def test_a_refusal_of_what_was_superseded_says_nothing_of_the_newer_one() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    sim.extended(link, "job", None)
    sim.advance(5)
    sim.write(link)
    assert extensions(sim)[-1] == (link, "second")
    assert sim.core.leases.lost == 0


# Leases in doubt


def test_no_lease_is_extended_over_a_link_that_is_retired() -> None:
    sim = Simulation()
    old = sim.connect(heartbeat="1h")
    sim.request(old, "r")
    sim.write(old)
    sim.advance(4.9)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(5)
    sim.write(old)
    assert not extensions(sim)
    new = sim.connect()
    sim.advance(0.001)
    sim.write(new)
    assert extensions(sim) == [(new, "lease-0")]


def test_a_link_is_kept_until_it_has_said_what_became_of_a_lease() -> None:
    sim = Simulation()
    old = sim.connect(heartbeat="1h")
    sim.request(old, "r")
    sim.write(old)
    sim.advance(5)
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(0.3)
    new = sim.connect(heartbeat="1h")
    sim.advance(4)
    sim.write(new)
    assert old not in sim.closing
    # Nor is it extended over another one, under an id that may be an old one.
    assert extensions(sim) == [(old, "lease-0")]
    sim.extended(old, "r", "lease-1")
    assert old in sim.closing
    sim.advance(4)
    sim.write(new)
    assert extensions(sim)[1:] == [(new, "lease-1")]


def test_only_answers_count_on_a_link_that_is_being_closed() -> None:
    sim = Simulation()
    old = sim.connect(heartbeat="1h")
    for request_id in "ab":
        sim.request(old, request_id)
    sim.write(old)
    sim.advance(5)
    sim.write(old)
    sim.drain(1.0)
    sim.result("b")
    sim.write(old)
    sim.advance(1.0)
    assert old in sim.closing
    sim.extended(old, "a", "lease-1")
    sim.ack(old, "b")
    assert not sim.core.links.live
    sim.request(old, "late")
    sim.write(old)
    assert "WORKER_REQUEST_ACK" not in kinds(sim)[-1:]
    assert not sim.requested["late"]


def test_a_lease_without_an_answer_is_extended_at_once_over_the_next_link() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.lose(link)
    sim.advance(0)
    new = sim.connect()
    sim.advance(0.001)
    sim.write(new)
    assert extensions(sim)[1:] == [(new, "lease-0")]


def test_a_refusal_of_an_id_that_was_replaced_is_no_loss() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(10)
    sim.write(link)
    # Two under the same id: the first was granted, the second came too late.
    sim.extended(link, "r", "lease-1")
    sim.extended(link, "r", None)
    sim.advance(5)
    sim.write(link)
    assert [lease_id for _, lease_id in extensions(sim)] == [
        "lease-0",
        "lease-0",
        "lease-1",
    ]
    assert sim.core.leases.lost == 0


def test_a_lease_that_is_granted_after_a_refusal_is_held_again() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(10)
    sim.write(link)
    # The gateway does not answer in order.
    sim.extended(link, "r", None)
    sim.extended(link, "r", "lease-1")
    sim.advance(5)
    sim.write(link)
    assert extensions(sim)[-1] == (link, "lease-1")
    assert sim.core.leases.lost == 0
    assert Extended(Delivery("r", "lease-0"), "lease-1") in sim.told


# Replies that are refused


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


# One copy of a reply


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


# Silence, and what is said instead of the truth


def test_a_runtime_is_never_silent_for_long() -> None:
    sim = Simulation()
    sim.connect(heartbeat="1h")
    last = sim.now
    for _ in range(600):
        told = len(sim.told)
        sim.advance(0.1)
        if any(isinstance(message, State) for message in sim.told[told:]):
            last = sim.now
        assert sim.now - last <= STATE_EVERY + 0.2 < SILENCE


def test_a_link_that_is_paused_takes_no_requests_and_says_so() -> None:
    sim = Simulation(stall_timeout=2.0)
    health = Health(wedge_timeout=300, clock=lambda: sim.now)
    link = sim.connect(heartbeat="1s")
    for _ in range(3):
        sim.receive(link, wire.GATEWAY_HEARTBEAT)
        sim.advance(1)
    sim.pong()
    # The app answers again, and no new connection can be made.
    for _ in range(60):
        sim.write(link)
        sim.receive(link, wire.GATEWAY_HEARTBEAT)
        while sim.starts:
            sim.start_answer(503)
        sim.pong()
        sim.advance(0.5)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.advance(0.3)
    health.update(sim.state)
    assert sim.state.connection == "ready"
    assert not health.ready().healthy
    assert "waits for a new connection" in health.ready().reason
    while not sim.starts:
        sim.advance(0.5)
        sim.pong()
    sim.connect()
    health.update(sim.state)
    assert not sim.state.paused


def test_an_attempt_that_hangs_in_every_phase_keeps_to_its_time() -> None:
    sim = Simulation()
    began = sim.now
    sim.advance(9.5)
    sim.start_answer()
    sim.advance(9.5)
    link = sim.open()
    sim.advance(4.5)
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.write(link)
    while not sim.starts:
        sim.advance(0.1)
    assert sim.now - began <= ATTEMPT_TIMEOUT + 0.2
