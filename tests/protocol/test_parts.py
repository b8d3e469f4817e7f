"""How the parts of the core are put together."""

from __future__ import annotations

import random

from inngest_connect_asgi.protocol.link import Phase
from inngest_connect_asgi.protocol.parts import Parts
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from ..simulation import Simulation, configuration


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
