"""Which deliveries are whose: ours, over and done with, or sent anew since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ..messages import Delivery
from .leases import Leases
from .replies import Replies

__all__ = ["SETTLED_REMEMBERED", "Deliveries"]

SETTLED_REMEMBERED = 4096
"""Deliveries remembered after their reply was delivered."""


class Deliveries:
    """What is known of deliveries, by the leases and the replies there are.

    The server knows one delivery of a request id, the newest. An older one is
    superseded: nothing is said about it any more.
    """

    def __init__(self, leases: Leases, replies: Replies) -> None:
        self.leases = leases
        self.replies = replies
        self._settled: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._superseded: OrderedDict[Delivery, None] = OrderedDict()

    def is_ours(self, delivery: Delivery) -> bool:
        """Whether the app runs it, has run it, or has had it lately."""
        return (
            delivery in self.leases
            or delivery in self.replies
            or delivery in self._settled
        )

    def is_settled(self, delivery: Delivery) -> bool:
        return delivery in self._settled

    def settle(self, delivery: Delivery) -> None:
        """Take no notice of this reply, should it come again: it is over."""
        self.leases.release(delivery)
        # A plain tuple, which the garbage collector soon leaves alone.
        self._settled[tuple(delivery)] = None
        if len(self._settled) > SETTLED_REMEMBERED:
            self._settled.popitem(last=False)

    def is_superseded(self, delivery: Delivery) -> bool:
        if delivery in self._superseded:
            return True
        newest = self.leases.of(delivery.request_id)
        return newest is not None and newest != delivery

    def was_superseded(self, delivery: Delivery) -> bool:
        """Whether that was said of it, whatever is held now."""
        return delivery in self._superseded

    def supersede(self, delivery: Delivery) -> None:
        """The server has sent the request anew."""
        self._superseded[delivery] = None
        if len(self._superseded) > SETTLED_REMEMBERED:
            self._superseded.popitem(last=False)

    def supersede_all_but_the_newest(self, deliveries: Iterable[Delivery]) -> None:
        """Lease ids are ULIDs: those of a request sort as it came."""
        newest: dict[str, Delivery] = {}
        for delivery in deliveries:
            other = newest.setdefault(delivery.request_id, delivery)
            if other != delivery:
                newest[delivery.request_id] = max(other, delivery)
                self.supersede(min(other, delivery))
