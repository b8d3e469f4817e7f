"""Going on from where another runtime has left off."""

from __future__ import annotations

from collections.abc import Iterable

from ..messages import (
    RUNTIME_CRASHED,
    Adopt,
    Delivery,
    Lease,
    State,
    Undelivered,
)
from . import snapshot
from .parts import Parts

__all__ = ["adopt", "take_over"]


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
    _take_over(parts, now, requests, offered, undelivered, settled)


def adopt(parts: Parts, adopted: Adopt, now: float) -> None:
    """Take over what is left of a runtime that lived beside this one."""
    if adopted.state is not None:
        snapshot.go_on_from(parts, adopted.state)
    _take_over(
        parts,
        now,
        adopted.requests,
        adopted.offered,
        adopted.undelivered,
        adopted.settled,
    )


def _take_over(
    parts: Parts,
    now: float,
    requests: Iterable[Lease],
    offered: Iterable[Lease],
    undelivered: Iterable[Undelivered],
    settled: Iterable[Delivery],
) -> None:
    deliveries, replies = parts.deliveries, parts.replies
    settled = tuple(settled)
    for each in settled:
        deliveries.settle(each)
    requests, undelivered = tuple(requests), tuple(undelivered)
    deliveries.supersede_all_but_the_newest(
        [
            *(held.lease.delivery for held in parts.leases),
            *(reply.delivery for reply in replies),
            *(lease.delivery for lease in requests),
            *(each.lease.delivery for each in undelivered),
            *settled,
        ]
    )

    def is_open(delivery: Delivery) -> bool:
        return not (
            deliveries.was_superseded(delivery) or deliveries.is_settled(delivery)
        )

    for lease in requests:
        if is_open(lease.delivery):
            parts.taking.take_up(lease, now, extend_now=True)
            if lease.delivery in replies:
                # It has come since this was said.
                parts.leases.answer(lease.delivery, now)
    for lease in offered:
        parts.taking.give_up_offered(lease, now)
    for reply in undelivered:
        delivery = reply.lease.delivery
        if deliveries.was_superseded(delivery):
            parts.delivering.drop(reply.lease, now)
        elif is_open(delivery):
            parts.taking.take_up(reply.lease, now, extend_now=True)
            parts.leases.answer(delivery, now)
            parts.delivering.take_over(reply.lease, reply.size)
