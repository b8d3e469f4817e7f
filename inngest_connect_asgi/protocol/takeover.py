"""Going on from where another runtime has left off."""

from __future__ import annotations

from ..messages import Adopt, Start
from ..state import RUNTIME_CRASHED
from . import snapshot
from .parts import Parts

__all__ = ["adopt", "take_over"]


def take_over(parts: Parts, start: Start, now: float) -> None:
    """Take over what the app has of a runtime that is gone."""
    if start.state is not None:
        snapshot.go_on_from(parts, start.state)
        parts.connecting.go_on_from(start.state, RUNTIME_CRASHED)
    _take_over(parts, start, now)


def adopt(parts: Parts, adopted: Adopt, now: float) -> None:
    """Take over what is left of a runtime that lived beside this one."""
    if adopted.state is not None:
        snapshot.go_on_from(parts, adopted.state)
    _take_over(parts, adopted, now)


def _take_over(parts: Parts, left: Start | Adopt, now: float) -> None:
    deliveries, replies = parts.deliveries, parts.replies
    for each in left.settled:
        deliveries.settle(each)
    deliveries.supersede_all_but_the_newest(
        [
            *(held.lease.delivery for held in parts.leases),
            *(reply.delivery for reply in replies),
            *(lease.delivery for lease in left.requests),
            *(each.lease.delivery for each in left.undelivered),
            *left.settled,
        ]
    )

    for lease in left.requests:
        delivery = lease.delivery
        if deliveries.was_superseded(delivery) or deliveries.is_settled(delivery):
            continue
        parts.taking.take_up(lease, now, extend_now=True)
        if delivery in replies:
            # It has come since this was said.
            parts.leases.answer(delivery, now)
    for lease in left.offered:
        parts.taking.give_up_offered(lease, now)
    for reply in left.undelivered:
        delivery = reply.lease.delivery
        if deliveries.was_superseded(delivery):
            parts.delivering.drop(reply.lease, now)
        elif not deliveries.is_settled(delivery):
            parts.taking.take_up(reply.lease, now, extend_now=True)
            parts.leases.answer(delivery, now)
            parts.delivering.take_over(reply.lease, reply.size)
