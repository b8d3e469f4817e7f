"""One WebSocket between a worker and the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.message import Message
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..wire import connect_pb2
from .faults import Faults
from .log import Log, Seen

__all__ = ["Connection", "kind_name"]

WRITE_TIMEOUT = 5.0

Phase = Literal["handshaking", "connected", "ready", "paused", "draining", "closed"]


def kind_name(kind: int) -> str:
    try:
        return connect_pb2.Kind.Name(kind)  # type: ignore[arg-type]
    except ValueError:
        return str(kind)


@dataclass(eq=False)
class Connection:
    """A worker's connection, kept up to date while it lives and after."""

    socket: ServerConnection = field(repr=False)
    number: int
    """1 for the first connection that LocalGateway accepted, and so on."""
    log: Log = field(repr=False)
    shared_faults: Faults = field(repr=False)
    faults: Faults = field(default_factory=Faults, repr=False)
    """Misbehaviour on this connection alone."""
    id: str = ""
    group: str = ""
    """The gateway group that ``start`` answered."""
    hello: connect_pb2.WorkerConnectRequestData = field(
        default_factory=connect_pb2.WorkerConnectRequestData, repr=False
    )
    """WORKER_CONNECT, once it has come."""
    phase: Phase = "handshaking"
    """``connected`` once READY is sent and ``ready`` when requests can come,
    ``paused`` after WORKER_PAUSE and ``draining`` after GATEWAY_CLOSING."""
    opened_at: float = field(default_factory=time.monotonic)
    ready_at: float | None = None
    closed_at: float | None = None
    heartbeat_at: float = field(default_factory=time.monotonic, repr=False)
    close_code: int | None = None
    """1006 where the connection broke without a close frame."""
    close_reason: str = ""
    closed_by: Literal["worker", "gateway", ""] = ""
    """Who sent the first close frame."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    @property
    def apps(self) -> list[str]:
        return [app.app_name for app in self.hello.apps]

    @property
    def instance_id(self) -> str:
        return self.hello.instance_id

    def serves(self, app: str) -> bool:
        return self.phase == "ready" and app in self.apps

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

    async def _send_later(
        self, delay: float, kind: int, message: Message | None
    ) -> None:
        await asyncio.sleep(delay)
        await self._send(kind, message)

    async def _send(self, kind: int, message: Message | None) -> bool:
        frame = connect_pb2.ConnectMessage(
            kind=kind,  # type: ignore[arg-type]
            payload=message.SerializeToString() if message is not None else b"",
        )
        # Logged first: whoever sees the answer must see what it answers.
        self.log.append(Seen(time.monotonic(), "sent", kind_name(kind), self, message))
        return await self.send_raw(frame.SerializeToString())

    async def send_raw(self, data: bytes | str) -> bool:
        try:
            await asyncio.wait_for(self.socket.send(data), WRITE_TIMEOUT)
        except (ConnectionClosed, asyncio.TimeoutError):
            return False
        return True

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that ends with the connection."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
