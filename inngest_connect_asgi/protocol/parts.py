"""The parts of the core: how they are put together, and what each asks of others."""

from __future__ import annotations

import random
from collections.abc import Callable

from ..configuration import Configuration
from ..state import APP_STALLED, State
from .actions import Send, SendReply
from .connecting import Connecting
from .deliveries import Deliveries
from .delivering import Delivering
from .ending import Ending
from .keys import Keys
from .leases import Leases
from .link import Link, Phase
from .links import Links
from .losing import Losing
from .replies import Replies
from .stalling import Stalling
from .taking import Taking
from .telling import Telling
from .watch import Lateness
from .wire import connect as wire

__all__ = ["Parts"]

DEFAULT_EXTEND_LEASE_INTERVAL = 5.0
"""Seconds."""


class Parts:
    """All that a core is made of."""

    def __init__(
        self,
        configuration: Configuration,
        rng: random.Random,
        epoch: float,
        via: Callable[[str], str],
    ) -> None:
        self.configuration = configuration
        self.malformed = 0
        self.telling = Telling(epoch)
        self.leases = Leases(DEFAULT_EXTEND_LEASE_INTERVAL)
        self.replies = Replies(configuration.reply_buffer_size)
        self.deliveries = Deliveries(self.leases, self.replies)
        self.links = Links(
            self.telling, self.leases, withdraw=self._withdraw, gone=self._gone
        )
        keys = Keys(configuration)
        self.delivering = Delivering(
            configuration, self.telling, self.links, self.deliveries, keys, rng
        )
        self.taking = Taking(
            {app.name for app in configuration.apps},
            self.telling,
            self.links,
            self.deliveries,
            self.delivering,
        )
        self.losing = Losing(configuration.reconnect_cap, self.telling, self.links, rng)
        self.connecting = Connecting(
            configuration,
            self.telling,
            self.links,
            keys,
            self.losing,
            ready=self._ready,
            via=via,
        )
        self.stalling = Stalling(configuration.stall_timeout, self.telling, self.links)
        self.ending = Ending(self.telling, self.links, self.taking, self.delivering)
        self.lateness = Lateness()
        self.told: State | None = None

    @property
    def stopping(self) -> bool:
        return self.ending.begun

    # What the parts ask for.

    def _ready(self, link: Link, extend_interval: str, now: float) -> None:
        interval = self.connecting.interval(
            extend_interval, DEFAULT_EXTEND_LEASE_INTERVAL, now
        )
        self.links.go_live(link, now)
        if self.stopping or self.stalling.paused:
            self.links.pause(link, now)
        else:
            self.telling.send(link, wire.WORKER_READY)
        self.links.heartbeat(link, now)
        self.leases.set_interval(interval, now)

    def _withdraw(self, link: Link) -> None:
        self.taking.withdraw(link)

    def _gone(self, link: Link, now: float) -> None:
        self.connecting.forget(link)
        self.taking.link_gone(link, now)
        self.replies.link_lost(link.id)

    def pong(self, number: int, now: float) -> None:
        """The app's event loop has answered a ping."""
        is_news = self.told is not None and self.told.app_waiting_since is not None
        may_go_on = self.stalling.pong(number, now, is_news=is_news)
        # What was paused stays so: only a new connection gets requests. Where there is
        # none, the next one is under way, or waits for its time.
        if may_go_on and not self.stopping and self.links.live is not None:
            self.losing.because = APP_STALLED
            self.connecting.connect(now)

    def wants(self, frame: Send | SendReply) -> bool:
        """Whether to write a frame that has waited.

        Not every acknowledgement, and no reply to what the server has sent anew.
        """
        if isinstance(frame, SendReply):
            return not self.deliveries.was_superseded(frame.delivery)
        if not frame.acknowledges:
            return True
        link = self.links.get(frame.link)
        return link is not None and frame.delivery in link.unsent_acks

    # Time.

    def tick(self, now: float) -> None:
        """Time has passed: do what is due."""
        self.stalling.tick(now, stopping=self.stopping)
        for link in self.links:
            self._tick_link(link, now)
        retry_at = self.losing.retry_at
        if retry_at is not None and retry_at <= now:
            self.connecting.connect(now)
        if self.links.answering is not None and not self.ending.leaves:
            self.taking.extend(self.links.answering, now)
        if self.replies.expire(now):
            self.telling.touch(now)

    def next_tick(self) -> float | None:
        """When something of that is due next."""
        if self.ending.finished:
            return None
        times = [link.next_tick for link in self.links]
        times += [self.losing.retry_at, self.ending.at, self.telling.state_at]
        times.append(self.replies.next_ack_by)
        times.append(self.stalling.next_tick(stopping=self.stopping))
        if not self.ending.leaves:
            times.append(self.delivering.next_flush)
            if self.links.answering is not None:
                times.append(self.leases.next_due)
        return min((time for time in times if time is not None), default=None)

    def _tick_link(self, link: Link, now: float) -> None:
        if self.losing.tick(link, now) and not self.links.tick(
            link, now, stopping=self.stopping
        ):
            self.losing.die(link, now)

    # What follows from every event.

    def retire(self, now: float) -> None:
        """Close a retiring link, once another is live and it owes no answer."""
        if self.links.live is None:
            return
        for link in self.links:
            if (
                link.phase is Phase.RETIRING
                and link.pause_at is None
                and not self.replies.unacknowledged(link.id)
                and not self.taking.is_awaited(link)
            ):
                self.links.close(link, now)
