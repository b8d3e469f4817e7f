"""What a runtime is configured with, in plain data: part of the start message."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "DEFAULT_OUTCOME_BUFFER_SIZE",
    "DEFAULT_REPLY_BUFFER_SIZE",
    "App",
    "Configuration",
    "Probe",
]

DEFAULT_REPLY_BUFFER_SIZE = 256 * 1024 * 1024
"""Bytes."""

DEFAULT_OUTCOME_BUFFER_SIZE = 32 * 1024 * 1024
"""Bytes."""


@dataclass(frozen=True)
class App:
    """An Inngest app and its functions, as the gateway registers them."""

    name: str
    version: str | None
    functions: bytes
    """JSON array of function configurations."""


@dataclass(frozen=True)
class Probe:
    """Where and how to serve the health endpoints beside the app."""

    host: str
    """An empty one stands for every IPv4 address of the machine."""
    port: int
    path: str
    details: bool
    wedge_timeout: float | None
    metrics: bool = False


@dataclass(frozen=True)
class Configuration:
    """Everything the runtime needs to know. Durations are in seconds."""

    apps: tuple[App, ...]
    api_origin: str = field(repr=False)
    """There may be a password in it."""
    instance_id: str
    sdk_version: str
    cpu_cores: int = 1
    memory: int = 0
    """Bytes."""
    os: str = ""
    environment: str | None = None
    signing_key: str | None = field(default=None, repr=False)
    """Hashed; the raw key stays in the app. ``None`` with a dev server."""
    signing_key_fallback: str | None = field(default=None, repr=False)
    gateway_url: str | None = field(default=None, repr=False)
    max_worker_concurrency: int | None = None
    stall_timeout: float | None = None
    """Take no requests while the app's event loop has not answered for so long."""
    probe: Probe | None = None
    isolation: str = "thread"
    """For the report only: the runtime does not care where it lives."""
    reconnect_cap: float = 27.0
    """The longest pause between two attempts. Leaves 3 seconds to connect within half
    a minute of the end of an outage."""
    reply_buffer_size: int = DEFAULT_REPLY_BUFFER_SIZE
    """Bytes of undelivered replies to keep before giving up the oldest."""
