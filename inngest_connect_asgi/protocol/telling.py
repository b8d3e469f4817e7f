"""What the core says: actions, log records, and when to tell its state."""

from __future__ import annotations

import logging
from dataclasses import replace

from ..messages import Lease, Log
from ..state import STATE_EVERY
from . import frames
from .actions import Action, Send, Tell
from .link import Link

__all__ = ["Telling"]

STATE_INTERVAL = 0.25
"""Seconds with one state message at most, unless the connection changed."""

WARNINGS_REMEMBERED = 256


class Telling:
    """Collects the actions of one event, in order.

    Args:
        epoch: Unix time at which ``now`` is zero.
    """

    def __init__(self, epoch: float) -> None:
        self.epoch = epoch
        self.state_at: float | None = None
        """When to tell the state next."""
        self._actions: list[Action] = []
        self.do = self._actions.append
        self._warned: set[str] = set()

    def take(self) -> list[Action]:
        actions = self._actions.copy()
        self._actions.clear()
        return actions

    def send(self, link: Link, kind: int) -> None:
        self.do(Send(link.id, frames.encode(kind)))

    def log(self, level: int, message: str, now: float, **extra: object) -> None:
        self.do(Tell(Log(level, message, extra, at=self.epoch + now)))

    def log_of(
        self, lease: Lease, level: int, message: str, now: float, **extra: object
    ) -> None:
        """Log what became of a request, as :meth:`Log.of` names it."""
        log = Log.of(lease, level, message, **extra)
        self.do(Tell(replace(log, at=self.epoch + now)))

    def warn(self, key: str, message: str, now: float) -> None:
        """Log once in the life of a connection what the network can repeat."""
        if self._is_new(key):
            self.log(logging.WARNING, message, now)
        self.touch(now)

    def error(self, message: str, error: str, now: float) -> None:
        """Log an error once, for as long as it stays the same."""
        if self._is_new(error):
            self.log(logging.ERROR, f"{message}: {error}", now)

    def _is_new(self, key: str) -> bool:
        if key in self._warned or len(self._warned) >= WARNINGS_REMEMBERED:
            return False
        self._warned.add(key)
        return True

    def begin_anew(self) -> None:
        """There is a new connection: what was logged once may be logged again."""
        self._warned.clear()

    # The state

    def touch(self, now: float, *, at_once: bool = False) -> None:
        """The state has changed: tell the app soon, or at once."""
        if at_once:
            self.state_at = now
        elif self.state_at is None or self.state_at > now + STATE_INTERVAL:
            self.state_at = now + STATE_INTERVAL

    def told_state(self, now: float, *, last: bool) -> None:
        """However little happens, it is told again: the silent are taken for hung."""
        self.state_at = None if last else now + STATE_EVERY

    def wall(self, time: float | None) -> float | None:
        """As Unix time."""
        return None if time is None else self.epoch + time
