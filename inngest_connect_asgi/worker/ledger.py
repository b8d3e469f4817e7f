"""Every request that is here, from its offer until the server has the reply."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TypedDict

from ..messages import Delivery, Lease, Outcome, Request, Result, Undelivered
from ..protocol.deliveries import SETTLED_REMEMBERED

__all__ = ["Ledger"]


class TakenOver(TypedDict):
    """What a new runtime is told of requests."""

    requests: tuple[Lease, ...]
    offered: tuple[Lease, ...]
    undelivered: tuple[Undelivered, ...]
    settled: tuple[Delivery, ...]


class Ledger:
    """What the next runtime has to know, should this one die.

    Kept in the runtime's thread, but for :meth:`answer`, which the app's loop calls.
    """

    def __init__(self) -> None:
        self._offered: dict[Delivery, Request] = {}
        self._running: dict[Delivery, _Run] = {}
        self._undelivered: dict[Delivery, Result] = {}
        self._settled: deque[tuple[str, ...]] = deque(maxlen=SETTLED_REMEMBERED)

    def offer(self, request: Request) -> None:
        """It is about to be acknowledged."""
        self._offered[request.lease.delivery] = request

    def withdraw(self, delivery: Delivery) -> None:
        self._offered.pop(delivery, None)

    def accept(self, delivery: Delivery) -> Request:
        """It is acknowledged; :meth:`accepted` says that the app has it.

        Raises:
            KeyError: It was not offered.
        """
        request = self._offered[delivery]
        self._running[delivery] = _Run(request.lease)
        return request

    def accepted(self, delivery: Delivery) -> None:
        # Not before: what fails is told again.
        del self._offered[delivery]

    def extend(self, delivery: Delivery, lease_id: str) -> None:
        # In this order: what is answered meanwhile is found among those.
        run = self._running.get(delivery)
        if run is not None:
            run.lease = replace(run.lease, lease_id=lease_id)
        result = self._undelivered.get(delivery)
        if result is not None:
            lease = replace(result.lease, lease_id=lease_id)
            self._undelivered[delivery] = replace(result, lease=lease)

    def lease(self, delivery: Delivery) -> Lease | None:
        """Under its newest id; ``None`` once there is an answer."""
        run = self._running.get(delivery)
        return None if run is None else run.lease

    def answer(self, lease: Lease, outcome: Outcome, *, repeated: bool) -> Result:
        """Keep the answer to a request that runs."""
        result = Result(lease, outcome, repeated)
        # In this order: a new runtime must find it among these or those.
        self._undelivered[lease.delivery] = result
        del self._running[lease.delivery]
        return result

    def wanted(self, delivery: Delivery) -> Result:
        return self._undelivered[delivery]

    def settle(self, delivery: Delivery) -> None:
        """The server has the answer, or will never have it."""
        self._undelivered.pop(delivery, None)
        # A plain tuple, which the garbage collector soon leaves alone.
        self._settled.append(tuple(delivery))

    def left(self) -> list[Lease]:
        """The requests of which the server has no answer, as far as is known."""
        runs = [each.lease for each in list(self._running.values())]
        ended = [each.lease for each in list(self._undelivered.values())]
        offered = [each.lease for each in list(self._offered.values())]
        leases = {lease.delivery: lease for lease in (*runs, *ended, *offered)}
        return list(leases.values())

    def taken_over(self) -> TakenOver:
        return {
            "requests": tuple(run.lease for run in list(self._running.values())),
            "offered": tuple(each.lease for each in list(self._offered.values())),
            "undelivered": tuple(
                Undelivered(result.lease, len(result.outcome.body))
                for result in list(self._undelivered.values())
            ),
            "settled": tuple(Delivery(*each) for each in list(self._settled)),
        }


@dataclass
class _Run:
    """A request that the app runs, under the newest lease id."""

    lease: Lease
