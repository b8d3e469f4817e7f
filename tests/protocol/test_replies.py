from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Delivery
from inngest_connect_asgi.protocol.replies import Replies, Reply

from ..simulation import lease

LINK = 1


def replies(*some: str, link: int | None = None, capacity: int = 10**6) -> Replies:
    kept = Replies(capacity)
    for request_id in some:
        kept.add(lease(request_id), 10, link)
    return kept


def delivery(request_id: str) -> Delivery:
    return lease(request_id).delivery


def name(reply: Reply | None) -> str | None:
    return None if reply is None else reply.delivery.request_id


def test_what_is_known_of_a_reply() -> None:
    kept = replies("a", link=LINK)
    reply = kept.get(delivery("a"))
    assert reply is kept.of("a")
    assert delivery("a") in kept
    assert list(kept) == [reply]
    assert (len(kept), kept.size) == (1, 10)
    assert kept.settle(delivery("a")) is reply
    assert kept.settle(delivery("a")) is None
    assert kept.of("a") is None
    assert (len(kept), kept.size) == (0, 0)


def test_of_two_deliveries_the_newer_is_the_one_of_the_request() -> None:
    kept = Replies(10**6)
    older = kept.add(lease("job", "lease-1"), 1, None)
    newer = kept.add(lease("job", "lease-2"), 1, None)
    assert kept.of("job") is newer
    kept.settle(older.delivery)
    assert kept.of("job") is newer
    kept.settle(newer.delivery)
    assert kept.of("job") is None


# Over a connection


def test_an_ack_is_awaited_once_the_reply_is_on_the_wire() -> None:
    kept = replies("a", "b", link=LINK)
    assert kept.next_ack_by is None
    assert kept.is_queued(delivery("a"))
    kept.sent(delivery("a"), LINK, 5.0)
    kept.sent(delivery("b"), LINK, 6.0)
    assert not kept.is_queued(delivery("a"))
    assert kept.next_ack_by == 5.0
    assert kept.expire(4.9) == 0
    assert kept.expire(5.0) == 1
    assert kept.next_ack_by == 6.0
    assert list(kept.waiting) == [delivery("a")]
    assert not kept.is_queued(delivery("a"))


@pytest.mark.parametrize(("request_id", "link"), [("nobody", LINK), ("a", LINK + 1)])
def test_what_is_sent_elsewhere_is_no_matter(request_id: str, link: int) -> None:
    kept = replies("a", link=LINK)
    kept.sent(delivery(request_id), link, 5.0)
    assert kept.next_ack_by is None


def test_a_link_is_kept_for_the_acks_of_its_replies() -> None:
    kept = replies("a", "b", link=LINK)
    assert kept.unacknowledged(LINK)
    assert not kept.unacknowledged(LINK + 1)
    kept.settle(delivery("a"))
    assert kept.unacknowledged(LINK)
    kept.settle(delivery("b"))
    assert not kept.unacknowledged(LINK)


def test_what_a_lost_link_carried_waits_for_the_flush_api() -> None:
    kept = replies("a", "b", link=LINK)
    kept.sent(delivery("a"), LINK, 5.0)
    kept.postpone(next(reply for reply in kept if name(reply) == "b"))
    kept.link_lost(LINK)
    kept.link_lost(LINK)
    assert set(kept.waiting) == {delivery("a"), delivery("b")}
    assert kept.next_ack_by is None
    assert kept.next_postponed(LINK) is None


def test_there_is_room_for_what_has_waited_longest() -> None:
    kept = replies("a", "b", "c", link=LINK)
    for reply in kept:
        kept.postpone(reply)
    assert not kept.is_queued(delivery("a"))
    kept.settle(delivery("a"))
    assert name(kept.next_postponed(LINK)) == "b"
    assert kept.is_queued(delivery("b"))
    assert name(kept.next_postponed(LINK)) == "c"
    assert kept.next_postponed(LINK) is None


# To the flush API


def test_those_that_were_never_flushed_go_first() -> None:
    kept = replies("a", "b")
    assert kept.fresh
    assert name(kept.next_to_flush(0.0, retry=True)) == "a"
    assert kept.is_flushing(delivery("a"))
    kept.flush_failed(delivery("a"), 1.0)
    assert not kept.is_flushing(delivery("a"))
    assert kept.next_retry == 1.0
    assert name(kept.next_to_flush(9.0, retry=True)) == "b"
    assert not kept.fresh
    assert kept.next_to_flush(0.9, retry=True) is None
    assert kept.next_to_flush(1.0, retry=False) is None
    assert name(kept.next_to_flush(1.0, retry=True)) == "a"
    assert (kept.flushing, kept.reflushing) == (2, 1)
    assert kept.next_to_flush(9.0, retry=True) is None
    kept.settle(delivery("a"))
    assert (kept.flushing, kept.reflushing) == (1, 0)


def test_what_the_api_refuses_is_given_to_a_connection() -> None:
    kept = replies("a")
    reply = kept.next_to_flush(0.0, retry=False)
    assert reply is not None
    kept.flush_failed(reply.delivery, 5.0, link=LINK)
    assert kept.unacknowledged(LINK)
    assert (reply.link, reply.failures, reply.flush_at) == (LINK, 1, 5.0)
    assert not kept.waiting


def test_a_failure_of_what_is_not_being_flushed_says_nothing() -> None:
    kept = replies("a")
    kept.flush_failed(delivery("a"), 1.0)
    assert kept.next_retry is None
    assert kept.fresh


def test_a_retry_of_what_is_over_or_was_put_off_is_none() -> None:
    kept = replies("a", "b")
    for request_id in ("a", "b"):
        assert name(kept.next_to_flush(0.0, retry=True)) == request_id
        kept.flush_failed(delivery(request_id), 1.0)
    kept.settle(delivery("a"))
    assert name(kept.next_to_flush(1.0, retry=True)) == "b"
    kept.flush_failed(delivery("b"), 5.0)
    assert kept.next_retry == 5.0
    kept.settle(delivery("b"))
    assert kept.next_retry is None


def test_the_oldest_that_wait_are_given_up_until_the_rest_fits() -> None:
    kept = replies("sent", link=LINK, capacity=25)
    for request_id in ("a", "b", "c"):
        kept.add(lease(request_id), 10, None)
    assert [name(reply) for reply in kept.overflow()] == ["a", "b"]
    assert (kept.size, kept.given_up) == (20, 2)
    # Nothing waits that could be given up.
    kept = replies("x", "y", "z", link=LINK, capacity=25)
    assert list(kept.overflow()) == []
    assert len(kept) == 3


def test_one_that_a_connection_has_is_carried() -> None:
    kept = replies("a")
    assert not kept.is_carried
    kept.add(lease("b"), 10, LINK)
    assert kept.is_carried
    kept.settle(delivery("b"))
    assert not kept.is_carried
