"""What LocalGateway does wrong, on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal

__all__ = ["Answer", "Faults"]

Answer = int | Literal["hang", "garbage"] | None


@dataclass
class Faults:
    """Misbehaviour, as attributes to set; it lasts until they are set back.

    ``gateway.faults`` holds for every connection, present and to come, and for
    the HTTP API; ``connection.faults`` holds for one connection, which
    ``start``, ``flush``, ``endpoint``, ``upgrade`` and ``handshake`` say nothing
    about.

    Kinds of frames go by their names in ``connect.proto``.
    """

    start: Answer = None
    """How ``POST /v0/connect/start`` fails: an HTTP status, no answer, or 200
    with a body that is no protobuf."""
    flush: Answer = None
    """How ``POST /v0/connect/flush`` fails, likewise."""
    endpoint: str | None = None
    """The gateway's URL that ``start`` answers, instead of LocalGateway's own."""
    upgrade: int | None = None
    """The HTTP status that refuses a WebSocket upgrade."""
    handshake: Literal["ready_first", "sync_failed", "garbage_ready"] | None = None
    """READY where HELLO belongs, SYNC_FAILED and a close where READY belongs,
    or a READY that is no protobuf."""
    refuse: Callable[[str], bool] | None = None
    """Request ids whose replies are not taken, whatever way they come: ``flush``
    answers 403, and a connection does not answer."""
    mute: set[str] = field(default_factory=set)
    """Kinds that are not sent, as ``{"GATEWAY_HEARTBEAT"}``."""
    ignore: set[str] = field(default_factory=set)
    """Kinds that are received and then lost, as ``{"WORKER_REPLY"}``."""
    hold: set[str] = field(default_factory=set)
    """Kinds that are received but not handled as long as they are in here. Control
    messages (heartbeat, pause and ready) are handled one by one, the others five at
    once, so that one kind overtakes another, as at the server."""
    nack_leases: bool = False
    """Answer lease extensions without a new lease id."""
    delay: float = 0.0
    """Seconds before each frame and HTTP answer goes out."""
    data_delay: float = 0.0
    """Seconds before each message that is no control message is handled."""

    def reset(self) -> None:
        fresh = Faults()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

    def refuses(self, request_id: str) -> bool:
        refuse = self.refuse
        return refuse is not None and refuse(request_id)
