"""What is known of requests, and what workers say about them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..protocol.wire import connect as wire
from .connection import Connection, Seen
from .deliveries import Delivery
from .faults import Faults
from .log import Log
from .store import Store

if TYPE_CHECKING:
    from .proxy import Proxy

__all__ = ["Requests"]


class Requests:
    """Every request there was, and who waits for its reply.

    Args:
        wake: Is called whenever something has changed.
    """

    def __init__(
        self, log: Log[Seen], faults: Faults, store: Store, wake: Callable[[], None]
    ) -> None:
        self.log = log
        self.faults = faults
        self.store = store
        self.wake = wake
        self.deliveries: dict[str, Delivery] = {}
        self.replies: dict[str, wire.SDKResponse] = {}
        self.executions: Counter[str] = Counter()
        self.proxies: dict[str, Proxy] = {}
        """By request id, who waits for its reply."""

    def reset(self) -> None:
        self.deliveries.clear()
        self.replies.clear()
        self.executions.clear()
        self.store.reset()

    def track(
        self,
        request: wire.GatewayExecutorRequestData,
        *,
        has_executor: bool = True,
    ) -> Delivery:
        delivery = Delivery(request, self.log, has_executor)
        self.deliveries[request.request_id] = delivery
        return delivery

    def lease(self, delivery: Delivery, duration: float | None = None) -> bool:
        """Lease a request, unless it is leased already."""
        lease_id = self.store.lease(delivery.request_id, duration)
        if lease_id is None:
            return False
        self._note_lease(delivery, lease_id)
        delivery.request.lease_id = lease_id
        return True

    def _note_lease(self, delivery: Delivery, lease_id: str) -> None:
        if lease_id != delivery.lease_id:
            delivery.lease_ids.append(lease_id)
        delivery.lease_until = self.store.lease_until(delivery.request_id)

    # What workers say about requests

    def acknowledge(
        self, connection: Connection, ack: wire.WorkerRequestAckData
    ) -> None:
        delivery = self.deliveries.get(ack.request_id)
        if connection.complete_ack(ack.request_id):
            self.executions[ack.request_id] += 1
            if delivery is not None:
                delivery.acked_by.append(connection)
        else:
            if delivery is not None:
                delivery.void_acks.append(connection)
            self.log.append(
                Seen(time.monotonic(), "void", "", connection, ack, id=ack.request_id)
            )
        self.wake()

    def extend(
        self, connection: Connection, data: wire.WorkerRequestExtendLeaseData
    ) -> str | None:
        """Return the next lease id, or ``None`` where the lease is lost."""
        delivery = self.deliveries.get(data.request_id)
        new_lease_id = None
        if not (self.faults.nack_leases or connection.faults.nack_leases):
            new_lease_id = self.store.extend(
                connection.instance_id, data.request_id, data.lease_id
            )
        if delivery is not None:
            if new_lease_id is None:
                delivery.nacks += 1
            else:
                if new_lease_id != delivery.lease_id:
                    delivery.extensions += 1
                self._note_lease(delivery, new_lease_id)
                delivery.connection = connection
        self.wake()
        return new_lease_id

    def save(self, reply: wire.SDKResponse) -> None:
        """Keep a reply, and tell the executor that waits for it."""
        request_id = reply.request_id
        self.replies.setdefault(request_id, reply)
        self.store.save_response(reply)
        delivery = self.deliveries.get(request_id)
        if delivery is not None:
            delivery.replies += 1
            if delivery.reply is None:
                delivery.reply = reply
        proxy = self.proxies.get(request_id)
        if proxy is not None:
            proxy.take(reply)
        elif delivery is not None and not delivery.has_executor:
            # There would be one that waits.
            self.settle(delivery)
        self.wake()

    def settle(self, delivery: Delivery) -> None:
        """Clean up behind a request that was replied to."""
        request_id = delivery.request_id
        self.store.delete_lease(request_id)
        self.store.take_response(request_id)
        if delivery.sent_to:
            instance = delivery.sent_to[-1].instance_id
            self.store.unassign(instance, request_id)

    def delete_leases(self) -> None:
        self.store.delete_leases()
        for delivery in self.deliveries.values():
            delivery.lease_until = 0.0
        for proxy in self.proxies.values():
            proxy.look_again()
        self.wake()
