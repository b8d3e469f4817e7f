"""The core in virtual time: lateness."""

from __future__ import annotations

from inngest_connect_asgi.messages import (
    Starved,
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
