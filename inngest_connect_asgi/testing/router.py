"""Requests on their way to connections, and what workers say about them."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from ..protocol.wire import connect as wire
from .connection import DRAINING, Connection, Seen
from .deliveries import Delivery
from .durations import interval
from .faults import Faults
from .log import Log
from .proxy import GRACE_PERIOD, ExecutorRestarted, Proxy
from .requests import Requests
from .store import Store

__all__ = ["Delivery", "ExecutorRestarted", "Router"]

Leases = Literal["lost", "kept", "over"]

DRAINING_WAIT = 10.0
"""How long a request that is routed again waits for a connection that takes the place
of one that drains (``GetRoute`` in pkg/connect/routing/router.go)."""


class Router:
    """Takes requests to connections. Lives on the gateway's event loop.

    Args:
        heartbeat_interval: A connection that is silent for two of these gets nothing.
        one_id_per_job: Whether all attempts of a job have its id for request id.
    """

    def __init__(
        self,
        log: Log[Seen],
        faults: Faults,
        lease_duration: float,
        *,
        heartbeat_interval: str = "10s",
        honour_previous_lease: bool = False,
        one_id_per_job: bool = False,
    ) -> None:
        self.log = log
        self.requests = Requests(
            log, faults, Store(lease_duration, honour_previous_lease), self.wake
        )
        self.heartbeat_interval = interval(heartbeat_interval)
        self.one_id_per_job = one_id_per_job
        self.connections: list[Connection] = []
        self._store = self.requests.store
        self._waiters: list[asyncio.Future[None]] = []
        self._turn = 0

    def reset(self) -> None:
        """Forget everything; no connection may be open."""
        self.connections.clear()
        self.requests.reset()

    @property
    def ready_connections(self) -> list[Connection]:
        return [each for each in self.connections if each.phase == "ready"]

    # Something changed: whoever waits for a worker looks again.

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

    # Requests of executors

    async def execute(
        self, request: wire.GatewayExecutorRequestData
    ) -> wire.SDKResponse:
        """Have an attempt executed.

        Returns:
            The reply, or an error where no worker took the request, or the one that
            did stopped responding. Such a failure counts as an attempt.

        Raises:
            ExecutorRestarted: The same attempt has to be sent anew.
        """
        while True:
            delivery = self.requests.track(request)
            reply = await Proxy(self, delivery).execute()
            if reply is not None:
                return reply

    def restart_executor(self, leases: Leases) -> None:
        """Have every attempt that is under way sent anew."""
        self.log.append(Seen(time.monotonic(), "restart", reason=f"leases {leases}"))
        if leases == "lost":
            self._store.forget_requests()
        for proxy in list(self.requests.proxies.values()):
            proxy.abandon(until_lease_is_over=leases == "over")
        self.wake()

    # Routes

    async def first_route(self, delivery: Delivery) -> Connection:
        """Wait for a connection, as the queue tries for ever."""
        while True:
            connection = self._pick(delivery)
            if connection is not None:
                return connection
            await self.changed()

    async def next_route(self, delivery: Delivery) -> Connection | None:
        """Find a connection for a request that one has given back."""
        deadline = time.monotonic() + DRAINING_WAIT
        while True:
            connection = self._pick(delivery)
            if connection is not None or not self._only_draining(delivery):
                return connection
            if time.monotonic() >= deadline:
                return None
            await self.changed(deadline - time.monotonic())

    def _pick(self, delivery: Delivery) -> Connection | None:
        able = [
            c
            for c in self.connections
            if self._is_healthy(c, delivery) and self._store.has_room(c.instance_id)
        ]
        self._turn += 1
        return able[self._turn % len(able)] if able else None

    def _is_healthy(self, connection: Connection, delivery: Delivery) -> bool:
        request = delivery.request
        if connection.status != "ready":
            return False
        if request.function_slug not in connection.functions.get(request.app_name, ()):
            return False
        silence = time.monotonic() - connection.status_at
        return not self.heartbeat_interval or silence <= 2 * self.heartbeat_interval

    def _only_draining(self, delivery: Delivery) -> bool:
        return any(
            connection.status == "draining"
            and delivery.request.app_name in connection.functions
            for connection in self.connections
        ) and not any(self._is_healthy(c, delivery) for c in self.connections)

    def make_ready(self, connection: Connection) -> None:
        connection.set_status("ready")
        connection.advance("ready")
        if connection.ready_at is None:
            connection.ready_at = time.monotonic()
            self.log.append(Seen(connection.ready_at, "ready", connection=connection))
        self.wake()

    # Requests to connections

    async def forward(self, delivery: Delivery, connection: Connection) -> bool:
        """Send a request, and wait for its acknowledgement.

        A connection whose gateway drains holds the request until it has drained, for
        the next one to be there by then (pkg/connect/rpc.go).
        """
        if connection.phase != "ready":
            failure = f"the connection is {connection.phase}"
            if connection.phase in DRAINING:
                await connection.no_forwarding.wait()
        else:
            acked = await self.write(delivery, connection)
            # An executor that dies leaves it to the gateway.
            failure = await asyncio.shield(acked)
        if failure:
            self.log.append(
                Seen(
                    time.monotonic(),
                    "returned",
                    connection=connection,
                    id=delivery.request_id,
                    reason=failure,
                )
            )
        return not failure

    async def write(
        self, delivery: Delivery, connection: Connection
    ) -> asyncio.Future[str]:
        """Send a request whatever the phase of the connection.

        Returns:
            What becomes ``""`` with the acknowledgement, or why there will be none.
        """
        delivery.connection = connection
        delivery.sent_to.append(connection)
        acked = connection.expect_ack(
            delivery.request_id, self._store.lease_duration + self.grace_period
        )
        if connection.phase != "ready":
            # A request that crosses a pause: nobody waits for it any more.
            connection.complete_ack(
                delivery.request_id, f"the connection is {connection.phase}"
            )
        sent = await connection.send(
            wire.Kind.GATEWAY_EXECUTOR_REQUEST, delivery.request
        )
        if not sent:
            connection.complete_ack(delivery.request_id, "it could not be written")
        return acked

    @property
    def grace_period(self) -> float:
        return min(GRACE_PERIOD, self._store.lease_duration / 4)

    async def send(
        self,
        delivery: Delivery,
        connection: Connection,
        lease_duration: float | None = None,
    ) -> None:
        """Send a request under a new lease, with no executor behind it."""
        self._store.delete_lease(delivery.request_id)
        self.requests.lease(delivery, lease_duration)
        self._store.assign(connection.instance_id, delivery.request_id, force=True)
        await self.write(delivery, connection)
