"""The replies that the server does not have yet."""

from __future__ import annotations

import heapq
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ..messages import Delivery, Lease

__all__ = ["Replies", "Reply"]


@dataclass(slots=True)
class Reply:
    """What is known of a reply. Its body is the app's, who sends it when asked."""

    lease: Lease
    size: int
    link: int | None = None
    """The connection it is being sent on, or was sent on without an ack yet."""
    tried: int | None = None
    """The last connection that it was given to, or was to be given to."""
    ack_by: float | None = None
    """When to stop waiting for the ack; ``None`` until it is on the wire."""
    failures: int = 0
    """Flush calls that failed."""
    flush_at: float = 0.0
    """When to flush it at the earliest."""

    @property
    def delivery(self) -> Delivery:
        return self.lease.delivery


class Replies:
    """Undelivered replies by delivery.

    A reply goes over a connection once. Where there is none, or no ack comes,
    it waits here for the flush API, or for another connection where that fails, until
    the server has it, or until ``capacity`` bytes are exceeded and the oldest waiting
    reply is given up.

    Those that were never flushed go first. One that the API refused waits for its
    own time, and is nobody else's hindrance.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._replies: dict[Delivery, Reply] = {}
        self._by_request: dict[str, Reply] = {}
        self._by_link: defaultdict[int, dict[Delivery, Reply]] = defaultdict(dict)
        self._postponed: defaultdict[int, OrderedDict[Delivery, Reply]] = defaultdict(
            OrderedDict
        )
        """Those for which there was no room on a connection yet."""
        self._sent: OrderedDict[Delivery, Reply] = OrderedDict()
        self.waiting: OrderedDict[Delivery, Reply] = OrderedDict()
        """Those that wait for the flush API."""
        self._fresh: OrderedDict[Delivery, Reply] = OrderedDict()
        """Of those that wait, the ones that were never flushed."""
        self._retries: list[tuple[float, int, Delivery]] = []
        """Of those that wait, the others; and some that wait no more."""
        self._retry_count = 0
        self._flushing: set[Delivery] = set()
        self._reflushing: set[Delivery] = set()
        self.size = 0
        self.flushed = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery in self._replies

    def __iter__(self) -> Iterator[Reply]:
        return iter(self._replies.values())

    def get(self, delivery: Delivery) -> Reply | None:
        return self._replies.get(delivery)

    def of(self, request_id: str) -> Reply | None:
        """The reply to a request id: there is one at most."""
        return self._by_request.get(request_id)

    @property
    def flushing(self) -> int:
        """How many replies are on their way to the flush API."""
        return len(self._flushing)

    @property
    def reflushing(self) -> int:
        """How many of these are on their way again."""
        return len(self._reflushing)

    def add(self, lease: Lease, size: int, link: int | None) -> Reply:
        """Keep account of a reply, which ``link`` is to carry, or the flush API."""
        reply = Reply(lease, size, link)
        delivery = lease.delivery
        self._replies[delivery] = reply
        self._by_request[delivery.request_id] = reply
        self.size += size
        if link is None:
            self._wait(reply)
        else:
            self._join_link(reply, link)
        return reply

    def settle(self, delivery: Delivery) -> Reply | None:
        """Forget a reply: the server has it, or will never have it."""
        reply = self._replies.pop(delivery, None)
        if reply is not None:
            if self._by_request.get(delivery.request_id) is reply:
                del self._by_request[delivery.request_id]
            self.size -= reply.size
            if reply.link is not None:
                self._leave_link(reply)
                return reply
            self.waiting.pop(delivery, None)
            self._fresh.pop(delivery, None)
            self._flushing.discard(delivery)
            self._reflushing.discard(delivery)
        return reply

    # Over a connection.

    def _join_link(self, reply: Reply, link: int) -> None:
        reply.link = reply.tried = link
        self._by_link[link][reply.delivery] = reply

    def postpone(self, reply: Reply) -> None:
        """Its connection has no room for it yet."""
        assert reply.link is not None
        self._postponed[reply.link][reply.delivery] = reply

    def next_postponed(self, link: int) -> Reply | None:
        """Take the reply that has waited longest for room on a connection."""
        postponed = self._postponed.get(link)
        if not postponed:
            return None
        _, reply = postponed.popitem(last=False)
        return reply

    def is_queued(self, delivery: Delivery) -> bool:
        """Whether a connection has room for it, and has not sent it yet."""
        reply = self._replies[delivery]
        return (
            reply.link is not None
            and reply.ack_by is None
            and delivery not in self._postponed.get(reply.link, ())
        )

    def sent(self, delivery: Delivery, link: int, ack_by: float) -> None:
        """The reply is on the wire, and acknowledged by ``ack_by`` or lost."""
        reply = self._replies.get(delivery)
        if reply is not None and reply.link == link:
            reply.ack_by = ack_by
            self._sent[delivery] = reply

    @property
    def is_carried(self) -> bool:
        """Whether a connection is to carry one, or has, and there is no ack yet."""
        return bool(self._by_link)

    def unacknowledged(self, link: int) -> bool:
        """Whether a reply that went over ``link`` still wants its ack."""
        return link in self._by_link

    @property
    def next_ack_by(self) -> float | None:
        for reply in self._sent.values():
            return reply.ack_by
        return None

    def expire(self, now: float) -> int:
        """Move replies whose ack did not come in time to the flush queue."""
        expired = 0
        while (ack_by := self.next_ack_by) is not None and ack_by <= now:
            self._unsend(next(iter(self._sent.values())))
            expired += 1
        return expired

    def link_lost(self, link: int) -> None:
        """Move every reply that ``link`` carried to the flush queue."""
        for reply in list(self._by_link.get(link, {}).values()):
            self._unsend(reply)
        self._postponed.pop(link, None)

    def _unsend(self, reply: Reply) -> None:
        self._leave_link(reply)
        self._wait(reply)

    def _leave_link(self, reply: Reply) -> None:
        delivery, link = reply.delivery, reply.link
        assert link is not None
        self._sent.pop(delivery, None)
        reply.link = reply.ack_by = None
        carried = self._by_link[link]
        del carried[delivery]
        if not carried:
            del self._by_link[link]
        if link in self._postponed:
            self._postponed[link].pop(delivery, None)

    # To the flush API.

    def _wait(self, reply: Reply) -> None:
        self.waiting[reply.delivery] = reply
        if reply.failures:
            self._retry_count += 1
            entry = (reply.flush_at, self._retry_count, reply.delivery)
            heapq.heappush(self._retries, entry)
        else:
            self._fresh[reply.delivery] = reply

    @property
    def fresh(self) -> bool:
        """Whether a reply waits that was never flushed."""
        return bool(self._fresh)

    @property
    def next_retry(self) -> float | None:
        """When the first of the others may be flushed again."""
        while self._retries:
            flush_at, _, delivery = self._retries[0]
            reply = self.waiting.get(delivery)
            if reply is not None and reply.failures and reply.flush_at == flush_at:
                return flush_at
            heapq.heappop(self._retries)
        return None

    def next_to_flush(self, now: float, *, retry: bool) -> Reply | None:
        """Take a reply off the flush queue.

        Args:
            retry: Whether it may be one that was flushed before.
        """
        if self._fresh:
            delivery = next(iter(self._fresh))
        elif retry and (due := self.next_retry) is not None and due <= now:
            delivery = heapq.heappop(self._retries)[2]
            self._reflushing.add(delivery)
        else:
            return None
        self._fresh.pop(delivery, None)
        self._flushing.add(delivery)
        return self.waiting.pop(delivery)

    def flush_failed(
        self, delivery: Delivery, flush_at: float, link: int | None = None
    ) -> None:
        """Put a reply back into the flush queue, for later.

        Args:
            link: The connection that is to carry it first.
        """
        if delivery in self._flushing:
            self._flushing.discard(delivery)
            self._reflushing.discard(delivery)
            reply = self._replies[delivery]
            reply.failures += 1
            reply.flush_at = flush_at
            if link is None:
                self._wait(reply)
            else:
                self._join_link(reply, link)

    def is_flushing(self, delivery: Delivery) -> bool:
        return delivery in self._flushing

    def overflow(self) -> Iterator[Reply]:
        """Give up the oldest waiting replies until the rest fits."""
        while self.size > self._capacity and self.waiting:
            # In the order in which they came, however often they were flushed.
            reply = next(
                r for r in self._replies.values() if r.delivery in self.waiting
            )
            self.settle(reply.delivery)
            self.given_up += 1
            yield reply
