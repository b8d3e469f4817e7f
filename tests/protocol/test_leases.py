from __future__ import annotations

from inngest_connect_asgi.messages import Lease
from inngest_connect_asgi.protocol.leases import Leases

from ..simulation import lease

A, B = lease("a"), lease("b")


def held(*some: str, interval: float = 5.0) -> Leases:
    leases = Leases(interval)
    for request_id in some:
        leases.hold(lease(request_id), 0.0)
    return leases


def due(leases: Leases, now: float) -> list[Lease]:
    return [each.lease for each in leases.due(now)]


def test_each_is_due_an_interval_after_it_was_touched() -> None:
    leases = held("a")
    leases.hold(B, 1.0)
    assert leases.next_due == 5.0
    assert leases.due(4.9) == []
    assert due(leases, 5.0) == [A]
    assert leases.next_due == 6.0
    assert due(leases, 20.0) == [B, A]
    assert leases.next_due == 25.0


def test_what_is_taken_up_from_another_runtime_is_due_at_once() -> None:
    leases = held("a")
    leases.hold(B, 1.0, extend_now=True)
    assert due(leases, 1.0) == [B]
    leases.hurry(A.delivery, 2.0)
    assert due(leases, 2.0) == [A]
    leases.hurry(lease("nobody").delivery, 2.0)
    assert leases.due(2.0) == []


def test_another_interval_makes_nothing_later() -> None:
    leases = held("a")
    leases.set_interval(60.0, 1.0)
    assert leases.next_due == 5.0
    leases.set_interval(2.0, 1.0)
    assert leases.next_due == 3.0


def test_what_is_known_of_a_lease() -> None:
    leases = held("a")
    assert A.delivery in leases
    assert leases.get(A.delivery) == leases.newest("a") == A
    assert leases.of("a") == A.delivery
    assert leases.get(B.delivery) is None
    assert leases.newest("b") is None
    assert leases.of("b") is None
    assert [each.lease for each in leases] == [A]
    assert (len(leases), leases.held) == (1, 1)
    assert leases.release(A.delivery)
    assert not leases.release(A.delivery)
    assert (len(leases), leases.held, leases.next_due) == (0, 0, None)


def test_the_release_of_an_older_delivery_leaves_the_newer_one() -> None:
    leases = Leases(5.0)
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    leases.hold(older, 0.0)
    leases.hold(newer, 0.0)
    assert leases.release(older.delivery)
    assert leases.of("job") == newer.delivery


def test_one_that_was_refused_is_asked_for_no_more_until_it_is_granted() -> None:
    leases = held("a")
    assert leases.lose(A.delivery) == A
    assert leases.lose(A.delivery) is None
    assert not leases.is_extended(A.delivery)
    assert (len(leases), leases.held, leases.lost) == (1, 0, 1)
    assert leases.due(100.0) == []
    assert leases.renew(A.delivery, "lease-1", 100.0)
    assert leases.is_extended(A.delivery)
    assert (leases.held, leases.lost, leases.extended) == (1, 0, 1)
    (extended,) = due(leases, 105.0)
    assert extended.lease_id == "lease-1"
    assert not leases.renew(B.delivery, "lease-1", 100.0)


def test_one_that_is_extended_keeps_its_place() -> None:
    leases = held("a", "b")
    assert leases.renew(A.delivery, "lease-1", 1.0)
    assert (leases.held, leases.lost, leases.extended) == (2, 0, 1)
    assert [each.lease_id for each in due(leases, 5.0)] == ["lease-1", "lease-0"]


def test_one_that_comes_again_is_held_under_its_newest_id() -> None:
    leases = held("a")
    since = next(iter(leases)).since
    leases.hold(lease("a"), 3.0)
    assert (len(leases), next(iter(leases)).since, leases.next_due) == (1, since, 8.0)


def test_one_that_has_a_reply_is_held_on() -> None:
    leases = held("a", "b")
    leases.answer(A.delivery, 1.0)
    assert [each.lease for each in leases.running.values()] == [B]
    assert leases.is_extended(A.delivery)
    (first, _) = leases.due(5.0)
    assert (first.lease, first.answered_at) == (A, 1.0)
    # Nobody has it, or it has one.
    leases.answer(A.delivery, 2.0)
    assert first.answered_at == 1.0
    # What the server has taken back is not asked for.
    leases.lose(B.delivery)
    leases.answer(B.delivery, 2.0)
    assert B.delivery not in leases
