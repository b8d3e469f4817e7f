"""How the parts of the core are put together."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from inngest_connect_asgi.messages import Delivery, Withdrawn
from inngest_connect_asgi.protocol.actions import Close, Send, StartLink
from inngest_connect_asgi.protocol.link import Link, Phase
from inngest_connect_asgi.protocol.parts import Parts
from inngest_connect_asgi.protocol.telling import STATE_INTERVAL
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation, configuration, lease


def test_what_is_due_next_is_the_first_of_all_that_is() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    assert parts.next_tick() is None
    parts.connecting.connect(0.0)
    link = parts.links.attempt
    assert link is not None
    assert parts.telling.state_at is not None
    assert parts.next_tick() == min(link.next_tick or 99, parts.telling.state_at)
    parts.ending.finished = True
    assert parts.next_tick() is None


def test_a_tick_does_what_is_due_in_every_part() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1s", extend="2s")
    for request_id in ("runs", "replied"):
        sim.request(link, request_id)
    sim.write(link)
    sim.result("replied")
    sim.write(link)
    for _ in range(5):
        sim.advance(1)
        sim.write(link)
        sim.receive(link, wire.GATEWAY_HEARTBEAT)
    assert len(sim.sent(wire.WORKER_HEARTBEAT)) >= 5
    assert sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    assert list(sim.flushes) == ["replied"]
    sim.advance(3)
    assert sim.core.losing.last_error == "the gateway answered no heartbeat"
    sim.advance(10)
    assert sim.starts


def test_a_connection_begins_with_what_the_worker_is_up_to() -> None:
    for stopping in (False, True):
        sim = Simulation()
        link = sim.connect()
        sim.request(link, "job")
        sim.write(link)
        if stopping:
            sim.drain(60.0)
        sim.lose(link)
        sim.advance(10)
        link = sim.connect()
        sim.write(link)
        assert len(sim.sent(wire.WORKER_READY)) == (1 if stopping else 2)
        assert bool(sim.sent(wire.WORKER_PAUSE)) == stopping


def test_a_link_that_retires_goes_once_it_owes_nothing() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.request(old, "job")
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.core.parts.retire(sim.now)
    assert old not in sim.closing
    sim.result("job")
    sim.write(old)
    sim.advance(3)
    sim.connect()
    retiring = sim.core.links.get(old)
    assert retiring is not None
    assert retiring.phase is Phase.RETIRING
    sim.ack(old, "job")
    assert old in sim.closing


def due_retry(parts: Parts) -> None:
    parts.losing.retry_at = 1.0


def due_end(parts: Parts) -> None:
    parts.ending.at = 1.0


def due_state(parts: Parts) -> None:
    parts.telling.state_at = 1.0


def due_ping(parts: Parts) -> None:
    parts.stalling.watch.start(1.0)


def due_ack(parts: Parts) -> None:
    parts.replies.add(lease("r"), 1, 7)
    parts.replies.sent(lease("r").delivery, 7, 1.0)


def due_flush(parts: Parts) -> None:
    reply = parts.replies.add(lease("r"), 1, None)
    assert parts.replies.next_to_flush(0.0, retry=False) is reply
    parts.replies.flush_failed(reply.delivery, 1.0)


def due_lease(parts: Parts) -> None:
    live(parts).next_heartbeat = None
    parts.leases.set_interval(1.0, 0.0)
    parts.leases.hold(lease("r"), 0.0)


def live(parts: Parts, extend: str = "") -> Link:
    """A link that is live at 0.0, and known to answer."""
    link = parts.links.begin(0.0)
    for phase in (Phase.OPENING, Phase.GREETING, Phase.SYNCING):
        link.enter(phase, 0.0)
    parts.connecting.handshake(link, connection_ready(extend), 0.0)
    link.is_open = True
    parts.telling.take()
    parts.telling.state_at = None
    return link


def connection_ready(extend: str) -> wire.ConnectMessage:
    data = wire.GatewayConnectionReadyData(extend_lease_interval=extend)
    return wire.ConnectMessage(
        kind=wire.GATEWAY_CONNECTION_READY, payload=data.SerializeToString()
    )


@pytest.mark.parametrize(
    "make_due",
    [due_retry, due_end, due_state, due_ping, due_ack, due_flush, due_lease],
)
def test_whatever_is_due_is_waited_for(make_due: Callable[[Parts], object]) -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    assert parts.next_tick() is None
    make_due(parts)
    assert parts.next_tick() == 1.0


def test_leases_wait_while_no_link_is_live() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    parts.leases.hold(lease("r"), 0.0)
    assert parts.next_tick() is None


def test_nothing_is_done_before_its_time() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    parts.losing.retry_at = 1.0
    parts.tick(0.99)
    assert parts.telling.take() == []
    parts.tick(1.0)
    assert [type(action) for action in parts.telling.take()] == [StartLink]


def test_an_ack_that_did_not_come_is_told_with_the_state() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    due_ack(parts)
    parts.tick(0.99)
    assert parts.telling.state_at is None
    parts.tick(1.0)
    assert parts.telling.state_at == 1.0 + STATE_INTERVAL


@pytest.mark.parametrize(("extend", "interval"), [("2s", 2.0), ("", 5.0)])
def test_leases_are_extended_in_the_interval_of_the_gateway(
    extend: str, interval: float
) -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    live(parts, extend)
    parts.leases.hold(lease("r"), 0.0)
    assert parts.leases.next_due == interval


def test_a_lease_that_is_held_is_extended_sooner_if_the_gateway_wants_it() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    parts.leases.hold(lease("r"), 0.0)
    live(parts, "2s")
    assert parts.leases.next_due == 2.0


@pytest.mark.parametrize("why", ["stopping", "stalled"])
def test_a_connection_that_is_to_take_nothing_is_paused_from_the_first(
    why: str,
) -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    parts.ending.begun = why == "stopping"
    parts.stalling.paused = why == "stalled"
    link = parts.links.begin(0.0)
    for phase in (Phase.OPENING, Phase.GREETING, Phase.SYNCING):
        link.enter(phase, 0.0)
    parts.connecting.handshake(link, connection_ready(""), 0.0)
    kinds = [
        wire.ConnectMessage.FromString(action.data).kind
        for action in parts.telling.take()
        if isinstance(action, Send)
    ]
    assert kinds == [wire.WORKER_PAUSE, wire.WORKER_HEARTBEAT]


def test_what_a_link_had_is_withdrawn_or_goes_on_without_it() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    for request_id in ("runs", "replied"):
        sim.request(link, request_id)
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.result("replied")
    sim.request(link, "unsent")
    sim.lose(link)
    assert Withdrawn(Delivery("unsent", "lease-0")) in sim.told
    assert list(sim.flushes) == ["replied"]
    # Whether it was extended, nobody says.
    assert sim.core.leases.next_due == sim.now


def test_what_a_paused_link_has_not_acknowledged_is_withdrawn() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "kept")
    sim.write(link)
    sim.request(link, "unsent")
    sim.drain()
    assert Withdrawn(Delivery("unsent", "lease-0")) in sim.told
    assert not sim.offered


def test_an_attempt_that_is_lost_leaves_nothing_behind() -> None:
    sim = Simulation()
    for _ in range(3):
        link = sim.start_answer()
        sim.lose(link)
        while not sim.starts:
            sim.advance(0.1)
    assert not sim.core.connecting._starts
    assert len(sim.core.links) == 1


def test_a_link_that_retires_waits_for_its_pause_and_for_its_leases() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    old = live(parts)
    parts.leases.hold(lease("r"), 0.0)
    held = parts.leases.newest("r")
    assert held is not None
    old.extension_sent(held)
    new = live(parts)
    parts.retire(1.0)
    assert old.phase is Phase.RETIRING
    assert parts.taking.is_awaited(old)
    assert old.extension_answered("r") is held
    old.pause_at = 1.5
    parts.retire(1.0)
    assert old.phase is Phase.RETIRING
    old.pause_at = None
    parts.telling.take()
    parts.retire(1.0)
    (close,) = parts.telling.take()
    assert isinstance(close, Close)
    assert close.link == old.id
    assert parts.links.live is new


def test_one_that_leaves_has_no_more_to_extend_or_to_flush() -> None:
    parts = Parts(configuration(), random.Random(1), 0.0, lambda url: "")
    link = live(parts)
    link.is_open = True
    parts.leases.hold(lease("r"), 0.0)
    assert parts.next_tick() == parts.leases.next_due
    parts.ending.leave(1.0)
    parts.telling.take()
    parts.tick(100.0)
    assert parts.leases.next_due is not None
    assert parts.leases.next_due < 100.0
    assert parts.next_tick() != parts.leases.next_due


def test_what_was_paused_is_connected_anew_when_the_app_answers() -> None:
    sim = Simulation(stall_timeout=2.0)
    sim.connect(heartbeat="1h")
    sim.advance(3)
    assert not sim.starts
    sim.core.parts.pong(sim.core.stalling.watch.number, sim.now)
    sim.advance(0)
    assert sim.starts
    # Nobody waits for this one.
    sim.core.parts.pong(sim.core.stalling.watch.number, sim.now)
    sim.advance(0)
    assert len(sim.starts) == 1
