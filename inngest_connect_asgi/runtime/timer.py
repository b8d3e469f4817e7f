"""When the core is to be told that time has passed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Timer"]


class Timer:
    """Calls back once, at the time that was set last."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self.due: float | None = None
        """In the time of the loop; a time that is over is that of the last call."""

    def set(self, due: float | None) -> None:
        """Call at ``due``, or never where that is ``None``."""
        now = self._loop.time()
        if due is not None:
            # What became due only now is not late.
            due = max(due, now)
        if self._handle is not None and self.due is not None:
            # One that is due has its turn behind what is read in this one. Made anew
            # in each, it would have none while there is always more to read.
            if self.due == due or (due is not None and self.due <= now):
                return
            self._handle.cancel()
        self.due = due
        self._handle = None if due is None else self._loop.call_at(due, self._call)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _call(self) -> None:
        self._handle = None
        self._callback()
