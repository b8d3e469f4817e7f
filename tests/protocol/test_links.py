"""The core in virtual time: which connection is live, and what is said on each."""

from __future__ import annotations

from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.protocol.actions import Send
from inngest_connect_asgi.protocol.leases import Leases
from inngest_connect_asgi.protocol.link import TIMEOUTS, Link, Phase
from inngest_connect_asgi.protocol.links import Links
from inngest_connect_asgi.protocol.telling import STATE_INTERVAL, Telling
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation, lease


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
    return [wire.Kind(message.kind).name for _, message in sim.wire]


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
    told = len(sim.told)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    # It would be told at once, were it about the connection that is shown.
    assert len(sim.told) == told
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


class Alone:
    """Links with no core around them."""

    def __init__(self) -> None:
        self.telling = Telling(0.0)
        self.leases = Leases(5.0)
        self.withdrawn: list[Link] = []
        self.gone: list[tuple[Link, float]] = []
        self.links = Links(
            self.telling,
            self.leases,
            withdraw=self.withdrawn.append,
            gone=lambda link, now: self.gone.append((link, now)),
        )

    def live(self) -> Link:
        link = self.links.begin(0.0)
        for phase in (Phase.OPENING, Phase.GREETING, Phase.SYNCING):
            link.enter(phase, 0.0)
        self.links.go_live(link, 1.0)
        link.heartbeat_interval = 10.0
        return link

    def said(self) -> list[str]:
        """The kinds of frames that were sent since this was last asked."""
        return [
            wire.Kind(wire.ConnectMessage.FromString(action.data).kind).name
            if isinstance(action, Send)
            else type(action).__name__
            for action in self.telling.take()
        ]


def test_one_link_at_most_is_live_and_the_others_are_kept() -> None:
    alone = Alone()
    links = alone.links
    assert links.usable() is None
    first = alone.live()
    assert (links.live, links.attempt, links.several) == (first, None, False)
    assert first.live_at == 1.0
    second = alone.live()
    assert first.phase is Phase.RETIRING
    assert (links.live, links.usable(), links.several) == (second, second, True)
    third = links.begin(2.0)
    links.forget(first, 3.0)
    assert (links.live, links.attempt) == (second, third)
    assert alone.gone == [(first, 3.0)]
    assert list(links) == [second, third]
    assert links.get(first.id) is None
    links.retire(second, 4.0)
    assert (links.live, links.usable()) == (None, second)
    links.forget(third, 5.0)
    assert (links.attempt, links.several) == (None, False)
    fourth = alone.live()
    links.forget(fourth, 6.0)
    assert links.live is None
    assert len({first.id, second.id, third.id, fourth.id}) == 4


def test_the_first_answer_is_news_and_the_one_after_a_silence() -> None:
    alone = Alone()
    link = alone.live()
    told_at_once = []
    for beats in (1, 1, 2):
        for _ in range(beats):
            alone.links.heartbeat(link, 10.0)
            assert alone.telling.state_at == 10.0 + STATE_INTERVAL
        alone.links.heartbeat_answered(link, 10.0)
        told_at_once.append(alone.telling.state_at == 10.0)
        alone.telling.state_at = None
    assert told_at_once == [True, False, True]
    assert alone.said() == ["WORKER_HEARTBEAT"] * 4
    alone.links.heartbeat(link, 11.0)
    alone.telling.state_at = None
    alone.links.heartbeat_answered(link, 11.0)
    assert alone.telling.state_at == 11.0 + STATE_INTERVAL
    alone.links.retire(link, 12.0)
    alone.telling.state_at = None
    # It counts, but is not about the connection that is shown.
    alone.links.heartbeat_answered(link, 12.0)
    assert alone.telling.state_at is None
    assert link.heartbeat_answered_at == 12.0


def test_a_heartbeat_is_sent_when_it_is_due_until_nobody_answers() -> None:
    alone = Alone()
    link = alone.live()
    alone.links.heartbeat(link, 1.0)
    alone.telling.take()
    assert alone.links.tick(link, 10.9, stopping=False)
    assert alone.said() == []
    assert alone.links.tick(link, 11.0, stopping=False)
    assert (alone.said(), alone.links.heartbeats_missed) == (["WORKER_HEARTBEAT"], 1)
    assert not alone.links.tick(link, 21.0, stopping=False)
    assert (alone.said(), alone.links.heartbeats_missed) == ([], 2)
    alone.links.heartbeat_answered(link, 21.0)
    assert alone.links.tick(link, 21.0, stopping=False)
    assert (alone.said(), alone.links.heartbeats_missed) == (["WORKER_HEARTBEAT"], 2)


def test_a_pause_takes_back_what_waits_and_keeps_behind_an_acknowledgement() -> None:
    alone = Alone()
    link = alone.live()
    alone.links.pause(link, 2.0)
    alone.links.pause(link, 2.0)
    assert alone.withdrawn == [link]
    assert (alone.said(), link.pause_at) == (["WORKER_PAUSE"], None)
    link = alone.live()
    link.acked_at = 3.0
    alone.links.pause(link, 3.01)
    assert alone.said() == []
    alone.links.tick(link, 3.04, stopping=False)
    assert alone.said() == []
    alone.links.tick(link, 3.05, stopping=False)
    assert alone.said() == ["WORKER_PAUSE"]
    link = alone.live()
    link.acked_at = 3.0
    alone.links.pause(link, 60.0)
    assert alone.said() == ["WORKER_PAUSE"]


def test_a_link_that_is_closed_says_its_pause_and_nothing_after_that() -> None:
    alone = Alone()
    older, link = alone.live(), alone.live()
    link.next_status = link.next_heartbeat = link.acked_at = 5.0
    alone.links.close(older, 5.0)
    assert alone.links.live is link
    assert alone.said() == ["Close"]
    alone.links.pause(link, 5.0)
    alone.links.close(link, 5.0)
    assert alone.said() == ["WORKER_PAUSE", "Close"]
    assert alone.links.live is None
    assert alone.links.tick(link, 60.0, stopping=False)
    assert alone.said() == []


def test_a_status_report_is_sent_in_its_interval() -> None:
    alone = Alone()
    link = alone.live()
    alone.leases.hold(lease("r"), 0.0)
    link.status_interval, link.next_status = 3.0, 3.0
    for now, stopping in [(2.9, False), (3.0, False), (5.9, True), (6.0, True)]:
        assert alone.links.tick(link, now, stopping=stopping)
    first, second = (
        wire.WorkerStatusData.FromString(
            wire.ConnectMessage.FromString(action.data).payload
        )
        for action in alone.telling.take()
        if isinstance(action, Send)
    )
    assert list(first.in_flight_request_ids) == ["r"]
    assert (first.shutdown_requested, second.shutdown_requested) == (False, True)


def test_leases_are_extended_over_a_live_link_that_is_open() -> None:
    alone = Alone()
    assert alone.links.answering is None
    link = alone.live()
    assert alone.links.answering is None
    link.is_open = True
    assert alone.links.answering is link
    alone.links.retire(link, 2.0)
    assert alone.links.answering is None


def test_a_link_that_is_closed_is_in_its_last_phase() -> None:
    alone = Alone()
    link = alone.live()
    alone.links.close(link, 5.0)
    assert link.phase is Phase.CLOSING
    assert link.deadline == 5.0 + TIMEOUTS[Phase.CLOSING]
