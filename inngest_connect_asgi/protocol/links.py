"""The links there are: which of them is live, and what is said on each in its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import frames
from .actions import Close, Send
from .leases import Leases
from .link import Link, Phase
from .telling import Telling
from .wire import connect as wire

__all__ = ["Links"]

PAUSE_GAP = 0.05
"""Seconds between an acknowledgement and WORKER_PAUSE. The gateway handles control
messages apart from others, and gives back what is not acknowledged when it comes to a
pause (pkg/connect/gateway.go, gateway_msg_pause.go)."""

WORKER_SHUTDOWN = "WORKER_SHUTDOWN"

Gone = Callable[[Link, float], None]


class Links:
    """All links by their number, of which one at most is live.

    Args:
        withdraw: Is called with a link on which nothing is acknowledged any more.
        gone: Is called with a link that is no more.
    """

    def __init__(
        self,
        telling: Telling,
        leases: Leases,
        *,
        withdraw: Callable[[Link], None],
        gone: Gone,
    ) -> None:
        self.live: Link | None = None
        self.attempt: Link | None = None
        """The one that is being made."""
        self.heartbeats_missed = 0
        self._telling = telling
        self._leases = leases
        self._withdraw = withdraw
        self._gone = gone
        self._all: dict[int, Link] = {}
        self.get = self._all.get
        self.several = False
        """Whether there is more than one."""
        self.changed = True
        """Whether there may be news of the connection."""
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Link]:
        """Over those there are now, whatever becomes of them meanwhile."""
        return iter(list(self._all.values()))

    def usable(self) -> Link | None:
        """Where to send: the live link, or else one that is being retired."""
        if self.live is not None:
            return self.live
        return next((link for link in self._all.values() if link.usable), None)

    @property
    def answering(self) -> Link | None:
        """The live link, once it is sure to answer."""
        return self.live if self.live is not None and self.live.is_open else None

    def begin(self, now: float) -> Link:
        """The link of a new attempt."""
        self._last_id += 1
        link = self.attempt = self._all[self._last_id] = Link(self._last_id, now)
        self.several = len(self._all) > 1
        self.changed = True
        return link

    def go_live(self, link: Link, now: float) -> None:
        """Send requests' answers over this one from now on; another one retires."""
        previous, self.live, self.attempt = self.live, link, None
        self.changed = True
        link.enter(Phase.LIVE, now)
        link.live_at = now
        if previous is not None:
            previous.enter(Phase.RETIRING, now)

    def retire(self, link: Link, now: float) -> None:
        """The gateway is closing."""
        link.enter(Phase.RETIRING, now)
        self.live = None
        self.changed = True

    def forget(self, link: Link, now: float) -> None:
        self._all.pop(link.id, None)
        self.several = len(self._all) > 1
        self.changed = True
        if link is self.live:
            self.live = None
        if link is self.attempt:
            self.attempt = None
        self._gone(link, now)

    # What is said.

    def heartbeat(self, link: Link, now: float) -> None:
        link.heartbeat_sent(now)
        self._telling.send(link, wire.WORKER_HEARTBEAT)
        self._telling.touch(now)

    def heartbeat_answered(self, link: Link, now: float) -> None:
        is_news = link.heartbeat_answered_at is None or link.unanswered > 1
        link.heartbeat_answered(now)
        if link is self.live:
            self._telling.touch(now, at_once=is_news)

    def pause(self, link: Link, now: float) -> None:
        """Take nothing more on a link, and say so."""
        if link.paused:
            return
        link.paused = True
        # The gateway gives them back when it comes to the pause, and takes no notice
        # of what it has given back.
        self._withdraw(link)
        link.pause_at = now
        if link.acked_at is not None:
            link.pause_at = max(now, link.acked_at + PAUSE_GAP)
        self._send_pause(link, now)

    def close(self, link: Link, now: float) -> None:
        if link.pause_at is not None:
            self._send_pause(link, link.pause_at)
        link.next_heartbeat = link.next_status = None
        link.enter(Phase.CLOSING, now)
        self.changed = True
        # With any other reason, or none, the gateway counts it as unexpected.
        self._telling.do(Close(link.id, WORKER_SHUTDOWN))
        if link is self.live:
            self.live = None

    def tick(self, link: Link, now: float, *, stopping: bool) -> bool:
        """Say what is due on a link; ``False`` where the gateway says nothing."""
        if link.next_heartbeat is not None and link.next_heartbeat <= now:
            if link.unanswered:
                self.heartbeats_missed += 1
            if link.dead:
                return False
            self.heartbeat(link, now)
        self._send_pause(link, now)
        if link.next_status is not None and link.next_status <= now:
            link.next_status = now + link.status_interval
            running = [each.request_id for each in self._leases.running]
            frame = frames.status(running, shutdown_requested=stopping)
            self._telling.do(Send(link.id, frame))
        return True

    def _send_pause(self, link: Link, now: float) -> None:
        if link.pause_at is not None and link.pause_at <= now:
            link.pause_at = None
            self._telling.send(link, wire.WORKER_PAUSE)
