"""One connection to one gateway, from the start call to the last frame."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from ..messages import Delivery, Lease

__all__ = ["TRANSITIONS", "Link", "Phase"]

T = TypeVar("T")


class Phase(enum.Enum):
    STARTING = "starting"
    """The start call is under way."""
    OPENING = "opening"
    """The WebSocket is being opened."""
    GREETING = "greeting"
    """Waiting for GATEWAY_HELLO."""
    SYNCING = "syncing"
    """WORKER_CONNECT is sent; waiting for GATEWAY_CONNECTION_READY."""
    LIVE = "live"
    """The gateway routes requests here, unless the worker is paused."""
    RETIRING = "retiring"
    """The gateway is closing: a replacement is sought, or already live."""
    CLOSING = "closing"
    """The close frame is on its way."""


# What leads from a phase to the next. From each of them a link may also be lost, by the
# word of the network, or because its time is up: then it is forgotten.
TRANSITIONS: dict[Phase, dict[str, Phase]] = {
    Phase.STARTING: {"the API names a gateway": Phase.OPENING},
    Phase.OPENING: {"the WebSocket is open": Phase.GREETING},
    Phase.GREETING: {"GATEWAY_HELLO": Phase.SYNCING},
    Phase.SYNCING: {"GATEWAY_CONNECTION_READY": Phase.LIVE},
    Phase.LIVE: {
        "GATEWAY_CLOSING": Phase.RETIRING,
        "another link is live": Phase.RETIRING,
        "the worker stops": Phase.CLOSING,
    },
    Phase.RETIRING: {"nothing is owed on it": Phase.CLOSING},
    Phase.CLOSING: {},
}

_CONNECTING = (Phase.STARTING, Phase.OPENING, Phase.GREETING, Phase.SYNCING)
_USABLE = (Phase.LIVE, Phase.RETIRING)

# The spec's timeouts for a worker (SDK_SPEC 8.5), in seconds.
TIMEOUTS = {
    Phase.STARTING: 10.0,
    Phase.OPENING: 10.0,
    Phase.GREETING: 5.0,
    Phase.SYNCING: 20.0,
    Phase.CLOSING: 2.0,
}

ATTEMPT_TIMEOUT = 27.0
"""Seconds for all phases until a link is live: an attempt that hangs in each of them
must not keep the next one from its time."""

MAX_UNANSWERED = 2
"""Heartbeats without an answer after which a link is dead (SDK_SPEC 8.5.3)."""

REQUESTS_REMEMBERED = 4096
"""Request ids of which an answer is expected. The ack of a reply may come after that
was flushed; others never come."""

ANSWERS_EXPECTED = 64
"""Answers expected at once about one request id."""


@dataclass
class Link:
    id: int
    started_at: float
    phase: Phase = Phase.STARTING
    deadline: float | None = None
    """When the present phase has taken too long."""
    via: str = ""
    """By which proxy what is tried now is reached, for a message."""
    connection_id: str | None = None
    gateway_group: str | None = None
    live_at: float | None = None
    heartbeat_interval: float = 0.0
    next_heartbeat: float | None = None
    unanswered: int = 0
    awaiting_since: float | None = None
    """When the first heartbeat without an answer was sent."""
    paused: bool = False
    """WORKER_PAUSE was sent on it, or is about to be, which nothing takes back."""
    pause_at: float | None = None
    """When to send it."""
    status_interval: float = 0.0
    next_status: float | None = None
    is_open: bool = False
    """The gateway has handled WORKER_READY, or WORKER_PAUSE. Before, it answers no
    extension, though it extends the lease (pkg/connect/gateway_phase.go, canWrite):
    the new id would never be known. A request shows it, or the answer to the first
    heartbeat, which is handled behind them."""
    heartbeat_sent_at: float | None = None
    heartbeat_answered_at: float | None = None
    round_trip: float | None = None
    unsent_acks: dict[Delivery, Lease] = field(default_factory=dict, repr=False)
    """Requests whose acknowledgement is not on the wire yet."""
    acked_at: float | None = None
    """When the last one was."""
    extensions: dict[str, deque[Lease]] = field(default_factory=dict, repr=False)
    """Leases by request id as they were extended, with no answer yet."""
    queued: int = 0
    """Bytes of replies that are to be written on it."""
    replies: dict[str, deque[Delivery]] = field(default_factory=dict, repr=False)
    """By request id, the replies that were written on it, with no ack yet."""

    def __post_init__(self) -> None:
        self._begin(self.phase, self.started_at)

    def enter(self, phase: Phase, now: float) -> None:
        assert phase in TRANSITIONS[self.phase].values(), (self.phase, phase)
        self._begin(phase, now)

    def _begin(self, phase: Phase, now: float) -> None:
        self.phase = phase
        timeout = TIMEOUTS.get(phase)
        self.deadline = None if timeout is None else now + timeout
        if self.deadline is not None and self.connecting:
            self.deadline = min(self.deadline, self.started_at + ATTEMPT_TIMEOUT)

    @property
    def connecting(self) -> bool:
        return self.phase in _CONNECTING

    @property
    def usable(self) -> bool:
        """Frames may be sent on it."""
        return self.phase in _USABLE

    @property
    def dead(self) -> bool:
        return self.unanswered >= MAX_UNANSWERED

    @property
    def next_tick(self) -> float | None:
        times = (self.deadline, self.next_heartbeat, self.next_status, self.pause_at)
        return min((time for time in times if time is not None), default=None)

    def heartbeat_sent(self, now: float) -> None:
        """Count a heartbeat; the next is due an interval from now.

        From now, not from when this one was due: a runtime that was starved must
        not send a burst, nor count answers as missing that it had no time to read.
        """
        self.unanswered += 1
        self.heartbeat_sent_at = now
        if self.awaiting_since is None:
            self.awaiting_since = now
        self.next_heartbeat = now + self.heartbeat_interval

    def heartbeat_answered(self, now: float) -> None:
        if self.awaiting_since is not None:
            self.round_trip = now - self.awaiting_since
        self.unanswered = 0
        self.awaiting_since = None
        self.heartbeat_answered_at = now
        self.is_open = True

    def extension_sent(self, lease: Lease) -> None:
        """A lease was extended over this link, under its present id."""
        _remember(self.extensions, lease.request_id, lease)

    def extension_answered(self, request_id: str) -> Lease | None:
        """The lease that an answer is about, as it was extended."""
        return _first(self.extensions, request_id)

    def reply_sent(self, delivery: Delivery) -> None:
        """A reply was written on this link."""
        _remember(self.replies, delivery.request_id, delivery)

    def reply_acked(self, request_id: str) -> Delivery | None:
        """The delivery whose reply an ack is about: the one that was written first."""
        return _first(self.replies, request_id)


def _remember(expected: dict[str, deque[T]], request_id: str, sent: T) -> None:
    """Expect an answer about what was sent, unless too many are."""
    others = expected.setdefault(request_id, deque())
    # An answer that nobody expects is ignored, or is about what is held. Were an
    # earlier one forgotten, this would be taken for the answer to a later one.
    if len(others) < ANSWERS_EXPECTED:
        others.append(sent)
    if len(expected) > REQUESTS_REMEMBERED:
        del expected[next(iter(expected))]


def _first(expected: dict[str, deque[T]], request_id: str) -> T | None:
    """What an answer is about: they come in the order of what was sent."""
    sent = expected.get(request_id)
    if sent is None:
        return None
    first = sent.popleft()
    if not sent:
        del expected[request_id]
    return first
