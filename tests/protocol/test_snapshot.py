"""The core in virtual time: what is told of the state."""

from __future__ import annotations

from inngest_connect_asgi.messages import Outcome
from inngest_connect_asgi.protocol import snapshot
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import SILENCE, STATE_EVERY, State

from ..simulation import Simulation


def test_a_new_runtime_counts_on() -> None:
    old = Simulation()
    link = old.connect()
    old.request(link, "r")
    old.write(link)
    old.result("r")
    old.write(link)
    old.ack(link, "r")
    old.do(old.core.received(link, b"\xff", old.now))
    old.advance(1)
    new = Simulation(state=old.state)
    assert new.state.connection == "reconnecting"
    new.connect()
    assert (new.state.requests_done, new.state.malformed) == (1, 1)
    assert new.state.reconnects_by == {"runtime_crashed": 1}
    assert new.state.reconnects == 1


def test_requests_run_and_are_counted() -> None:
    sim = Simulation()
    link = sim.connect()
    for number, status in enumerate((200, 206, 500)):
        sim.request(link, f"r{number}")
        sim.write(link)
        sim.result(f"r{number}", Outcome(status, b"{}"))
        sim.write(link)
        sim.ack(link, f"r{number}")
    sim.advance(1)
    assert (sim.state.requests_done, sim.state.requests_failed) == (2, 1)
    statuses = [
        wire.SDKResponse.FromString(data).status for data in sim.sent(wire.WORKER_REPLY)
    ]
    assert statuses == [wire.DONE, wire.NOT_COMPLETED, wire.ERROR]


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


def test_the_connection_in_one_word() -> None:
    sim = Simulation()
    assert sim.state.connection == "connecting"
    link = sim.connect()
    assert sim.state.connection == "ready"
    sim.receive(link, wire.GATEWAY_CLOSING)
    assert sim.state.connection == "draining"
    sim.lose(link)
    assert sim.state.connection == "reconnecting"
    sim.drain(0.0)
    assert sim.state.connection == "stopped"


def test_a_worker_that_finishes_what_runs_is_stopping() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain(10.0)
    assert sim.state.connection == "stopping"
    assert [each.request_id for each in sim.state.in_flight] == ["r"]


def test_the_same_is_not_told_again_before_its_time() -> None:
    sim = Simulation()
    sim.connect()
    told = len(sim.told)
    snapshot.tell(sim.core.parts, sim.now)
    assert sim.core.telling.take() == []
    assert len(sim.told) == told
