"""The requests this worker owns, and when to tell the server so again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .messages import Lease

__all__ = ["HeldLease", "Leases"]


@dataclass(slots=True)
class HeldLease:
    lease: Lease
    since: float
    extend_at: float | None
    """When to extend next; ``None`` once the server has refused."""


class Leases:
    """Leases by request id, in the order in which they are to be extended.

    Every lease is extended at the same interval, so the one touched longest ago
    is always the next one due: no timer per request, no heap.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._all: dict[str, HeldLease] = {}
        self._due: OrderedDict[str, HeldLease] = OrderedDict()
        """Those that are to be extended, the next one first."""
        self.extended = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._all

    def __iter__(self) -> Iterator[HeldLease]:
        """Held leases and lost ones, the oldest first."""
        return iter(self._all.values())

    @property
    def held(self) -> int:
        return len(self._due)

    def set_interval(self, interval: float, now: float) -> None:
        """Extend every ``interval`` seconds; what was due sooner stays so."""
        self._interval = interval
        for held in self._due.values():
            assert held.extend_at is not None
            held.extend_at = min(held.extend_at, now + interval)

    def hold(self, lease: Lease, now: float, *, extend_now: bool = False) -> None:
        """Take up a lease, or the new lease of a request already held."""
        request_id = lease.request_id
        held = self._all.setdefault(request_id, HeldLease(lease, now, None))
        held.lease = lease
        held.extend_at = now if extend_now else now + self._interval
        self._due[request_id] = held
        self._due.move_to_end(request_id, last=not extend_now)

    def release(self, request_id: str) -> bool:
        """The request is done; say whether it was held at all."""
        self._due.pop(request_id, None)
        return self._all.pop(request_id, None) is not None

    def renew(self, request_id: str, lease_id: str) -> bool:
        """Use ``lease_id`` from now on; say whether the lease was held."""
        held = self._due.get(request_id)
        if held is None:
            return False
        held.lease = replace(held.lease, lease_id=lease_id)
        self.extended += 1
        return True

    def lose(self, request_id: str) -> Lease | None:
        """The server refused to extend: keep the request, but ask no more."""
        held = self._due.pop(request_id, None)
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

    def due(self, now: float) -> list[Lease]:
        """The leases to extend now; each is due again an interval from now."""
        due = []
        while (next_due := self.next_due) is not None and next_due <= now:
            request_id, held = next(iter(self._due.items()))
            held.extend_at = now + self._interval
            self._due.move_to_end(request_id)
            due.append(held.lease)
        return due
