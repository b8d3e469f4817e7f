"""What the core wants done. The runtime does it, and tells the core the result."""

from __future__ import annotations

from dataclasses import dataclass, field

from .messages import FromRuntime

__all__ = [
    "Abort",
    "Action",
    "Close",
    "Finish",
    "Flush",
    "Open",
    "Send",
    "StartLink",
    "Tell",
]


@dataclass(frozen=True)
class StartLink:
    """``POST /v0/connect/start``; answer with ``start_answered``."""

    link: int
    body: bytes
    signing_key: str | None = field(repr=False)


@dataclass(frozen=True)
class Open:
    """Open the WebSocket; answer with ``opened`` or ``lost``."""

    link: int
    url: str = field(repr=False)


@dataclass(frozen=True)
class Send:
    """Send a frame; where it bears a request id, hand it back to ``sent``."""

    link: int
    data: bytes = field(repr=False)
    request_id: str | None = None
    bulk: bool = False
    """It is a reply, and may be large: let every other frame overtake it."""

    @property
    def acknowledges(self) -> bool:
        """It accepts a request, of which the app is to know before the server does."""
        return self.request_id is not None and not self.bulk


@dataclass(frozen=True)
class Close:
    """Send what is queued, close the WebSocket; answer with ``lost``."""

    link: int
    reason: str


@dataclass(frozen=True)
class Abort:
    """Drop whatever is under way for this link, without an answer."""

    link: int


@dataclass(frozen=True)
class Flush:
    """``POST /v0/connect/flush``; answer with ``flush_answered``."""

    request_id: str
    body: bytes = field(repr=False)
    signing_key: str | None = field(repr=False)


@dataclass(frozen=True)
class Tell:
    """Pass a message to the app."""

    message: FromRuntime


@dataclass(frozen=True)
class Finish:
    """Everything is done: end the runtime."""


Action = StartLink | Open | Send | Close | Abort | Flush | Tell | Finish
