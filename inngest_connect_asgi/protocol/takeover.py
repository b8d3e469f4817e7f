"""Going on from where another runtime has left off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..messages import RUNTIME_CRASHED, Delivery, Lease, State, Undelivered
from . import snapshot

if TYPE_CHECKING:
    from .core import Core

__all__ = ["take_over"]


def take_over(
    core: Core,
    now: float,
    requests: Iterable[Lease],
    offered: Iterable[Lease],
    undelivered: Iterable[Undelivered],
    settled: Iterable[Delivery],
    state: State | None,
) -> None:
    """Take over what the app has of that runtime; as :meth:`Core.start` has it."""
    if state is not None:
        snapshot.go_on_from(core, state)
        core.connecting.go_on_from(state, RUNTIME_CRASHED)
    settled = tuple(settled)
    for each in settled:
        core.deliveries.settle(each)
    requests, undelivered = tuple(requests), tuple(undelivered)
    core.deliveries.supersede_all_but_the_newest(
        [
            *(lease.delivery for lease in requests),
            *(each.lease.delivery for each in undelivered),
            *settled,
        ]
    )
    for lease in requests:
        if not core.deliveries.was_superseded(lease.delivery):
            core.taking.take_up(lease, now, extend_now=True)
    for lease in offered:
        core.taking.give_up_offered(lease, now)
    for reply in undelivered:
        core.leases.release(reply.lease.delivery)
        if core.deliveries.was_superseded(reply.lease.delivery):
            core.delivering.drop(reply.lease, now)
        else:
            core.delivering.take_over(reply.lease, reply.size)
