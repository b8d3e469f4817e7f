"""One WebSocket between a worker and the gateway."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..ends import spawn
from ..protocol.wire import connect as wire
from ..protocol.wire.codec import Message
from .faults import Faults
from .log import Log

__all__ = ["Connection", "Seen", "kind_name"]

logger = logging.getLogger(__name__)

WRITE_TIMEOUT = 5.0

Kind = wire.Kind

Phase = Literal[
    "handshaking",
    "connected",
    "ready",
    "paused",
    "draining",
    "disconnecting",
    "closed",
]
PHASES: tuple[Phase, ...] = (
    "handshaking",
    "connected",
    "ready",
    "paused",
    "draining",
    "disconnecting",
    "closed",
)
DRAINING: tuple[Phase, ...] = ("paused", "draining")
WRITABLE: dict[int, tuple[Phase, ...]] = {
    Kind.GATEWAY_EXECUTOR_REQUEST: ("ready",),
    Kind.GATEWAY_HEARTBEAT: ("ready", *DRAINING),
    Kind.WORKER_REPLY_ACK: ("ready", *DRAINING, "disconnecting"),
    Kind.WORKER_REQUEST_EXTEND_LEASE_ACK: ("ready", *DRAINING),
}
"""In which phases the gateway writes a kind: ``canWrite`` in gateway_phase.go."""

Status = Literal["connected", "ready", "draining", "disconnecting", "deleted"]


def kind_name(kind: int) -> str:
    try:
        return wire.Kind(kind).name
    except ValueError:
        return str(kind)


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


@dataclass(eq=False)
class Connection:
    """A worker's connection, kept up to date while it lives and after."""

    socket: ServerConnection = field(repr=False)
    number: int
    """1 for the first connection that LocalGateway accepted, and so on."""
    log: Log[Seen] = field(repr=False)
    shared_faults: Faults = field(repr=False)
    faults: Faults = field(default_factory=Faults, repr=False)
    """Misbehaviour on this connection alone."""
    id: str = ""
    group: str = ""
    """The gateway group that ``start`` answered."""
    hello: wire.WorkerConnectRequestData = field(
        default_factory=wire.WorkerConnectRequestData, repr=False
    )
    """WORKER_CONNECT, once it has come."""
    phase: Phase = "handshaking"
    """``connected`` once READY is sent and ``ready`` when requests can come,
    ``paused`` after WORKER_PAUSE and ``draining`` before GATEWAY_CLOSING,
    ``disconnecting`` once nothing more can be read, then ``closed``."""
    opened_at: float = field(default_factory=time.monotonic)
    ready_at: float | None = None
    closed_at: float | None = None
    close_code: int | None = None
    """1006 where the connection broke without a close frame."""
    close_reason: str = ""
    closed_by: Literal["worker", "gateway", ""] = ""
    """Who sent the first close frame."""
    disconnect_reason: str = ""
    """What the server would record once the connection has closed:
    ``WORKER_SHUTDOWN``, ``UNEXPECTED``, ``GATEWAY_DRAINING``,
    ``CONSECUTIVE_HEARTBEATS_MISSED``, ``MESSAGE_TOO_LARGE``, or the reason in the
    close frame."""
    status_reports: list[wire.WorkerStatusData] = field(
        default_factory=list, repr=False
    )
    """The WORKER_STATUS that were not ignored."""
    heartbeat_at: float = field(default_factory=time.monotonic, repr=False)
    status: Status = field(default="connected", repr=False)
    """What the router goes by; it lags behind the phase while a gateway drains."""
    status_at: float = field(default_factory=time.monotonic, repr=False)
    gateway_drains: bool = field(default=False, repr=False)
    functions: dict[str, set[str]] = field(default_factory=dict, repr=False)
    """The ids of its functions, by app."""
    no_forwarding: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set once a request that was routed here fails at once."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set, repr=False)
    handlers: set[asyncio.Task[None]] = field(default_factory=set, repr=False)
    pending_acks: dict[str, asyncio.Future[str]] = field(
        default_factory=dict, repr=False
    )
    """By request id, what becomes ``""`` with the acknowledgement, or the reason why
    none is waited for any more."""

    @property
    def apps(self) -> list[str]:
        return [app.app_name for app in self.hello.apps]

    @property
    def instance_id(self) -> str:
        return self.hello.instance_id

    # Phases

    def advance(self, phase: Phase) -> bool:
        """Go on to a phase, and give back what is not acknowledged.

        Returns:
            Whether it did: there is no way back.
        """
        if PHASES.index(phase) < PHASES.index(self.phase):
            return False
        was_ready, self.phase = self.phase == "ready", phase
        if was_ready and phase != "ready":
            for request_id in list(self.pending_acks):
                self.complete_ack(request_id, f"the connection is {phase}")
        self.log.touch()
        return True

    def note(self, event: Event, code: int | None = None, reason: str = "") -> None:
        """Log what became of the connection."""
        seen = Seen(time.monotonic(), event, "", self, code=code, reason=reason)
        self.log.append(seen)

    def set_status(self, status: Status) -> None:
        self.status, self.status_at = status, time.monotonic()

    def can_write(self, kind: int) -> bool:
        phases = WRITABLE.get(kind)
        return self.phase != "closed" if phases is None else self.phase in phases

    # Acknowledgements

    def expect_ack(self, request_id: str, timeout: float) -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        acked: asyncio.Future[str] = loop.create_future()
        self.pending_acks[request_id] = acked

        def give_up() -> None:
            if self.pending_acks.get(request_id) is acked:
                self.complete_ack(request_id, "the worker did not acknowledge it")

        timer = loop.call_later(timeout, give_up)
        acked.add_done_callback(lambda _: timer.cancel())
        return acked

    def complete_ack(self, request_id: str, failure: str = "") -> bool:
        """Tell who waits that the acknowledgement came, or why it will not.

        Returns:
            Whether anybody waited.
        """
        acked = self.pending_acks.pop(request_id, None)
        if acked is None:
            return False
        if not acked.done():
            acked.set_result(failure)
        return True

    # Frames

    def any_fault(self, name: str, kind: str) -> bool:
        return kind in getattr(self.faults, name) or kind in getattr(
            self.shared_faults, name
        )

    async def send(self, kind: int, message: Message | None = None) -> bool:
        """Send a frame, or lose it where a fault says so.

        Returns:
            Whether the frame is in the socket's hands. One that is delayed or
            muted counts, as it would for a gateway that knows no better.
        """
        if self.any_fault("mute", kind_name(kind)):
            return True
        delay = max(self.faults.delay, self.shared_faults.delay)
        if delay:
            self.spawn(self._send_later(delay, kind, message))
            return True
        return await self._send(kind, message)

    async def answer(self, kind: int, message: Message | None = None) -> bool:
        """Send a frame where the phase allows it."""
        return self.can_write(kind) and await self.send(kind, message)

    async def _send_later(
        self, delay: float, kind: int, message: Message | None
    ) -> None:
        await asyncio.sleep(delay)
        await self._send(kind, message)

    async def _send(self, kind: int, message: Message | None) -> bool:
        frame = wire.ConnectMessage(
            kind=kind,
            payload=message.SerializeToString() if message is not None else b"",
        )
        # Logged first: whoever sees the answer must see what it answers.
        self.log.append(Seen(time.monotonic(), "sent", kind_name(kind), self, message))
        return await self.send_raw(frame.SerializeToString())

    async def send_raw(self, data: bytes | str) -> bool:
        # Not wait_for(), which before Python 3.12 may lose a cancellation.
        sending = asyncio.ensure_future(self.socket.send(data))
        sending.add_done_callback(lambda _: sending.cancelled() or sending.exception())
        try:
            await asyncio.wait([sending], timeout=WRITE_TIMEOUT)
        finally:
            sending.cancel()
        if not sending.done():
            return False
        error = sending.exception()
        if error is not None and not isinstance(error, ConnectionClosed):
            raise error
        return error is None

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], *, outlives: bool = False
    ) -> None:
        """Run something that ends with the connection, or else with the gateway."""
        tasks = self.handlers if outlives else self.tasks

        def ended(error: BaseException | None) -> None:
            tasks.discard(task)
            if error is not None and not isinstance(error, asyncio.CancelledError):
                logger.error("LocalGateway is broken", exc_info=error)
                self.socket.transport.abort()

        task = spawn(coroutine, ended)
        tasks.add(task)
