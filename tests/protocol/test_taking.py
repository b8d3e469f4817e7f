"""The core in virtual time: requests and leases."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Delivery, Extended, Withdrawn
from inngest_connect_asgi.protocol.actions import Send
from inngest_connect_asgi.protocol.telling import STATE_INTERVAL
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation, lease
from .twice import FIRST, SECOND, take


def test_a_request_runs_once_its_ack_is_on_the_wire() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    assert not sim.requested
    sim.write(link)
    assert sim.requested == {"r": 1}
    (ack,) = sim.sent(wire.WORKER_REQUEST_ACK)
    assert wire.WorkerRequestAckData.FromString(ack).request_id == "r"


def test_a_request_whose_ack_was_never_written_is_not_run() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    assert sim.offered == {Delivery("r", "lease-0")}
    sim.lose(link)
    sim.advance(30)
    assert not sim.requested
    assert not sim.offered
    assert not len(sim.core.leases)


def test_a_request_that_came_over_two_links_is_kept_for_the_other() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.request(old, "r")
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(1)
    new = sim.connect()
    sim.request(new, "r")
    sim.lose(old)
    assert sim.offered == {Delivery("r", "lease-0")}
    sim.write(new)
    assert sim.requested == {"r": 1}


def test_a_request_that_comes_again_is_run_once() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(2):
        sim.request(link, "r")
        sim.write(link)
    sim.result("r")
    sim.request(link, "r")
    sim.write(link)
    sim.ack(link, "r")
    sim.request(link, "r")
    sim.write(link)
    assert sim.requested == {"r": 1}
    assert len(sim.sent(wire.WORKER_REQUEST_ACK)) == 4
    assert len(sim.sent(wire.WORKER_REPLY)) == 1


def test_a_lease_is_extended_with_the_id_of_the_last_answer() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    ids = []
    for number in range(1, 4):
        sim.advance(5)
        sim.write(link)
        data = sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)[-1]
        ids.append(wire.WorkerRequestExtendLeaseData.FromString(data).lease_id)
        sim.extended(link, "r", f"lease-{number}")
    assert ids == ["lease-0", "lease-1", "lease-2"]
    assert Extended(Delivery("r", "lease-0"), "lease-3") in sim.told


def test_a_request_without_a_lease_runs_and_nothing_is_extended() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r", lease_id="")
    sim.write(link)
    sim.advance(60)
    sim.write(link)
    assert sim.requested == {"r": 1}
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)


def test_a_lease_that_is_refused_is_not_asked_for_again() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.extended(link, "r", None)
    sim.extended(link, "r", None)
    sim.advance(60)
    sim.write(link)
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    assert (sim.core.leases.lost, len(sim.core.leases)) == (1, 1)
    assert sum("took back the lease" in text for text in sim.logs) == 1


def test_leases_are_extended_at_once_over_a_new_connection() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.lose(link)
    sim.advance(10)
    link = sim.connect()
    sim.advance(0.001)
    sim.write(link)
    assert sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)


def test_answers_nobody_asked_for_are_ignored() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.ack(link, "never")
    sim.extended(link, "never", "lease-1")
    sim.extended(link, "never", None)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.do(sim.core.received(99, b"", sim.now))
    sim.do(sim.core.start_answered(99, 200, b"", sim.now))
    sim.do(sim.core.lost(99, "", sim.now))
    sim.do(sim.core.sent(Send(99, b"", Delivery("never", "")), sim.now))
    sim.do(sim.core.opened(99, sim.now))
    never = Delivery("never", "")
    sim.do(sim.core.flush_answered(never, 200, b"", sim.now))
    sim.advance(5)
    assert sim.state.connection == "ready"
    assert not sim.delivered


def extensions(sim: Simulation) -> list[tuple[int, str]]:
    """The leases that were extended: over which link, under which id."""
    return [
        (
            link,
            wire.WorkerRequestExtendLeaseData.FromString(message.payload).lease_id,
        )
        for link, message in sim.wire
        if message.kind == wire.WORKER_REQUEST_EXTEND_LEASE
    ]


@pytest.mark.parametrize("why", ["drain", "stall", "closing"])
def test_an_acknowledgement_that_waits_is_withdrawn(why: str) -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    waiting, sim.queued[link] = sim.queued[link], []
    if why == "drain":
        sim.drain()
    elif why == "stall":
        sim.advance(2.0)
    else:
        sim.receive(link, wire.GATEWAY_CLOSING)
    sim.queued[link] += waiting
    sim.write(link)
    assert Withdrawn(Delivery("r", "lease-0")) in sim.told
    assert wire.WORKER_REQUEST_ACK not in [m.kind for _, m in sim.wire]
    assert not sim.requested


def test_nothing_is_taken_on_a_link_that_closes() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.request(link, "behind")
    sim.write(link)
    assert not sim.requested
    assert not sim.sent(wire.WORKER_REQUEST_ACK)


def test_what_comes_again_under_its_lease_goes_on_under_the_newest_id() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.extended(link, "r", "lease-1")
    sim.request(link, "r")
    sim.advance(5)
    sim.write(link)
    assert [lease_id for _, lease_id in extensions(sim)] == ["lease-0", "lease-1"]
    assert sim.requested == {"r": 1}


def test_a_lease_that_was_refused_is_taken_up_when_it_comes_again() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.extended(link, "r", None)
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    assert len(extensions(sim)) == 2
    assert sim.requested == {"r": 1}


def test_no_lease_is_extended_over_a_link_that_is_retired() -> None:
    sim = Simulation()
    old = sim.connect(heartbeat="1h")
    sim.request(old, "r")
    sim.write(old)
    sim.advance(4.9)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(5)
    sim.write(old)
    assert not extensions(sim)
    new = sim.connect()
    sim.advance(0.001)
    sim.write(new)
    assert extensions(sim) == [(new, "lease-0")]


@pytest.mark.parametrize("kind", ["heartbeat", "request"])
def test_no_lease_is_extended_before_the_gateway_is_sure_to_answer(kind: str) -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.lose(link)
    sim.advance(0)
    sim.start_answer()
    new = sim.open()
    sim.receive(new, wire.GATEWAY_HELLO)
    sim.ready(new, heartbeat="1h")
    sim.advance(20)
    sim.write(new)
    assert len(extensions(sim)) == 1
    if kind == "heartbeat":
        sim.receive(new, wire.GATEWAY_HEARTBEAT)
    else:
        sim.request(new, "another")
    sim.advance(0.001)
    sim.write(new)
    assert extensions(sim)[1:] == [(new, "lease-0")]


def test_a_link_is_kept_until_it_has_said_what_became_of_a_lease() -> None:
    sim = Simulation()
    old = sim.connect(heartbeat="1h")
    sim.request(old, "r")
    sim.write(old)
    sim.advance(5)
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(0.3)
    new = sim.connect(heartbeat="1h")
    sim.advance(4)
    sim.write(new)
    assert old not in sim.closing
    # Nor is it extended over another one, under an id that may be an old one.
    assert extensions(sim) == [(old, "lease-0")]
    sim.extended(old, "r", "lease-1")
    assert old in sim.closing
    sim.advance(4)
    sim.write(new)
    assert extensions(sim)[1:] == [(new, "lease-1")]


def test_a_lease_without_an_answer_is_extended_at_once_over_the_next_link() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.lose(link)
    sim.advance(0)
    new = sim.connect()
    sim.advance(0.001)
    sim.write(new)
    assert extensions(sim)[1:] == [(new, "lease-0")]


def test_a_refusal_of_an_id_that_was_replaced_is_no_loss() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(10)
    sim.write(link)
    # Two under the same id: the first was granted, the second came too late.
    sim.extended(link, "r", "lease-1")
    sim.extended(link, "r", None)
    sim.advance(5)
    sim.write(link)
    assert [lease_id for _, lease_id in extensions(sim)] == [
        "lease-0",
        "lease-0",
        "lease-1",
    ]
    assert sim.core.leases.lost == 0


def test_a_lease_that_is_granted_after_a_refusal_is_held_again() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(10)
    sim.write(link)
    # The gateway does not answer in order.
    sim.extended(link, "r", None)
    sim.extended(link, "r", "lease-1")
    sim.advance(5)
    sim.write(link)
    assert extensions(sim)[-1] == (link, "lease-1")
    assert sim.core.leases.lost == 0
    assert Extended(Delivery("r", "lease-0"), "lease-1") in sim.told


def test_a_request_for_an_unknown_app_is_left_to_another_worker() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(2):
        sim.request(link, "job", app="unknown")
    sim.write(link)
    assert not sim.sent(wire.WORKER_REQUEST_ACK)
    assert len([text for text in sim.logs if "unknown app" in text]) == 1


def test_what_was_sent_anew_is_not_taken_under_its_older_lease() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    take(sim, link, SECOND)
    assert sim.core.deliveries.was_superseded(FIRST)
    sim.request(link, "job", lease_id="lease-1")
    assert not sim.queued[link]
    assert sim.core.leases.of("job") == SECOND


def test_an_acknowledgement_of_what_was_withdrawn_is_no_acceptance() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    (ack,) = sim.queued[link]
    live = sim.core.links.get(link)
    assert live is not None
    sim.core.taking.withdraw(live)
    sim.do(sim.core.sent(ack, sim.now))
    assert not sim.requested
    assert not sim.offered


def test_the_end_of_time_gives_up_what_runs_and_says_so() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    assert sim.core.taking.waits
    sim.drain(1.0)
    sim.advance(1.0)
    assert not sim.core.taking.waits
    assert any("before a run finished" in text for text in sim.logs)


def test_an_extension_of_what_is_over_or_nobody_has_is_nothing() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "job")
    sim.write(link)
    sim.extended(link, "other", "lease-1")
    # Nobody asked, but it is about what is held.
    sim.extended(link, "job", "lease-1")
    assert sim.core.leases.extended == 1
    sim.advance(5)
    sim.write(link)
    sim.result("job")
    sim.write(link)
    sim.ack(link, "job")
    sim.extended(link, "job", "lease-2")
    sim.extended(link, "job", None)
    assert (sim.core.leases.extended, sim.core.leases.lost) == (1, 0)


def answered(sim: Simulation) -> int:
    """A link that is to carry a reply."""
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    return link


def test_a_lease_is_extended_until_the_server_has_the_reply() -> None:
    sim = Simulation()
    link = answered(sim)
    # However long that is on its way.
    for number in range(1, 100):
        sim.advance(5)
        _reply, extension = sim.queued[link]
        sim.queued[link].pop()
        message = wire.ConnectMessage.FromString(extension.data)
        assert message.kind == wire.WORKER_REQUEST_EXTEND_LEASE
        data = wire.WorkerRequestExtendLeaseData.FromString(message.payload)
        assert data.lease_id == f"lease-{number - 1}"
        sim.extended(link, "r", f"lease-{number}")
        assert Extended(Delivery("r", "lease-0"), f"lease-{number}") in sim.told
    sim.write(link)
    sim.ack(link, "r")
    assert not len(sim.core.leases)
    sim.advance(5)
    assert not sim.queued.get(link)


def test_a_reply_that_nobody_takes_does_not_hold_its_request_for_ever() -> None:
    sim = Simulation()
    link = answered(sim)
    sim.write(link)
    for number in range(1, 4):
        sim.advance(5)
        sim.write(link)
        if number < 3:
            sim.extended(link, "r", f"lease-{number}")
    assert len(extensions(sim)) == 3
    sim.advance(5)
    sim.write(link)
    assert len(extensions(sim)) == 3
    assert not len(sim.core.leases)
    # The next runtime would extend it once more, under its newest id.
    sim.extended(link, "r", "lease-3")
    assert Extended(Delivery("r", "lease-0"), "lease-3") in sim.told
    # It is not given up, for all that.
    assert sim.core.replies.of("r")


def test_a_lease_that_is_refused_when_there_is_a_reply_is_no_loss() -> None:
    sim = Simulation()
    link = answered(sim)
    sim.advance(5)
    sim.write(link)
    sim.extended(link, "r", None)
    assert not len(sim.core.leases)
    assert sim.core.leases.lost == 0
    assert not any("took back" in text for text in sim.logs)


def test_a_reply_to_what_was_refused_asks_for_no_lease() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.extended(link, "r", None)
    sim.result("r")
    assert not len(sim.core.leases)


def test_a_runtime_that_died_may_have_acknowledged_what_it_was_about_to() -> None:
    sim = Simulation(offered=[lease("job")])
    assert Withdrawn(lease("job").delivery) in sim.told
    assert not sim.requested


def test_what_runs_and_came_again_is_not_withdrawn_with_its_link() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job")
    sim.write(link)
    sim.request(link, "job")
    assert len(sim.queued[link]) == 1
    sim.lose(link)
    assert not any(isinstance(message, Withdrawn) for message in sim.told)
    assert lease("job").delivery in sim.core.leases


def test_what_waits_to_be_acknowledged_is_waited_for() -> None:
    sim = Simulation()
    link = sim.connect()
    assert not sim.core.taking.waits
    sim.request(link, "r")
    assert sim.core.taking.waits
    sim.write(link)
    assert sim.core.taking.waits
    sim.result("r")
    assert not sim.core.taking.waits


def test_an_acknowledgement_is_dated_and_what_it_begins_is_told() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.advance(0.5)
    sim.request(link, "r")
    sim.core.telling.state_at = None
    sim.write(link)
    live = sim.core.links.live
    assert live is not None
    assert live.acked_at == sim.now
    assert sim.core.telling.state_at == sim.now + STATE_INTERVAL


def test_nothing_is_taken_on_a_link_that_is_paused() -> None:
    sim = Simulation()
    link = sim.connect()
    live = sim.core.links.live
    assert live is not None
    sim.core.links.pause(live, sim.now)
    sim.request(link, "r")
    assert not sim.offered
    assert not live.unsent_acks


def test_what_comes_again_while_it_runs_keeps_its_newer_id() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.extended(link, "r", "lease-1")
    sim.request(link, "r")
    sim.write(link)
    held = sim.core.leases.newest("r")
    assert held is not None
    assert held.lease_id == "lease-1"
    assert [m for m in sim.told if isinstance(m, Extended)] == [
        Extended(Delivery("r", "lease-0"), "lease-1")
    ]


def test_what_comes_again_when_it_was_refused_has_its_first_id() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.extended(link, "r", "lease-1")
    sim.extended(link, "r", None)
    sim.request(link, "r")
    sim.write(link)
    assert [m for m in sim.told if isinstance(m, Extended)] == [
        Extended(Delivery("r", "lease-0"), "lease-1"),
        # The app, which keeps the id for the next runtime, has it back.
        Extended(Delivery("r", "lease-0"), "lease-0"),
    ]
    assert sim.core.leases.is_extended(Delivery("r", "lease-0"))


def test_a_newer_delivery_takes_the_place_of_all_of_the_older() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    for lease_id in ("first", "second"):
        sim.request(link, "job", lease_id=lease_id)
        sim.write(link)
    assert [held.lease.delivery for held in sim.core.leases] == [
        Delivery("job", "second")
    ]
    assert sim.core.deliveries.was_superseded(Delivery("job", "first"))
    sim.result("job", lease_id="second")
    reply = Delivery("job", "second")
    assert sim.core.replies.get(reply)
    sim.request(link, "job", lease_id="third")
    sim.write(link)
    assert not sim.core.replies.get(reply)


def test_what_is_taken_up_again_supersedes_nothing() -> None:
    sim = Simulation()
    for _ in range(2):
        sim.core.taking.take_up(lease("r"), sim.now)
    assert not sim.core.deliveries.was_superseded(Delivery("r", "lease-0"))
    assert len(sim.core.leases) == 1


def test_a_lease_that_is_lost_is_told_soon() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.core.telling.state_at = None
    sim.extended(link, "r", None)
    assert sim.core.telling.state_at == sim.now + STATE_INTERVAL
