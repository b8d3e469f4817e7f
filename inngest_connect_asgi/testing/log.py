"""What happened, in order, and waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Log", "Seen"]

T = TypeVar("T")
Event = Literal[
    "received",
    "sent",
    "opened",
    "ready",
    "closed",
    "start",
    "flush",
    "event",
    "run",
    "lease",
    "void",
    "returned",
    "restart",
]


@dataclass(frozen=True)
class Seen:
    """One thing that happened."""

    time: float
    """When, by ``time.monotonic()``."""
    event: Event
    """What: a frame ``received`` or ``sent``, a connection ``opened``,
    ``ready`` or ``closed``, an HTTP ``start`` or ``flush``, an Inngest
    ``event``, a ``run`` started or ended, a ``lease`` expired, a ``void``
    acknowledgement, a request ``returned`` for want of one, a ``restart`` of the
    executor."""
    kind: str = ""
    """The kind of frame, the name of an event or the status of a run."""
    connection: Connection | None = None
    message: Message | None = None
    """The payload of a frame or the body of an HTTP request, where it parsed."""
    data: bytes = field(default=b"", repr=False)
    """The frame as it arrived."""
    id: str = ""
    """The request, run or event that this is about."""
    code: int | None = None
    """The close code of a connection, or the status of an HTTP answer."""
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        words: list[object] = [self.event, self.kind, self.id, self.code, self.reason]
        if self.connection is not None:
            words.insert(1, f"#{self.connection.number}")
        return " ".join(str(word) for word in words if word not in ("", None))


class Log:
    def __init__(self) -> None:
        self.entries: list[Seen] = []
        self._changed = threading.Condition()
        self._version = 0

    def append(self, seen: Seen) -> None:
        self.entries.append(seen)
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
            f"  {seen.time - now:+8.3f} s  {seen}" for seen in self.entries[-20:]
        )
        return f"nothing like it within {timeout} s; the last events:\n{last}"
