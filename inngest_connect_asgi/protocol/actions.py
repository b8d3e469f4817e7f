"""What the core wants done. The runtime does it, and tells the core the result."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..messages import Delivery, FromRuntime, Result
from . import frames
from .wire import connect as wire

__all__ = [
    "Abort",
    "Action",
    "Close",
    "Finish",
    "Flush",
    "Open",
    "Send",
    "SendReply",
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


@dataclass(slots=True)
class Send:
    """Send a frame; where it bears a delivery, hand it back to ``sent``.

    An acknowledgement goes out only if the core still ``wants`` it by then.
    """

    link: int
    data: bytes = field(repr=False)
    delivery: Delivery | None = None

    @property
    def acknowledges(self) -> bool:
        """It accepts a request, of which the app is to know before the server does."""
        return self.delivery is not None


@dataclass(slots=True)
class SendReply:
    """Send a reply, which may be large: let every other frame overtake it.

    Hand it back to ``sent``. It is encoded when it is written, and kept no longer.
    """

    link: int
    result: Result

    @property
    def acknowledges(self) -> bool:
        return False

    @property
    def delivery(self) -> Delivery:
        return self.result.lease.delivery

    @property
    def data(self) -> bytes:
        body = frames.reply(self.result.lease, self.result.outcome)
        return frames.encode(wire.WORKER_REPLY, body)


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

    result: Result
    signing_key: str | None = field(repr=False)

    @property
    def delivery(self) -> Delivery:
        return self.result.lease.delivery


@dataclass(slots=True)
class Tell:
    """Pass a message to the app."""

    message: FromRuntime


@dataclass(frozen=True)
class Finish:
    """Everything is done: end the runtime."""


Action = StartLink | Open | Send | SendReply | Close | Abort | Flush | Tell | Finish
