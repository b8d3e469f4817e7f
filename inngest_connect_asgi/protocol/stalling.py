"""The app's event loop: whether it answers, and what to do where it does not."""

from __future__ import annotations

import logging

from ..messages import Ping, Stalled
from .actions import Tell
from .links import Links
from .telling import Telling
from .watch import AppWatch

__all__ = ["Stalling"]

NOTABLE_LAG = 0.1
"""Seconds. A slower answer is told of at once."""


class Stalling:
    """Takes no requests while the app's event loop is stalled.

    Args:
        timeout: Seconds after which to take none; ``None`` goes on for ever.
    """

    def __init__(self, timeout: float | None, telling: Telling, links: Links) -> None:
        self.watch = AppWatch()
        self.paused = False
        """Whether none are taken for that."""
        self._timeout = timeout
        self._telling = telling
        self._links = links

    def pong(self, number: int, now: float, *, is_news: bool) -> bool:
        """It has answered a ping; says whether requests may be taken again.

        Args:
            is_news: The app was told that an answer is awaited.
        """
        if not self.watch.pong(number, now):
            # Of a runtime that died, or once more.
            return False
        if is_news or self.watch.lag > NOTABLE_LAG:
            self._telling.touch(now)
        was_paused, self.paused = self.paused, False
        if was_paused:
            self._telling.log(logging.INFO, "The app's event loop answers again", now)
        return was_paused

    def next_tick(self, *, stopping: bool) -> float | None:
        times = (self.watch.next_tick, self.pause_at(stopping=stopping))
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: float, *, stopping: bool) -> None:
        watch = self.watch
        if watch.ping_at is not None and watch.ping_at <= now:
            self._telling.do(Tell(Ping(watch.ping(now))))
        if watch.stall_at is not None and watch.stall_at <= now:
            assert watch.waiting_since is not None
            watch.told = True
            self._telling.do(Tell(Stalled(now - watch.waiting_since)))
            self._telling.touch(now)
        pause_at = self.pause_at(stopping=stopping)
        if pause_at is not None and pause_at <= now:
            self.paused = True
            if self._links.live is not None:
                self._links.pause(self._links.live, now)
            text = "Takes no requests until the app answers again"
            self._telling.log(logging.WARNING, text, now)
            self._telling.touch(now, at_once=True)

    def pause_at(self, *, stopping: bool) -> float | None:
        """When it has been stalled for too long to take more."""
        since = self.watch.waiting_since
        if self._timeout is None or since is None or self.paused or stopping:
            return None
        return since + self._timeout
