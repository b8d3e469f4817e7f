"""What the core orders, and what it passes by."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Adopt, Delivered, Delivery, Result, Withdrawn
from inngest_connect_asgi.protocol.actions import Finish, Send, Tell
from inngest_connect_asgi.protocol.telling import STATE_INTERVAL
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import State

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


def test_an_app_that_answers_again_hurries_no_attempt() -> None:
    sim = Simulation(stall_timeout=2.0)
    sim.start_answer(401)
    sim.advance(3)
    assert sim.state.paused
    sim.pong()
    # Only a person can mend it: it is tried again in its time.
    assert not sim.starts
    sim.advance(27)
    assert sim.starts


def test_a_connection_that_was_lost_in_a_stall_was_lost_for_its_own_reason() -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect(heartbeat="1h")
    sim.advance(3)
    sim.lose(link)
    sim.pong()
    sim.advance(0)
    link = sim.connect()
    assert sim.state.reconnects_by == {"connection_lost": 1}
    # It takes requests, as the app answers.
    assert len(sim.sent(wire.WORKER_READY)) == 2


def test_a_result_is_told_soon_and_ends_the_lease_when_the_server_has_it() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    assert sim.core.leases.held == 1
    sim.core.telling.state_at = None
    sim.result("r")
    assert sim.core.telling.state_at == sim.now + STATE_INTERVAL
    assert (sim.core.leases.held, len(sim.core.leases.running)) == (1, 0)
    sim.write(link)
    sim.ack(link, "r")
    assert not len(sim.core.leases)


@pytest.mark.parametrize("was_told", [True, False])
def test_a_quick_answer_is_told_where_it_was_told_to_be_awaited(was_told: bool) -> None:
    sim = Simulation()
    if was_told:
        sim.advance(0)
        sim.connect(heartbeat="1h")
    else:
        sim.connect(heartbeat="1h")
        sim.advance(0)
    assert (sim.state.app_waiting_since is not None) == was_told
    sim.advance(0.05)
    sim.core.telling.state_at = None
    sim.pong()
    assert (sim.core.telling.state_at is not None) == was_told


def test_an_app_that_was_stalled_is_why_there_is_a_new_connection() -> None:
    sim = Simulation(stall_timeout=2.0)
    sim.connect(heartbeat="1h")
    sim.advance(1)
    sim.pong()
    assert not sim.starts  # it never stalled
    sim.advance(4)
    sim.pong()
    sim.connect(heartbeat="1h")
    assert sim.state.reconnects_by == {"app_stalled": 1}
    sim.advance(2)
    sim.pong()
    assert not sim.starts


def test_nothing_follows_the_end() -> None:
    sim = Simulation()
    sim.drain()
    assert sim.state.connection == "stopped"
    # Two events of one turn.
    assert sim.core.late(5.0, sim.now) == []
    assert sim.core.tick(sim.now) == []


def test_a_worker_that_winds_up_begins_no_connection() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(2)
    sim.receive(link, wire.GATEWAY_CLOSING)
    assert sim.core.losing.retry_at is not None
    sim.drain()
    assert link in sim.closing
    assert sim.core.losing.retry_at is None
    sim.advance(1)
    assert sim.state.connection == "stopping"
    sim.lose(link)
    assert sim.state.connection == "stopped"


def test_an_answer_of_the_api_that_comes_twice_opens_one_socket() -> None:
    sim = Simulation()
    link = sim.start_answer()
    answer = wire.StartResponse(connection_id="c", gateway_endpoint="ws://other.test")
    again = sim.core.start_answered(link, 200, answer.SerializeToString(), sim.now)
    assert again == []
    assert sim.opening[link].url == "ws://gateway.test"


def test_a_gateway_that_closes_says_so_once() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    for _ in range(2):
        sim.receive(link, wire.GATEWAY_CLOSING)
    assert sum("is closing" in text for text in sim.logs) == 1
    withdrawn = [message for message in sim.told if isinstance(message, Withdrawn)]
    assert withdrawn == [Withdrawn(Delivery("r", "lease-0"))]


def test_an_answered_heartbeat_and_an_odd_frame_are_counted() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1s")
    sim.advance(0.5)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    assert sim.core.links.live is not None
    assert sim.core.links.live.heartbeat_answered_at == 0.5
    sim.receive(link, wire.GATEWAY_HELLO)
    assert sim.core.parts.malformed == 1
    assert "Ignored an unexpected GATEWAY_HELLO from the gateway" in sim.logs


def test_an_old_link_is_closed_as_soon_as_it_owes_nothing() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(0.3)
    sim.connect()
    assert old in sim.closing


def test_a_result_for_which_there_is_no_room_is_given_up_at_once() -> None:
    sim = Simulation(reply_buffer_size=1)
    sim.result("r")
    assert sim.delivered == ["r"]
    assert sim.core.replies.given_up == 1
    assert not sim.flushes


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (503, None, "the flush API answered 503"),
        (0, "refused", "refused"),
    ],
)
def test_why_a_flush_failed_is_said(status: int, error: str | None, says: str) -> None:
    sim = Simulation()
    sim.result("r")
    delivery = sim.flushes.pop("r").delivery
    sim.do(sim.core.flush_answered(delivery, status, b"", sim.now, error))
    text = f"Could not flush a reply; it is kept and tried again: {says}"
    assert text in sim.logs


def test_an_acknowledgement_of_another_request_is_not_wanted() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    assert sim.core.wants(Send(link, b"", Delivery("r", "lease-0")))
    assert not sim.core.wants(Send(link, b"", Delivery("other", "lease-0")))


def test_what_was_decided_before_the_end_of_a_turn_is_not_kept() -> None:
    sim = Simulation()
    sim.drain()
    sim.core.late(5.0, sim.now)
    assert sim.core.telling.take() == []


def test_a_late_runtime_is_told_soon() -> None:
    sim = Simulation()
    sim.core.telling.state_at = None
    sim.do(sim.core.late(5.0, sim.now))
    assert sim.core.telling.state_at == sim.now + STATE_INTERVAL


def test_garbage_ends_no_connection_that_is_live() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.do(sim.core.received(link, b"\xff", sim.now))
    assert "Ignored not a ConnectMessage from the gateway" in sim.logs
    assert sim.state.connection == "ready"
    assert not sim.core.losing.failures_by


def test_what_makes_no_sense_on_a_link_that_closes_is_not_even_counted() -> None:
    sim = Simulation()
    link = sim.connect()
    live = sim.core.links.live
    assert live is not None
    sim.core.links.close(live, sim.now)
    sim.receive(link, wire.GATEWAY_HELLO)
    assert sim.core.parts.malformed == 0


def test_one_runtime_leaves_what_another_adopts() -> None:
    old, new = Simulation(), Simulation()
    link = old.connect()
    old.request(link, "r")
    old.write(link)
    old.do(old.core.leave(old.now))
    assert link in old.closing
    new.connect()
    new.do(new.core.adopt(Adopt(requests=tuple(old.running.values())), new.now))
    assert [each.request_id for each in new.core.leases.running] == ["r"]
