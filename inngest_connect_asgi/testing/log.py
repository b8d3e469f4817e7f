"""What happened, in order, and waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Log"]

T = TypeVar("T")


class _Entry(Protocol):
    @property
    def time(self) -> float: ...


Entry = TypeVar("Entry", bound=_Entry)


class Log(Generic[Entry]):
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._changed = threading.Condition()
        self._version = 0

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.touch()

    def clear(self) -> None:
        self.entries.clear()
        self.touch()

    def touch(self) -> None:
        """Have everyone who waits look again."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def wait_until(self, predicate: Callable[[], T], timeout: float) -> T:
        deadline = time.monotonic() + timeout
        while True:
            # The predicate runs without the lock: it may call the gateway,
            # whose thread takes the lock to append.
            version = self._version
            if value := predicate():
                return value
            with self._changed:
                while self._version == version:
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise TimeoutError(self._describe(timeout))

    def _describe(self, timeout: float) -> str:
        now = time.monotonic()
        last = "\n".join(
            f"  {entry.time - now:+8.3f} s  {entry}" for entry in self.entries[-20:]
        )
        return f"nothing like it within {timeout} s; the last events:\n{last}"
