"""The replies that the server does not have yet."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from .messages import Lease

__all__ = ["Replies", "Reply"]


@dataclass(slots=True)
class Reply:
    lease: Lease
    body: bytes = field(repr=False)
    link: int | None = None
    """The connection it is being sent on, or was sent on without an ack yet."""
    ack_by: float | None = None
    """When to stop waiting for the ack; ``None`` until it is on the wire."""


class Replies:
    """Undelivered replies by request id.

    A reply goes over a connection once. Where there is none, or no ack comes,
    it waits here for the flush API until the server has it, or until
    ``capacity`` bytes are exceeded and the oldest waiting reply is given up.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._replies: dict[str, Reply] = {}
        self._by_link: defaultdict[int, dict[str, Reply]] = defaultdict(dict)
        self._sent: OrderedDict[str, Reply] = OrderedDict()
        self._waiting: OrderedDict[str, Reply] = OrderedDict()
        self._flushing: set[str] = set()
        self.size = 0
        self.flushed = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._replies

    def __iter__(self) -> Iterator[Reply]:
        return iter(self._replies.values())

    def get(self, request_id: str) -> Reply | None:
        return self._replies.get(request_id)

    @property
    def waiting(self) -> int:
        """How many replies wait for the flush API."""
        return len(self._waiting)

    @property
    def flushing(self) -> int:
        """How many replies are on their way to the flush API."""
        return len(self._flushing)

    def add(self, lease: Lease, body: bytes, link: int | None) -> Reply:
        """Keep a reply, which ``link`` is about to carry, or the flush API."""
        self.settle(lease.request_id)
        reply = Reply(lease, body, link)
        self._replies[lease.request_id] = reply
        self.size += len(body)
        if link is None:
            self._waiting[lease.request_id] = reply
        else:
            self._by_link[link][lease.request_id] = reply
        return reply

    def settle(self, request_id: str) -> Reply | None:
        """Forget a reply: the server has it, or will never have it."""
        reply = self._replies.pop(request_id, None)
        if reply is not None:
            self.size -= len(reply.body)
            self._leave_link(reply)
            self._waiting.pop(request_id, None)
            self._flushing.discard(request_id)
        return reply

    def sent(self, request_id: str, link: int, ack_by: float) -> None:
        """The reply is on the wire, and acknowledged by ``ack_by`` or lost."""
        reply = self._replies.get(request_id)
        if reply is not None and reply.link == link:
            reply.ack_by = ack_by
            self._sent[request_id] = reply

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

    def _unsend(self, reply: Reply) -> None:
        self._leave_link(reply)
        self._waiting[reply.lease.request_id] = reply

    def _leave_link(self, reply: Reply) -> None:
        request_id, link = reply.lease.request_id, reply.link
        self._sent.pop(request_id, None)
        reply.link = reply.ack_by = None
        if link is not None:
            carried = self._by_link[link]
            del carried[request_id]
            if not carried:
                del self._by_link[link]

    def next_to_flush(self) -> Reply | None:
        """Take the reply that has waited longest off the flush queue."""
        if not self._waiting:
            return None
        request_id, reply = self._waiting.popitem(last=False)
        self._flushing.add(request_id)
        return reply

    def flush_failed(self, request_id: str) -> None:
        """Put a reply back at the head of the flush queue."""
        if request_id in self._flushing:
            self._flushing.discard(request_id)
            self._waiting[request_id] = self._replies[request_id]
            self._waiting.move_to_end(request_id, last=False)

    def overflow(self) -> Iterator[Reply]:
        """Give up the oldest waiting replies until the rest fits."""
        while self.size > self._capacity and self._waiting:
            reply = next(iter(self._waiting.values()))
            self.settle(reply.lease.request_id)
            self.given_up += 1
            yield reply
