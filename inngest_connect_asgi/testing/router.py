"""Requests on their way to workers: routing, leases and replies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from ..wire import connect_pb2
from . import ulid
from .connection import Connection
from .faults import Faults
from .log import Log, Seen

__all__ = ["Delivery", "Router"]

GRACE_PERIOD = 5.0


@dataclass(eq=False)
class Delivery:
    """A request to a worker, kept up to date."""

    request: connect_pb2.GatewayExecutorRequestData = field(repr=False)
    log: Log = field(repr=False)
    connection: Connection | None = None
    """Where the request was sent last, or where its lease was extended last."""
    sent_to: list[Connection] = field(default_factory=list)
    acked_by: list[Connection] = field(default_factory=list)
    lease_ids: list[str] = field(default_factory=list)
    """Every lease id handed out, the newest last."""
    extensions: int = 0
    nacks: int = 0
    reply: connect_pb2.SDKResponse | None = None
    """The first reply, over the socket or by ``flush``; the others are only
    counted."""
    replies: int = 0
    lease_until: float = 0.0
    """When the lease ends, by ``time.monotonic()``."""
    awaiting_ack: bool = field(default=False, repr=False)
    leased: bool = field(default=False, repr=False)
    previous_lease_id: str = field(default="", repr=False)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def lease_id(self) -> str:
        return self.lease_ids[-1] if self.lease_ids else ""

    def wait_for_ack(self, timeout: float = 5.0) -> Connection:
        """Return the connection that acknowledged the request.

        Raises:
            TimeoutError: none did within ``timeout`` seconds.
        """
        return self.log.wait_until(lambda: self.acked_by, timeout)[-1]

    def wait_for_reply(self, timeout: float = 5.0) -> connect_pb2.SDKResponse:
        """Return the reply.

        Raises:
            TimeoutError: there was none within ``timeout`` seconds.
        """
        self.log.wait_until(lambda: self.reply is not None, timeout)
        assert self.reply is not None
        return self.reply


class Router:
    """Takes requests to connections. Lives on the gateway's event loop."""

    def __init__(self, log: Log, faults: Faults, lease_duration: float) -> None:
        self.log = log
        self.faults = faults
        self.lease_duration = lease_duration
        self.connections: list[Connection] = []
        self.deliveries: dict[str, Delivery] = {}
        self.replies: dict[str, connect_pb2.SDKResponse] = {}
        self.executions: Counter[str] = Counter()
        self._waiters: list[asyncio.Future[None]] = []
        self._turn = 0

    def reset(self) -> None:
        """Forget everything; no connection may be open."""
        self.connections.clear()
        self.deliveries.clear()
        self.replies.clear()
        self.executions.clear()

    # Something changed: whoever waits for a worker or a worker's answer looks again.

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.log.touch()

    async def changed(self, timeout: float | None = None) -> None:
        """Wait until something has, or for ``timeout`` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=timeout)

    # Requests

    async def execute(
        self, request: connect_pb2.GatewayExecutorRequestData
    ) -> connect_pb2.SDKResponse:
        """Deliver a request, as often as it takes, until it is replied to."""
        delivery = self.track(request)
        while delivery.reply is None:
            connection = self._pick(request.app_name)
            if connection is None:
                await self.changed()
                continue
            if await self.forward(delivery, connection):
                await self._watch(delivery)
        return delivery.reply

    def track(self, request: connect_pb2.GatewayExecutorRequestData) -> Delivery:
        delivery = Delivery(request, self.log)
        self.deliveries[request.request_id] = delivery
        return delivery

    async def forward(
        self,
        delivery: Delivery,
        connection: Connection,
        lease_duration: float | None = None,
    ) -> bool:
        """Send a request under a new lease."""
        duration = self.lease_duration if lease_duration is None else lease_duration
        self._lease(delivery, duration)
        delivery.request.lease_id = delivery.lease_id
        delivery.connection = connection
        delivery.awaiting_ack = True
        delivery.sent_to.append(connection)
        sent = await connection.send(
            connect_pb2.Kind.GATEWAY_EXECUTOR_REQUEST, delivery.request
        )
        if not sent:
            delivery.awaiting_ack = delivery.leased = False
        return sent

    async def _watch(self, delivery: Delivery) -> None:
        """Return once there is a reply, or reason to route the request anew."""
        ack_until = time.monotonic() + self.lease_duration + GRACE_PERIOD
        while delivery.reply is None and delivery.leased:
            now = time.monotonic()
            until = ack_until if delivery.awaiting_ack else delivery.lease_until
            if now < until:
                await self.changed(until - now)
                continue
            delivery.awaiting_ack = delivery.leased = False
            self.log.append(
                Seen(
                    now,
                    "lease",
                    connection=delivery.connection,
                    id=delivery.request_id,
                    reason="expired",
                )
            )
            self.wake()

    def _pick(self, app: str) -> Connection | None:
        able = [c for c in self.connections if c.serves(app) and self._has_room(c)]
        self._turn += 1
        return able[self._turn % len(able)] if able else None

    def _has_room(self, connection: Connection) -> bool:
        """Whether the worker's instance may take one more.

        Capacity belongs to the instance id, and the last connection to declare
        it wins (``SetWorkerTotalCapacity`` in pkg/connect/gateway.go).
        """
        instance = connection.instance_id
        newest = max(
            (c for c in self.connections if c.instance_id == instance),
            key=lambda c: c.number,
        )
        limit = newest.hello.max_worker_concurrency
        if limit <= 0:
            return True
        busy = sum(
            delivery.leased
            and delivery.connection is not None
            and delivery.connection.instance_id == instance
            for delivery in self.deliveries.values()
        )
        return busy < limit

    def release(self, connection: Connection) -> None:
        """Give back what the connection has not acknowledged."""
        for delivery in self.deliveries.values():
            if delivery.awaiting_ack and delivery.connection is connection:
                delivery.awaiting_ack = delivery.leased = False
        self.wake()

    # What workers say about requests

    def acknowledge(
        self, connection: Connection, ack: connect_pb2.WorkerRequestAckData
    ) -> None:
        self.executions[ack.request_id] += 1
        delivery = self.deliveries.get(ack.request_id)
        if delivery is not None:
            delivery.acked_by.append(connection)
            if delivery.connection is connection:
                delivery.awaiting_ack = False
        self.wake()

    def extend(
        self, connection: Connection, data: connect_pb2.WorkerRequestExtendLeaseData
    ) -> str | None:
        """Return the next lease id, or ``None`` where the lease is lost.

        The predecessor of the current lease id gets the current one again:
        the worker did not see the last answer (pkg/connect/
        gateway_msg_extend_lease_test.go).
        """
        delivery = self.deliveries.get(data.request_id)
        if delivery is None:
            return None
        alive = delivery.leased and time.monotonic() < delivery.lease_until
        refused = self.faults.nack_leases or connection.faults.nack_leases
        repeated = data.lease_id == delivery.previous_lease_id
        if not alive or refused or not (repeated or data.lease_id == delivery.lease_id):
            delivery.nacks += 1
            self.wake()
            return None
        if not repeated:
            delivery.previous_lease_id = delivery.lease_id
            self._lease(delivery, self.lease_duration)
            delivery.extensions += 1
        delivery.connection = connection
        self.wake()
        return delivery.lease_id

    def save(self, reply: connect_pb2.SDKResponse) -> None:
        """Keep the first reply to a request."""
        self.replies.setdefault(reply.request_id, reply)
        delivery = self.deliveries.get(reply.request_id)
        if delivery is not None:
            delivery.replies += 1
            if delivery.reply is None:
                delivery.reply = reply
            delivery.awaiting_ack = delivery.leased = False
        self.wake()

    def expire_leases(self) -> None:
        for delivery in self.deliveries.values():
            delivery.lease_until = 0.0
        self.wake()

    def _lease(self, delivery: Delivery, duration: float) -> None:
        # The id says when the lease ends, as the real one does.
        delivery.lease_ids.append(ulid.new(time.time() + duration))
        delivery.lease_until = time.monotonic() + duration
        delivery.leased = True
