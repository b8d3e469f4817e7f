"""The core in virtual time: the app's event loop."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import (
    Stalled,
    State,
)
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from ..simulation import Simulation


def test_a_stalled_app_is_told_of_once() -> None:
    sim = Simulation()
    sim.connect(heartbeat="1h")
    sim.advance(5)
    stalls = [m for m in sim.told if isinstance(m, Stalled)]
    assert len(stalls) == 1
    assert sim.state.app_waiting_since is not None
    sim.pong()
    sim.advance(1)
    assert sim.state.app_waiting_since is None
    assert sim.state.app_lag == pytest.approx(5, abs=0.1)


def test_a_stalled_app_gets_no_requests_until_it_answers() -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect(heartbeat="1h")
    sim.request(link, "before")
    sim.write(link)
    sim.advance(2)
    sim.write(link)
    assert sim.sent(wire.WORKER_PAUSE)
    assert sim.state.paused
    sim.request(link, "during")
    sim.write(link)
    assert list(sim.requested) == ["before"]
    sim.pong()
    new = sim.connect(heartbeat="1h")
    assert link in sim.closing
    sim.request(new, "after")
    sim.write(new)
    assert list(sim.requested) == ["before", "after"]
    assert not sim.state.paused


def test_a_connection_made_during_a_stall_is_paused() -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect()
    sim.advance(3)
    sim.lose(link)
    sim.advance(0)
    sim.connect()
    assert len(sim.sent(wire.WORKER_READY)) == 1
    sim.pong()
    sim.connect()
    assert len(sim.sent(wire.WORKER_READY)) == 2


def test_a_quick_answer_is_no_news() -> None:
    sim = Simulation()
    sim.connect(heartbeat="1h")
    sim.advance(0.01)
    sim.pong()
    told = [m for m in sim.told if isinstance(m, State)]
    sim.advance(1.005)
    sim.pong()
    assert [m for m in sim.told if isinstance(m, State)] == told


def test_a_stall_while_there_is_no_connection_pauses_none() -> None:
    sim = Simulation(stall_timeout=2.0)
    sim.advance(5)
    assert sim.state.paused
    sim.connect()
    assert not sim.sent(wire.WORKER_READY)
