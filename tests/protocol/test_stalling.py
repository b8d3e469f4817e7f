"""The core in virtual time: the app's event loop."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Stalled
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import State

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


@pytest.mark.parametrize("number", [0, 99])
def test_only_the_answer_that_is_awaited_ends_a_stall(number: int) -> None:
    sim = Simulation(stall_timeout=2.0)
    sim.connect(heartbeat="1h")
    sim.advance(3)
    sim.do(sim.core.pong(number, sim.now))
    assert sim.core.stalling.paused
    assert not sim.starts
    sim.pong()
    assert not sim.core.stalling.paused
    assert sim.starts
    assert sim.logs.count("The app's event loop answers again") == 1


def test_an_answer_is_told_soon_where_it_was_slow_or_known_to_be_awaited() -> None:
    for was_told, took, soon in [(True, 0.05, True), (False, 0.05, False)]:
        sim = Simulation()
        if was_told:
            sim.advance(0)
        sim.connect(heartbeat="1h")
        sim.advance(0)
        assert (sim.state.app_waiting_since is not None) == was_told
        sim.advance(took)
        sim.core.telling.state_at = None
        sim.pong()
        assert (sim.core.telling.state_at is not None) == soon
    sim = Simulation()
    sim.connect(heartbeat="1h")
    sim.advance(0.2)
    # Nobody was told that it is awaited, but it was slow.
    sim.core.telling.state_at = None
    sim.core.stalling.pong(sim.pings[-1], sim.now, is_news=False)
    assert sim.core.telling.state_at is not None


def test_a_stall_is_told_with_the_state_soon() -> None:
    sim = Simulation()
    sim.connect(heartbeat="1h")
    sim.advance(0.99)
    sim.core.telling.state_at = None
    sim.advance(0.01)
    assert sim.core.telling.state_at is not None


PAUSED = "Takes no requests until the app answers again"
ANSWERS = "The app's event loop answers again"


def test_a_stall_is_logged_when_it_is_too_long_and_when_it_is_over() -> None:
    sim = Simulation(stall_timeout=2.0)
    sim.connect(heartbeat="1h")
    sim.advance(1.99)
    assert not sim.core.stalling.paused
    assert sim.logs[1:] == []
    sim.advance(0.01)
    assert sim.core.stalling.paused
    assert sim.logs[1:] == [PAUSED]
    sim.advance(5)
    sim.pong()
    assert sim.logs[1:] == [PAUSED, ANSWERS]
    sim.connect()
    sim.advance(1)
    sim.pong()
    assert sim.logs.count(ANSWERS) == 1


def test_a_worker_that_stops_pauses_for_no_stall() -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.advance(5)
    assert not sim.core.stalling.paused
    assert PAUSED not in sim.logs
