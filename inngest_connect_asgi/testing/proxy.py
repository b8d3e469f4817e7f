"""One dispatch of a request by the executor, as ``pkg/connect/grpc/proxy.go``."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from ..protocol.wire import connect as wire
from .connection import Connection, Seen
from .deliveries import Delivery

if TYPE_CHECKING:
    from .router import Router

__all__ = ["GRACE_PERIOD", "ExecutorRestarted", "Proxy"]

MAX_FORWARDS = 3
GRACE_PERIOD = 5.0
"""How much longer than a lease the gateway waits for an acknowledgement, and the
executor for a reply; a quarter of the lease where that is shorter."""


class ExecutorRestarted(Exception):
    """The executor died, and forgot this dispatch; what it was for is to be sent
    again."""


class Proxy:
    """Takes a request to a worker, and waits for the reply."""

    def __init__(self, router: Router, delivery: Delivery) -> None:
        self.router = router
        self.requests = router.requests
        self.store = router.requests.store
        self.delivery = delivery
        self.reply: wire.SDKResponse | None = None
        self._changed = asyncio.Event()
        self._abandoned = False
        self._until_lease_is_over = False

    async def execute(self) -> wire.SDKResponse | None:
        """Return the reply, or the error with which the attempt fails.

        ``None`` is no reply, and no attempt: the request is leased by somebody else,
        or the workers have no room. It is to be dispatched again.

        Raises:
            ExecutorRestarted: The executor was restarted before there was a reply.
        """
        request_id = self.delivery.request_id
        reply = self.store.take_response(request_id)
        if reply is not None:
            return reply
        self.requests.proxies[request_id] = self
        self._task = asyncio.ensure_future(self._execute())
        try:
            return await self._task
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
        finally:
            if self.requests.proxies.get(request_id) is self:
                del self.requests.proxies[request_id]
        if self._until_lease_is_over:
            while self._lease_end() > time.monotonic():
                await self.router.changed(self._lease_end() - time.monotonic())
        raise ExecutorRestarted

    def take(self, reply: wire.SDKResponse) -> None:
        self.reply = reply
        self.look_again()

    def look_again(self) -> None:
        self._changed.set()

    def abandon(self, *, until_lease_is_over: bool) -> None:
        """Forget it all, as an executor that died."""
        self._abandoned = True
        self._until_lease_is_over = until_lease_is_over
        self._task.cancel()

    async def _execute(self) -> wire.SDKResponse | None:
        leased = self._lease_end() > time.monotonic()
        if not leased:
            connection = await self.router.first_route(self.delivery)
            self.requests.lease(self.delivery)
            if not await self._forward(connection):
                return _error("Error", "failed to route request to gateway")
        while self.reply is None and self._lease_end() > time.monotonic():
            await self._wait_until(self._lease_end())
        if self.reply is None:
            self._note_expiry()
            end = (self._lease_end() or time.monotonic()) + self.router.grace_period
            while self.reply is None and end > time.monotonic():
                await self._wait_until(end)
        if self.reply is not None:
            self.requests.settle(self.delivery)
            return self.reply
        if leased:
            return None
        self._unassign(self.delivery.sent_to[-1])
        return _error(
            "connect_worker_stopped_responding",
            "The worker stopped responding to the request.",
        )

    async def _forward(self, connection: Connection) -> bool:
        """Forward the request until it is acknowledged, all under one lease."""
        for attempt in range(1, MAX_FORWARDS + 1):
            self.store.assign(connection.instance_id, self.delivery.request_id)
            if await self.router.forward(self.delivery, connection):
                return True
            self._unassign(connection)
            if attempt < MAX_FORWARDS:
                route = await self.router.next_route(self.delivery)
                if route is None:
                    break
                connection = route
        return False

    def _unassign(self, connection: Connection) -> None:
        self.store.unassign(connection.instance_id, self.delivery.request_id)

    def _lease_end(self) -> float:
        return self.store.lease_until(self.delivery.request_id)

    async def _wait_until(self, end: float) -> None:
        """Wait until something has changed, or until ``end``."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(end - time.monotonic(), self._changed.set)
        await self._changed.wait()
        self._changed.clear()
        timer.cancel()

    def _note_expiry(self) -> None:
        self.router.log.append(
            Seen(
                time.monotonic(),
                "lease",
                connection=self.delivery.connection,
                id=self.delivery.request_id,
                reason="expired",
            )
        )


def _error(name: str, message: str) -> wire.SDKResponse:
    return wire.SDKResponse(
        status=wire.SDKResponseStatus.ERROR,
        body=json.dumps({"name": name, "message": message}).encode(),
    )
