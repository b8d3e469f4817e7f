"""What the server keeps in Redis about requests: leases, replies and capacity.

As ``pkg/connect/state`` does it, with ``lua/lease.lua``, ``lua/extend_lease.lua``,
``lua/incr_worker_requests.lua`` and ``lua/decr_worker_requests.lua``.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass

from ..protocol.wire import connect as wire
from . import ulid

__all__ = ["Store"]

RESPONSE_EXPIRY = 60.0
MAPPING_LEASES = 6
"""For how many leases it is known which instance has a request, unless an extension
renews it (``ConnectWorkerRequestToWorkerMappingTTL`` in pkg/consts/consts.go)."""


@dataclass
class _Lease:
    id: str
    until: float
    previous: str = ""
    owner: str = ""
    """The instance that extended it last; kept where its capacity is unlimited."""


class Store:
    """Times are those of ``time.monotonic()``, durations seconds.

    Args:
        honour_previous_lease: Answer an extension under the lease id before with the
            current one, where the same instance asks. Servers do since 1.41.
    """

    def __init__(self, lease_duration: float, honour_previous_lease: bool) -> None:
        self.lease_duration = lease_duration
        self.honour_previous_lease = honour_previous_lease
        self._leases: dict[str, _Lease] = {}
        self._responses: dict[str, tuple[wire.SDKResponse, float]] = {}
        self._capacities: dict[str, int] = {}
        self._requests: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """By instance, its requests and until when each counts."""
        self._instances: dict[str, tuple[str, float]] = {}
        """By request, the instance that it is assigned to, and until when."""

    def reset(self) -> None:
        self.forget_requests()
        self._capacities.clear()

    def forget_requests(self) -> None:
        """Lose everything but the capacities that workers declared."""
        self._leases.clear()
        self._responses.clear()
        self._requests.clear()
        self._instances.clear()

    # Leases

    def lease(self, request_id: str, duration: float | None = None) -> str | None:
        """Lease a request, or return ``None`` where it is leased already."""
        if self.lease_until(request_id) > time.monotonic():
            return None
        lease = self._leases[request_id] = self._new_lease(duration)
        return lease.id

    def lease_until(self, request_id: str) -> float:
        """When its lease ends or ended; 0.0 where there is none."""
        lease = self._leases.get(request_id)
        return lease.until if lease is not None else 0.0

    def extend(self, instance: str, request_id: str, lease_id: str) -> str | None:
        """Return the next lease id, or ``None`` where there is none for this worker.

        A lease that has run out is extended, under whatever id, as long as nobody
        deleted it: the script looks at the time only where the ids differ.
        """
        lease = self._leases.get(request_id)
        if lease is None:
            return None
        limited = self._capacities.get(instance, 0) > 0
        assigned = self._assigned(request_id) == instance
        if limited and not assigned:
            return None
        if lease.id != lease_id and lease.until > time.monotonic():
            is_previous = lease_id == lease.previous
            is_owner = lease.owner == instance or assigned
            if self.honour_previous_lease and is_previous and is_owner:
                return lease.id
            return None
        new = self._leases[request_id] = self._new_lease()
        new.previous = lease.id
        if limited:
            # The script adds seconds to milliseconds here: in effect, for ever.
            self._requests[instance][request_id] = math.inf
            self._assign(instance, request_id)
        else:
            new.owner = instance
        return new.id

    def delete_lease(self, request_id: str) -> None:
        self._leases.pop(request_id, None)

    def delete_leases(self) -> None:
        self._leases.clear()

    def _new_lease(self, duration: float | None = None) -> _Lease:
        duration = self.lease_duration if duration is None else duration
        # The id says when the lease ends, as the real one does.
        return _Lease(ulid.new(time.time() + duration), time.monotonic() + duration)

    # Replies

    def save_response(self, response: wire.SDKResponse) -> None:
        """Keep a reply for the executor; the first one to a request wins."""
        _, until = self._responses.get(response.request_id, (None, 0.0))
        if until <= time.monotonic():
            expiry = time.monotonic() + RESPONSE_EXPIRY
            self._responses[response.request_id] = (response, expiry)

    def take_response(self, request_id: str) -> wire.SDKResponse | None:
        response, until = self._responses.pop(request_id, (None, 0.0))
        return response if until > time.monotonic() else None

    # Capacity belongs to an instance, and the last connection to declare it wins.

    def set_capacity(self, instance: str, capacity: int) -> None:
        """Let an instance have so many requests; where 0 or less, any number."""
        if capacity > 0:
            self._capacities[instance] = capacity
        else:
            self._capacities.pop(instance, None)

    def has_room(self, instance: str) -> bool:
        capacity = self._capacities.get(instance, 0)
        now = time.monotonic()
        taken = sum(until >= now for until in self._requests[instance].values())
        return capacity <= 0 or taken < capacity

    def assign(self, instance: str, request_id: str, *, force: bool = False) -> bool:
        """Count a request for an instance, or say that it has no room for it."""
        if self._capacities.get(instance, 0) <= 0:
            return True
        if not force and not self.has_room(instance):
            return False
        until = time.monotonic() + MAPPING_LEASES * self.lease_duration
        self._requests[instance][request_id] = until
        self._assign(instance, request_id)
        return True

    def unassign(self, instance: str, request_id: str) -> None:
        """Count it no more, unless another instance has it now."""
        if self._capacities.get(instance, 0) <= 0:
            return
        if self._requests[instance] and self._assigned(request_id) not in (
            instance,
            None,
        ):
            return
        self._requests[instance].pop(request_id, None)
        self._instances.pop(request_id, None)

    def _assign(self, instance: str, request_id: str) -> None:
        until = time.monotonic() + MAPPING_LEASES * self.lease_duration
        self._instances[request_id] = (instance, until)

    def _assigned(self, request_id: str) -> str | None:
        instance, until = self._instances.get(request_id, (None, 0.0))
        return instance if until > time.monotonic() else None
