"""How a worker ends: when nothing is left to do, or the time is up."""

from __future__ import annotations

from .actions import Abort
from .delivering import Delivering
from .link import Phase
from .links import Links
from .taking import Taking
from .telling import Telling

__all__ = ["LEAVE_TIMEOUT", "Ending"]

LEAVE_TIMEOUT = 6.0
"""Seconds that answers are waited for where another runtime goes on; that to a reply is
for no longer than :data:`~.delivering.ACK_TIMEOUT`."""


class Ending:
    """Whether it is to stop, and whether it has."""

    def __init__(
        self, telling: Telling, links: Links, taking: Taking, delivering: Delivering
    ) -> None:
        self.begun = False
        self.finished = False
        self.leaves = False
        """Whether another runtime goes on with what there is."""
        self.at: float | None = None
        """When to stop in any case."""
        self._telling = telling
        self._links = links
        self._taking = taking
        self._delivering = delivering
        self._abandoned = False
        """Whether the time to stop is up."""

    def begin(self, at: float, now: float) -> None:
        if not self.begun:
            self.begun = True
            self.at = at
            if self._links.live is not None:
                self._links.pause(self._links.live, now)

    def leave(self, now: float) -> None:
        """End as soon as it is clear what another runtime is to go on with."""
        self.leaves = not self.begun
        self.begin(now + LEAVE_TIMEOUT, now)

    def _waits(self) -> bool:
        if self.leaves:
            # Under which id a lease is held, and whether a reply is there.
            is_unclear = any(self._taking.is_awaited(link) for link in self._links)
            return is_unclear or self._delivering.is_on_its_way
        return self._taking.waits or bool(len(self._delivering.replies))

    def wind_up(self, now: float) -> bool:
        """Stop, if it is time; ``False`` while there is something to wait for."""
        timed_out = self.at is not None and self.at <= now
        waits = self._waits()
        if waits and not (timed_out or self._abandoned):
            return False
        if timed_out:
            self.at = None
            self._abandoned = True
            self._abandon(now)
        for link in self._links:
            if link.usable:
                self._links.close(link, now)
            elif link.phase is not Phase.CLOSING:
                self._telling.do(Abort(link.id))
                self._links.forget(link, now)
        if not self._links:
            # A function may have ended since the time was up.
            self._abandon(now)
            self.at = self._telling.state_at = None
            self.finished = True
        return True

    def _abandon(self, now: float) -> None:
        # First of all: what is given up below must not be taken for new.
        for link in self._links:
            self._taking.withdraw(link)
        if self.leaves:
            return
        self._taking.give_up_all(now)
        self._delivering.give_up_all(now)
