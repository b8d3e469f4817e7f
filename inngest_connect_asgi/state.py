"""What a runtime tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "API_REJECTED",
    "API_UNREACHABLE",
    "APP_STALLED",
    "CLOSING",
    "CONNECTIONS",
    "CONNECTION_LOST",
    "FAILURE_REASONS",
    "HANDSHAKE_FAILED",
    "HEARTBEAT_TIMEOUT",
    "OWN_LOCK",
    "PLACES",
    "RECONNECT_REASONS",
    "RUNTIME_CRASHED",
    "SILENCE",
    "STATE_EVERY",
    "InFlight",
    "State",
]

STATE_EVERY = 2.0
"""Seconds after which a runtime tells its state, if nothing has changed."""

SILENCE = 5 * STATE_EVERY
"""Seconds without a word after which a runtime is not healthy, whatever it said."""

# Why a connection was replaced, or did not come to be.
CLOSING = "gateway_closing"
HEARTBEAT_TIMEOUT = "heartbeat_timeout"
CONNECTION_LOST = "connection_lost"
APP_STALLED = "app_stalled"
RUNTIME_CRASHED = "runtime_crashed"
HANDSHAKE_FAILED = "handshake_failed"
API_UNREACHABLE = "api_unreachable"
API_REJECTED = "api_rejected"

CONNECTIONS = (
    "connecting",
    "ready",
    "draining",
    "reconnecting",
    "stopping",
    "stopped",
)
OWN_LOCK = ("interpreter", "process")
"""Places with an interpreter's lock of their own."""
PLACES = ("thread", *OWN_LOCK)
RECONNECT_REASONS = (
    CLOSING,
    HEARTBEAT_TIMEOUT,
    CONNECTION_LOST,
    APP_STALLED,
    RUNTIME_CRASHED,
)
FAILURE_REASONS = (CLOSING, HANDSHAKE_FAILED, API_UNREACHABLE, API_REJECTED)


@dataclass(frozen=True)
class InFlight:
    request_id: str
    run_id: str
    function_id: str
    since: float
    """Unix seconds."""


@dataclass(frozen=True)
class State:
    """The runtime at one moment. Times are Unix seconds, durations seconds."""

    connection: str
    """One of :data:`CONNECTIONS`:

    * ``connecting``: no connection has been ready yet,
    * ``ready``: the gateway routes requests here,
    * ``draining``: the gateway is closing, and another is sought,
    * ``reconnecting``: the connection was lost,
    * ``stopping``: the app is shutting down,
    * ``stopped``.
    """
    at: float = 0.0
    """When this was so."""
    lives_in: str = ""
    """Where the runtime does: one of :data:`PLACES`."""
    connection_id: str | None = None
    gateway_group: str | None = None
    connected_at: float | None = None
    reconnects: int = 0
    reconnects_by: dict[str, int] = field(default_factory=dict)
    """How many, by one of :data:`RECONNECT_REASONS`: why the last one ended."""
    failures_by: dict[str, int] = field(default_factory=dict)
    """Attempts that came to nothing, by one of :data:`FAILURE_REASONS`."""
    last_error: str | None = None
    last_error_at: float | None = None
    heartbeat_interval: float | None = None
    heartbeat_sent_at: float | None = None
    heartbeat_answered_at: float | None = None
    heartbeats_unanswered: int = 0
    heartbeats_missed: int = 0
    """How many were not answered before the next was due, in all."""
    round_trip: float | None = None
    leases_held: int = 0
    leases_extended: int = 0
    leases_lost: int = 0
    requests_done: int = 0
    requests_failed: int = 0
    requests_repeated: int = 0
    """Of these, answered from memory, or by the run of the same attempt."""
    in_flight: tuple[InFlight, ...] = ()
    """The oldest first, a hundred at most."""
    requests_in_flight: int = 0
    replies_waiting: int = 0
    replies_flushed: int = 0
    replies_given_up: int = 0
    malformed: int = 0
    paused: bool = False
    """No requests are taken, because the app's event loop is stalled, or was and the
    connection that takes them again is not there yet."""
    runtime_lag: float = 0.0
    """How late the runtime's event loop was at most, since the last state."""
    app_lag: float = 0.0
    """How long the app's event loop took to answer last."""
    app_waiting_since: float | None = None
    """Since when it has not answered."""
