"""Going on from where another runtime has left off."""

from __future__ import annotations

from collections.abc import Iterable

from ..messages import RUNTIME_CRASHED, Delivery, Lease, State, Undelivered
from . import snapshot
from .parts import Parts

__all__ = ["take_over"]


def take_over(
    parts: Parts,
    now: float,
    requests: Iterable[Lease],
    offered: Iterable[Lease],
    undelivered: Iterable[Undelivered],
    settled: Iterable[Delivery],
    state: State | None,
) -> None:
    """Take over what the app has of that runtime; as :meth:`Core.start` has it."""
    if state is not None:
        snapshot.go_on_from(parts, state)
        parts.connecting.go_on_from(state, RUNTIME_CRASHED)
    settled = tuple(settled)
    for each in settled:
        parts.deliveries.settle(each)
    requests, undelivered = tuple(requests), tuple(undelivered)
    parts.deliveries.supersede_all_but_the_newest(
        [
            *(lease.delivery for lease in requests),
            *(each.lease.delivery for each in undelivered),
            *settled,
        ]
    )
    for lease in requests:
        if not parts.deliveries.was_superseded(lease.delivery):
            parts.taking.take_up(lease, now, extend_now=True)
    for lease in offered:
        parts.taking.give_up_offered(lease, now)
    for reply in undelivered:
        if parts.deliveries.was_superseded(reply.lease.delivery):
            parts.delivering.drop(reply.lease, now)
        else:
            parts.taking.take_up(reply.lease, now, extend_now=True)
            parts.leases.answer(reply.lease.delivery, now)
            parts.delivering.take_over(reply.lease, reply.size)
