"""The requests this worker owns, and when to tell the server so again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..messages import Delivery, Lease

__all__ = ["HeldLease", "Leases"]


@dataclass(slots=True)
class HeldLease:
    lease: Lease
    since: float
    extend_at: float | None
    """When to extend next; ``None`` once the server has refused."""
    answered_at: float | None = None
    """When the request was: its reply is on the way."""


class Leases:
    """Leases by delivery, in the order in which they are to be extended.

    Every lease is extended at the same interval, so the one touched longest ago
    is always the next one due: no timer per request, no heap.

    The server knows one lease of a request id, the newest. Whoever takes up another
    first releases what :meth:`of` names.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._all: dict[Delivery, HeldLease] = {}
        self.running: dict[Delivery, HeldLease] = {}
        """Those of requests that have no reply yet, the oldest first."""
        self._by_request: dict[str, Delivery] = {}
        self._due: OrderedDict[Delivery, HeldLease] = OrderedDict()
        """Those that are to be extended, the next one first."""
        self.extended = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery in self._all

    def __iter__(self) -> Iterator[HeldLease]:
        """Held leases and lost ones, the oldest first."""
        return iter(self._all.values())

    @property
    def held(self) -> int:
        return len(self._due)

    def get(self, delivery: Delivery) -> Lease | None:
        held = self._all.get(delivery)
        return None if held is None else held.lease

    def of(self, request_id: str) -> Delivery | None:
        """The delivery whose lease is held for a request id."""
        return self._by_request.get(request_id)

    def newest(self, request_id: str) -> Lease | None:
        """The lease that is held for a request id."""
        delivery = self._by_request.get(request_id)
        return None if delivery is None else self.get(delivery)

    def is_extended(self, delivery: Delivery) -> bool:
        """Whether it is held, and the server has not refused to extend it."""
        return delivery in self._due

    def set_interval(self, interval: float, now: float) -> None:
        """Extend every ``interval`` seconds; what was due sooner stays so."""
        self.interval = interval
        for held in self._due.values():
            assert held.extend_at is not None
            held.extend_at = min(held.extend_at, now + interval)

    def hold(self, lease: Lease, now: float, *, extend_now: bool = False) -> None:
        """Take up a lease, or go on with one that was held, or was lost."""
        delivery = lease.delivery
        held = self._all.get(delivery)
        if held is None:
            held = self._all[delivery] = HeldLease(lease, now, None)
            self.running[delivery] = held
        held.lease = lease
        self._by_request[delivery.request_id] = delivery
        held.extend_at = now if extend_now else now + self.interval
        self._due[delivery] = held
        self._due.move_to_end(delivery, last=not extend_now)

    def hurry(self, delivery: Delivery, now: float) -> None:
        """Extend it now: whether it was, nobody will say."""
        held = self._due.get(delivery)
        if held is not None:
            held.extend_at = now
            self._due.move_to_end(delivery, last=False)

    def answer(self, delivery: Delivery, now: float) -> None:
        """The request has a reply: hold its lease until the server has that too."""
        held = self.running.pop(delivery, None)
        if held is not None:
            held.answered_at = now
            if held.extend_at is None:
                self.release(delivery)

    def release(self, delivery: Delivery) -> bool:
        """The server has the reply, or never will; say whether it was held at all."""
        self._due.pop(delivery, None)
        self.running.pop(delivery, None)
        if self._by_request.get(delivery.request_id) == delivery:
            del self._by_request[delivery.request_id]
        return self._all.pop(delivery, None) is not None

    def renew(self, delivery: Delivery, lease_id: str, now: float) -> bool:
        """Use ``lease_id`` from now on; say whether the request was held.

        One that was refused before is held again: the server has the last word.
        """
        held = self._all.get(delivery)
        if held is None:
            return False
        held.lease = replace(held.lease, lease_id=lease_id)
        self.extended += 1
        if delivery not in self._due:
            self.lost -= 1
            self.hold(held.lease, now)
        return True

    def lose(self, delivery: Delivery) -> Lease | None:
        """The server refused to extend: keep the request, but ask no more."""
        held = self._due.pop(delivery, None)
        if held is None:
            return None
        held.extend_at = None
        self.lost += 1
        return held.lease

    @property
    def next_due(self) -> float | None:
        for held in self._due.values():
            return held.extend_at
        return None

    def due(self, now: float) -> list[HeldLease]:
        """The leases to extend now; each is due again an interval from now."""
        due = []
        while (next_due := self.next_due) is not None and next_due <= now:
            delivery, held = next(iter(self._due.items()))
            held.extend_at = now + self.interval
            self._due.move_to_end(delivery)
            due.append(held)
        return due
