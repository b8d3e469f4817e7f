"""How late the two event loops run."""

from __future__ import annotations

from inngest_connect_asgi.messages import Starved
from inngest_connect_asgi.protocol.watch import (
    PING_INTERVAL,
    STALL_LIMIT,
    STARVED_INTERVAL,
    STARVED_LIMIT,
    AppWatch,
    Lateness,
)

from ..simulation import Simulation


def test_starvation_is_told_once_in_a_while() -> None:
    sim = Simulation()
    for _ in range(3):
        sim.do(sim.core.late(5.0, sim.now))
    assert [m for m in sim.told if isinstance(m, Starved)] == [Starved(5.0)]
    assert sim.state.runtime_lag == 0.0
    sim.advance(1)
    assert sim.state.runtime_lag == 5.0


def test_lateness_is_told_once_in_a_while_and_the_most_of_it_kept() -> None:
    lateness = Lateness()
    assert not lateness.add(STARVED_LIMIT / 2, 0.0)
    assert lateness.add(STARVED_LIMIT, 0.0)
    assert not lateness.add(9.0, STARVED_INTERVAL - 1)
    assert lateness.add(STARVED_LIMIT, STARVED_INTERVAL)
    assert (lateness.take(), lateness.take()) == (9.0, 0.0)


def test_the_app_is_pinged_again_after_its_answer() -> None:
    watch = AppWatch()
    assert watch.next_tick is None
    watch.start(1.0)
    assert watch.next_tick == 1.0
    number = watch.ping(1.0)
    assert watch.next_tick == watch.stall_at == 1.0 + STALL_LIMIT
    watch.pong(number + 1, 1.2)
    assert watch.waiting_since == 1.0
    watch.pong(number, 1.5)
    assert (watch.lag, watch.next_tick) == (0.5, 1.5 + PING_INTERVAL)
    # The answer to what was answered already is none.
    watch.pong(number, 9.0)
    assert watch.lag == 0.5


def test_a_stall_is_told_once() -> None:
    watch = AppWatch()
    watch.ping(0.0)
    watch.told = True
    assert watch.stall_at is watch.next_tick is None
    watch.ping(5.0)
    assert watch.stall_at == 5.0 + STALL_LIMIT
