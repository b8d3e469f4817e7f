"""What crosses between the app and the runtime.

The runtime lives apart from the app, in a thread or a process of its own. The
two share nothing but these messages: plain data, so that either side can be
anywhere. :data:`VERSION` changes when a message does.

Nobody changes a message that there is. Those of every run are not frozen, for all that:
it would take five times as long to make one.

========= ========= =========================================================
message   way       says
========= ========= =========================================================
Start     app → run connect, with this configuration; first of all
Result    app → run this request is done, with this outcome; or here it is again
Pong      app → run the app's event loop has got to a ping
Drain     app → run take no new requests, finish, and stop
Leave     app → run another runtime goes on: take no new requests, and end
Adopt     app → run go on with what another runtime has left
Request   run → app this request is about to be acknowledged: keep it
Accepted  run → app its acknowledgement is on the wire: run it
Withdrawn run → app it is not ours after all: forget it
Extended  run → app the lease of this request has a new id
Delivered run → app the reply to this request is no longer the app's business
Wanted    run → app send the result of this request again
Ping      run → app answer from the app's event loop
Stalled   run → app the app's event loop has not answered for a while
Starved   run → app the runtime itself got no time to run
Moved     run → app the runtime lives elsewhere now
State     run → app the runtime's state, on every change and every two seconds
Log       run → app a log record, for the app's ``logging`` tree
Stopped   run → app the runtime has ended; last of all
========= ========= =========================================================
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from .configuration import Configuration
from .errors import quoted
from .state import State

__all__ = [
    "VERSION",
    "Accepted",
    "Adopt",
    "Delivered",
    "Delivery",
    "Drain",
    "Extended",
    "FromApp",
    "FromRuntime",
    "Lease",
    "Leave",
    "Log",
    "Moved",
    "Outcome",
    "Ping",
    "Pong",
    "Request",
    "Result",
    "Stalled",
    "Start",
    "Starved",
    "Stopped",
    "Undelivered",
    "Wanted",
    "Withdrawn",
]

VERSION = 4


class Delivery(NamedTuple):
    """A request as it came once.

    Not its id alone: some servers keep that over all attempts of a job (1.19.2 and
    before), so the same id may come again to be run again. The server makes a new
    lease whenever it does, and keeps it where it only sends the same thing again
    (``pkg/connect/grpc/proxy.go``).
    """

    request_id: str
    lease_id: str
    """The first one."""


@dataclass(slots=True)
class Lease:
    """What the server wants echoed in everything said about a request."""

    delivery: Delivery
    lease_id: str
    """The newest one."""
    account_id: str
    env_id: str
    app_id: str
    function_slug: str
    step_id: str | None
    run_id: str
    system_trace_ctx: bytes
    user_trace_ctx: bytes

    @property
    def request_id(self) -> str:
        return self.delivery.request_id


@dataclass(slots=True)
class Request:
    """A request that is about to be acknowledged.

    The app has it before the server takes it for ours: whatever becomes of the
    runtime then, somebody knows of it.
    """

    lease: Lease
    app_name: str
    job_id: str
    payload: bytes = field(repr=False)
    """JSON body of an HTTP call request."""


@dataclass(slots=True)
class Outcome:
    """How a request ended, in the terms of an HTTP call response."""

    status: int
    """200 done, 206 steps reported, 500 failed."""
    body: bytes = field(repr=False)
    no_retry: bool = False
    retry_after: str | None = None
    sdk_version: str = ""
    request_version: int = 0
    step_failed: bool = False
    """With status 206: one of the steps is reported as failed."""


@dataclass(frozen=True)
class Start:
    configuration: Configuration
    requests: tuple[Lease, ...] = ()
    """Requests that the app was running already, after a runtime crashed."""
    offered: tuple[Lease, ...] = ()
    """Requests of which that runtime did not say whether they are acknowledged."""
    undelivered: tuple[Undelivered, ...] = ()
    """Results that a runtime which crashed did not deliver."""
    settled: tuple[Delivery, ...] = ()
    """The newest requests that are over and done with, not to be run again."""
    state: State | None = None
    """The last one of that runtime, whose counts go on."""
    drain: Drain | None = None
    """The app is shutting down already."""
    beside: bool = False
    """Another runtime lives: what it leaves, and its port, come with an Adopt."""
    log_level: int = 30
    """Lowest level that the app's loggers let through."""
    environ: dict[str, str] = field(default_factory=dict, repr=False)
    """Variables for a runtime that does not share the app's environment."""
    truststore: bool = False
    """The app's process has injected ``truststore``: inject it, too."""
    certifi: str | None = None
    """The file of certifi's authorities, where the app's process has it."""


@dataclass(frozen=True)
class Undelivered:
    """A result that the app has, and sends where it is :class:`Wanted`."""

    lease: Lease
    size: int
    """Bytes of its body."""


@dataclass(slots=True)
class Result:
    lease: Lease
    outcome: Outcome
    repeated: bool = False
    """The attempt did not run for this request: its outcome was there, or came from
    a run that was under way."""


@dataclass(frozen=True)
class Drain:
    timeout: float
    """Seconds until the runtime gives up what is still running."""


@dataclass(frozen=True)
class Leave:
    pass


@dataclass(frozen=True)
class Adopt:
    """As those of :class:`Start`."""

    requests: tuple[Lease, ...] = ()
    offered: tuple[Lease, ...] = ()
    undelivered: tuple[Undelivered, ...] = ()
    settled: tuple[Delivery, ...] = ()
    state: State | None = None


@dataclass(frozen=True)
class Pong:
    """The answer of the app's event loop to a :class:`Ping`."""

    number: int


@dataclass(frozen=True)
class Ping:
    """Answered from the app's event loop: tells how late that runs."""

    number: int


@dataclass(frozen=True)
class Stalled:
    """The app's event loop has not answered for a while."""

    lag: float
    """Seconds."""


@dataclass(frozen=True)
class Starved:
    """The runtime itself got no time to run for a while."""

    lag: float
    """Seconds."""


@dataclass(frozen=True)
class Moved:
    """The runtime lives elsewhere now, and all that it had has moved with it."""

    to: str
    """As the option ``isolation`` has it."""
    took: float
    """Seconds."""


@dataclass(slots=True)
class Accepted:
    delivery: Delivery


@dataclass(frozen=True)
class Withdrawn:
    delivery: Delivery


@dataclass(frozen=True)
class Extended:
    delivery: Delivery
    lease_id: str


@dataclass(slots=True)
class Delivered:
    delivery: Delivery


@dataclass(frozen=True)
class Wanted:
    """The runtime keeps no reply that it does not write: the app does."""

    delivery: Delivery


@dataclass(frozen=True)
class Log:
    level: int
    message: str
    extra: dict[str, object] = field(default_factory=dict)
    name: str = "inngest_connect_asgi"
    """The logger."""
    at: float = field(default_factory=time.time)
    """When it was made, in Unix seconds."""

    @classmethod
    def of(cls, lease: Lease, level: int, message: str, **extra: object) -> Log:
        """What became of a request, with what to look for on Inngest's side."""
        # Quoted, as it is from the network.
        about = f"{quoted(lease.function_slug)}, run {quoted(lease.run_id)}"
        named = {
            "request_id": lease.request_id,
            "run_id": lease.run_id,
            "function_id": lease.function_slug,
        }
        return cls(level, f"{message} ({about})", {**named, **extra})


@dataclass(frozen=True)
class Stopped:
    error: str | None = None
    """A traceback, where the runtime crashed."""


FromApp = Start | Result | Drain | Leave | Adopt | Pong
FromRuntime = (
    Request
    | Accepted
    | Withdrawn
    | Extended
    | Delivered
    | Wanted
    | Ping
    | Stalled
    | Starved
    | Moved
    | State
    | Log
    | Stopped
)
