"""The core in virtual time: whose delivery is it."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Delivered, Delivery, Outcome, Wanted
from inngest_connect_asgi.protocol.deliveries import SETTLED_REMEMBERED, Deliveries
from inngest_connect_asgi.protocol.leases import Leases
from inngest_connect_asgi.protocol.replies import Replies
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation, lease
from .twice import FIRST, SECOND, replies, take


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


def test_an_id_that_comes_with_a_new_lease_is_run_again() -> None:
    sim = Simulation()
    link = sim.connect()
    for number in range(3):
        sim.request(link, "job", lease_id=f"lease-{number}")
        sim.write(link)
        sim.result("job", lease_id=f"lease-{number}")
        sim.write(link)
        sim.ack(link, "job")
    assert sim.requested == {"job": 3}
    assert len(sim.sent(wire.WORKER_REPLY)) == 3


def test_a_newer_delivery_supersedes_what_still_runs() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    assert extensions(sim) == [(link, "second")]
    sim.result("job", lease_id="first")
    sim.write(link)
    # It would be taken for the answer to the second.
    assert not sim.sent(wire.WORKER_REPLY)
    assert any("Dropped a reply" in text for text in sim.logs)
    sim.result("job", Outcome(200, b'"second"'), lease_id="second")
    sim.write(link)
    (reply,) = sim.sent(wire.WORKER_REPLY)
    assert wire.SDKResponse.FromString(reply).body == b'"second"'


def test_a_newer_delivery_supersedes_a_reply_that_waits() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.lose(link)
    sim.result("job", lease_id="first")
    sim.flush_answer("job", 503)
    sim.advance(1)
    link = sim.connect()
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    # One was under way.
    sim.flush_answer("job", 503)
    sim.advance(60)
    assert not sim.flushes
    assert any("Dropped a reply" in text for text in sim.logs)
    sim.result("job", lease_id="second")
    assert sim.core.replies.get(Delivery("job", "second"))


def test_a_refusal_of_what_was_superseded_says_nothing_of_the_newer_one() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "job", lease_id="first")
    sim.write(link)
    sim.advance(5)
    sim.write(link)
    sim.request(link, "job", lease_id="second")
    sim.write(link)
    sim.extended(link, "job", None)
    sim.advance(5)
    sim.write(link)
    assert extensions(sim)[-1] == (link, "second")
    assert sim.core.leases.lost == 0


MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize("same_link", [True, False])
def test_an_ack_is_about_what_was_written_first_on_its_link(same_link: bool) -> None:
    sim = Simulation()
    link = newer = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    if not same_link:
        sim.advance(1.0)
        sim.receive(link, wire.GATEWAY_CLOSING)
        sim.advance(0.3)
        newer = sim.connect()
    take(sim, newer, SECOND)
    sim.result("job", lease_id="lease-2")
    sim.write(newer)
    sim.ack(link, "job")
    assert Delivered(SECOND) not in sim.told
    assert sim.core.replies.get(SECOND)
    sim.ack(newer, "job")
    assert Delivered(SECOND) in sim.told


def test_an_ack_that_comes_after_its_reply_was_flushed_is_about_no_other() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    take(sim, link, FIRST)
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    sim.advance(5)
    sim.flush_answer("job")
    take(sim, link, SECOND)
    sim.result("job", lease_id="lease-2")
    sim.write(link)
    sim.ack(link, "job")
    assert Delivered(SECOND) not in sim.told


def test_a_reply_that_waits_is_not_written_behind_the_ack_of_a_newer_delivery() -> None:
    sim = Simulation()
    link = sim.connect()
    take(sim, link, FIRST)
    sim.result("job", Outcome(200, b"1"), lease_id="lease-1")
    waiting, sim.queued[link] = sim.queued[link], []
    take(sim, link, SECOND)
    sim.queued[link] = waiting
    sim.write(link)
    assert not replies(sim)
    sim.result("job", Outcome(200, b"2"), lease_id="lease-2")
    sim.write(link)
    assert replies(sim) == [b"2"]
    assert sim.core.links.live is not None
    assert sim.core.links.live.queued == 0


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_reply_that_is_superseded_leaves_its_room_to_others(is_asked: bool) -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    take(sim, link, FIRST)
    big = Outcome(200, b"x" * 12 * MEBIBYTE)
    if is_asked:
        sim.result("other", big)
    sim.result("job", big, lease_id="lease-1")
    if is_asked:
        # The app is asked for it, and takes its time.
        (action,) = sim.queued[link]
        sim.queued[link] = []
        asked = sim.core.sent(action, sim.now)
        assert any(getattr(each, "message", None) == Wanted(FIRST) for each in asked)
        sim.ack(link, "other")
    else:
        sim.queued[link] = []
    sim.result("last", big)
    assert not sim.queued[link]
    take(sim, link, SECOND)
    assert [body == big.body for body in replies(sim)] == [True]
    assert sim.core.links.live is not None
    assert sim.core.links.live.queued == 0


def deliveries() -> Deliveries:
    return Deliveries(Leases(5.0), Replies(10**6))


def test_what_is_ours() -> None:
    known = deliveries()
    held, replied, settled = lease("held"), lease("replied"), lease("settled")
    known.leases.hold(held, 0.0)
    known.replies.add(replied, 1, None)
    known.settle(settled.delivery)
    for each in (held, replied, settled):
        assert known.is_ours(each.delivery)
    assert not known.is_ours(lease("other").delivery)
    assert known.is_settled(settled.delivery)
    assert not known.is_settled(held.delivery)


def test_a_delivery_is_superseded_by_a_newer_lease_of_its_request() -> None:
    known = deliveries()
    known.leases.hold(lease("job", "lease-2"), 0.0)
    assert known.is_superseded(FIRST)
    assert not known.was_superseded(FIRST)
    assert not known.is_superseded(SECOND)
    known.supersede(FIRST)
    assert known.was_superseded(FIRST)
    assert known.is_superseded(FIRST)
    assert not known.is_superseded(lease("other").delivery)


def test_of_several_all_but_the_newest_are_superseded() -> None:
    known = deliveries()
    third = Delivery("job", "lease-3")
    known.supersede_all_but_the_newest([SECOND, third, FIRST, SECOND])
    assert known.was_superseded(FIRST)
    assert known.was_superseded(SECOND)
    assert not known.was_superseded(third)


def test_what_is_over_is_remembered_for_a_while() -> None:
    known = deliveries()
    for number in range(SETTLED_REMEMBERED + 1):
        known.settle(Delivery(f"r{number}", "lease"))
        known.supersede(Delivery(f"r{number}", "lease"))
    first, second = Delivery("r0", "lease"), Delivery("r1", "lease")
    assert not known.is_settled(first)
    assert not known.was_superseded(first)
    assert known.is_settled(second)
    assert known.was_superseded(second)


def test_of_more_than_two_deliveries_the_newest_alone_counts() -> None:
    for order in ("abc", "bca", "cab", "cba"):
        deliveries = Deliveries(Leases(5.0), Replies(1))
        several = [Delivery("job", lease_id) for lease_id in order]
        deliveries.supersede_all_but_the_newest([*several, Delivery("other", "a")])
        assert {
            each.lease_id for each in several if deliveries.was_superseded(each)
        } == {"a", "b"}
        assert not deliveries.was_superseded(Delivery("other", "a"))


def test_what_comes_twice_in_a_list_does_not_supersede_itself() -> None:
    deliveries = Deliveries(Leases(5.0), Replies(1))
    deliveries.supersede_all_but_the_newest([Delivery("job", "a")] * 2)
    assert not deliveries.was_superseded(Delivery("job", "a"))


def test_what_was_superseded_stays_so_when_nothing_is_held_any_more() -> None:
    deliveries = Deliveries(Leases(5.0), Replies(1))
    deliveries.supersede(Delivery("job", "a"))
    assert deliveries.is_superseded(Delivery("job", "a"))
    assert not deliveries.is_superseded(Delivery("job", "b"))
