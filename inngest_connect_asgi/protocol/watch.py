"""How late two event loops run: the app's, and the runtime's own."""

from __future__ import annotations

__all__ = ["AppWatch", "Lateness"]

PING_INTERVAL = 1.0
"""Seconds between the pings that the app's event loop answers."""

STALL_LIMIT = 1.0
"""Seconds without an answer that are worth a line in the log."""

STARVED_LIMIT = 1.0
"""Seconds of lateness that are worth a line in the log."""

STARVED_INTERVAL = 600.0
"""Seconds between two such lines: it rarely happens only once."""


class AppWatch:
    """Pings the app's event loop, one ping at a time."""

    def __init__(self) -> None:
        self.number = 0
        self.ping_at: float | None = None
        """When to ping next; ``None`` while an answer is awaited."""
        self.waiting_since: float | None = None
        """When the ping was sent that is not answered yet."""
        self.lag = 0.0
        """Seconds that the last answer took."""
        self.told = False
        """Whether the present stall was told."""

    def start(self, now: float) -> None:
        self.ping_at = now

    def ping(self, now: float) -> int:
        """Send a ping now; returns its number."""
        self.number += 1
        self.ping_at = None
        self.waiting_since = now
        self.told = False
        return self.number

    def pong(self, number: int, now: float) -> bool:
        """The app's event loop has got to a ping; says whether it was this one."""
        if number != self.number or self.waiting_since is None:
            return False
        self.lag = now - self.waiting_since
        self.waiting_since = None
        self.ping_at = now + PING_INTERVAL
        return True

    @property
    def stall_at(self) -> float | None:
        """When the present stall is worth telling, unless it was told."""
        if self.waiting_since is None or self.told:
            return None
        return self.waiting_since + STALL_LIMIT

    @property
    def next_tick(self) -> float | None:
        return self.stall_at if self.ping_at is None else self.ping_at


class Lateness:
    """How late the runtime's timers fire: it is starved when they are very late."""

    def __init__(self) -> None:
        self._most = 0.0
        self._told_at: float | None = None

    def add(self, late: float, now: float) -> bool:
        """Note that a timer fired ``late``; returns whether to tell of it."""
        self._most = max(self._most, late)
        if late < STARVED_LIMIT:
            return False
        if self._told_at is not None and now - self._told_at < STARVED_INTERVAL:
            return False
        self._told_at = now
        return True

    def take(self) -> float:
        """The most by which one was late since this was last asked, in seconds."""
        most, self._most = self._most, 0.0
        return most
