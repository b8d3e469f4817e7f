"""The core in virtual time: what is logged, and when."""

from __future__ import annotations

from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from ..simulation import Simulation


def test_nonsense_is_counted_and_logged_once_and_the_link_goes_on() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(100):
        sim.do(sim.core.received(link, b"\xff\xff\xff", sim.now))
        sim.do(sim.core.received(link, "text", sim.now))
        sim.receive(link, 77)  # type: ignore[arg-type]
        sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST, b"\xff\xff")
        sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST)
        sim.request(link, "r", app="unknown")
    sim.request(link, "good")
    sim.write(link)
    assert sim.requested == {"good": 1}
    assert len([text for text in sim.logs if text.startswith("Ignored")]) == 6
    sim.advance(1)
    assert sim.state.malformed == 500


def test_the_state_is_in_the_time_of_a_clock_that_was_set() -> None:
    sim = Simulation()
    sim.connect()
    sim.core.telling.epoch = 1000.0
    sim.advance(11)
    assert 1010.0 < sim.state.at <= 1000.0 + sim.now
    assert sim.state.heartbeat_sent_at is not None
    assert sim.state.heartbeat_sent_at == 1010.0
