"""The core in virtual time: which connection is live, and what is said on each."""

from __future__ import annotations

from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from ..simulation import Simulation


def test_answered_heartbeats_keep_a_link_alive() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(20):
        sim.receive(link, wire.GATEWAY_HEARTBEAT)
        sim.advance(10)
        sim.write(link)
    assert len(sim.sent(wire.WORKER_HEARTBEAT)) == 21
    assert (sim.state.heartbeats_missed, sim.state.reconnects) == (0, 0)


def test_a_starved_runtime_sends_no_burst_of_heartbeats() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.now = 60.0
    sim.do(sim.core.tick(sim.now))
    assert len(sim.queued[link]) == 1
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.advance(10)
    assert sim.state.connection == "ready"


def test_a_status_report_names_the_requests_in_flight() -> None:
    sim = Simulation()
    link = sim.connect(status="3s")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(3)
    sim.write(link)
    (data,) = sim.sent(wire.WORKER_STATUS)
    status = wire.WorkerStatusData.FromString(data)
    assert list(status.in_flight_request_ids) == ["r"]
    assert not status.shutdown_requested


def test_a_drain_overlaps() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.request(old, "r")
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    assert sim.state.connection == "draining"
    sim.advance(0.3)
    body = next(iter(sim.starts.values())).body
    assert wire.StartRequest.FromString(body).exclude_gateways == ["group"]
    assert old not in sim.closing
    new = sim.connect()
    assert sim.state.connection == "ready"
    assert sim.closing[old].reason == "WORKER_SHUTDOWN"
    sim.result("r")
    sim.write(new)
    assert sim.wire[-1][0] == new


def test_an_old_link_waits_for_the_acks_of_its_replies() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.request(old, "r")
    sim.write(old)
    sim.result("r")
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(0.3)
    sim.connect()
    assert old not in sim.closing
    sim.ack(old, "r")
    assert old in sim.closing


def kinds(sim: Simulation) -> list[str]:
    return [wire.Kind.Name(message.kind) for _, message in sim.wire]


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


def test_a_link_is_not_closed_just_behind_an_acknowledgement() -> None:
    sim = Simulation(stall_timeout=2.0)
    old = sim.connect(heartbeat="1h")
    sim.advance(1.99)
    sim.request(old, "r")
    sim.write(old)
    sim.advance(0.01)
    sim.pong()
    sim.connect()
    assert old not in sim.closing
    sim.advance(0.05)
    sim.write(old)
    assert wire.WORKER_PAUSE in [m.kind for link, m in sim.wire if link == old]
    assert old in sim.closing


def test_an_answer_on_a_link_that_retires_is_no_news() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.advance(0)
    before = sim.core.telling.state_at
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    assert sim.core.telling.state_at == before
    retiring = sim.core.links.get(link)
    assert retiring is not None
    assert retiring.unanswered == 0


def test_a_link_is_paused_once() -> None:
    sim = Simulation()
    sim.connect(heartbeat="1h")
    live = sim.core.links.live
    assert live is not None
    for _ in range(2):
        sim.core.links.pause(live, sim.now)
        sim.do(sim.core.tick(sim.now))
        sim.write(live.id)
    assert len(sim.sent(wire.WORKER_PAUSE)) == 1
