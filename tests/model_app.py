"""The app beside a core: what it keeps, and what it must not be told."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from inngest_connect_asgi.messages import (
    Accepted,
    Delivered,
    Delivery,
    Extended,
    FromRuntime,
    Lease,
    Log,
    Outcome,
    Ping,
    Request,
    Result,
    Wanted,
    Withdrawn,
)
from inngest_connect_asgi.state import State

from .strict_gateway import StrictGateway

__all__ = ["App"]


class App:
    """As ``worker.py``: it outlives the runtime, and knows what the next has to."""

    def __init__(self, gateway: StrictGateway) -> None:
        self.gateway = gateway
        self.offered: dict[Delivery, Lease] = {}
        self.running: dict[Delivery, Lease] = {}
        self.results: dict[Delivery, Result] = {}
        self.settled: deque[Delivery] = deque(maxlen=1000)
        self.accepted: dict[Delivery, None] = {}
        """Ever, in this order."""
        self.newest: dict[str, Delivery] = {}
        """By request id, what was accepted last."""
        self.of_lease: dict[str, Delivery] = {}
        """By every lease id that the app was told, what for."""
        self.unsaved: list[Delivery] = []
        """What the app need not keep, though the server does not have it."""
        self.logs: list[Log] = []
        self.state: State | None = None

    def begin(self, now: float) -> None:
        """A runtime starts."""
        self.mailbox: list[Result] = []
        """What the app has sent, and the runtime has not got yet."""
        self.pings: list[int] = []
        self.extended_at = dict.fromkeys([*self.running, *self.results], now)
        """When the lease of a request was extended last."""
        self.told_at = now

    @property
    def held(self) -> set[Delivery]:
        """What runs, and no newer delivery has taken the place of."""
        return {each for each in self.running if self.newest[each.request_id] == each}

    @property
    def owed(self) -> set[Delivery]:
        """What runs, and what the server has no reply to."""
        ended = {each for each in self.results if self.newest[each.request_id] == each}
        return self.held | ended

    def tell(self, message: FromRuntime, now: float) -> None:
        if isinstance(message, Request):
            delivery = message.lease.delivery
            assert delivery not in self.offered
            assert delivery not in self.accepted, "it is offered what it has"
            self.offered[delivery] = message.lease
            self.of_lease[message.lease.lease_id] = delivery
        elif isinstance(message, Accepted):
            delivery = message.delivery
            assert delivery not in self.accepted, "it is accepted twice"
            self.running[delivery] = self.offered.pop(delivery)
            self.accepted[delivery] = None
            self.newest[delivery.request_id] = delivery
            self.extended_at[delivery] = now
        elif isinstance(message, Withdrawn):
            del self.offered[message.delivery]
        elif isinstance(message, Extended):
            delivery = message.delivery
            # A lease that has run out is extended for whoever asks first, though it is
            # that of a later delivery by then.
            assert self.gateway.issued[message.lease_id][0] == delivery.request_id
            self.of_lease[message.lease_id] = delivery
            if delivery in self.running:
                lease = replace(self.running[delivery], lease_id=message.lease_id)
                self.running[delivery] = lease
            elif delivery in self.results:
                result = self.results[delivery]
                lease = replace(result.lease, lease_id=message.lease_id)
                self.results[delivery] = replace(result, lease=lease)
        elif isinstance(message, Delivered):
            delivery = message.delivery
            if _body(delivery) not in self.gateway.saved[delivery.request_id]:
                self.unsaved.append(delivery)
            self.results.pop(delivery, None)
            self.settled.append(delivery)
        elif isinstance(message, Wanted):
            self.mailbox.append(self.results[message.delivery])
        elif isinstance(message, Ping):
            self.pings.append(message.number)
        elif isinstance(message, State):
            self.state, self.told_at = message, now
        elif isinstance(message, Log):
            self.logs.append(message)

    def check_unsaved(self) -> None:
        """What the app was to forget has been replaced, or it is said why."""
        unsaved, self.unsaved = self.unsaved, []
        for delivery in unsaved:
            is_newest = self.newest[delivery.request_id] == delivery
            is_said = any(
                "Gave up" in log.message
                and log.extra["request_id"] == delivery.request_id
                for log in self.logs
            )
            assert is_said or not is_newest, f"the reply to {delivery} is dropped"

    def end_run(self, delivery: Delivery, status: int = 200) -> None:
        lease = self.running.pop(delivery)
        result = Result(lease, Outcome(status, _body(delivery)))
        self.results[delivery] = result
        self.mailbox.append(result)


def _body(delivery: Delivery) -> bytes:
    return b'"%s"' % delivery.lease_id.encode()
