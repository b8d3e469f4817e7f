"""A request id that comes twice, under two leases."""

from __future__ import annotations

from inngest_connect_asgi.messages import Delivery
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation

__all__ = ["FIRST", "SECOND", "replies", "take"]

FIRST, SECOND = Delivery("job", "lease-1"), Delivery("job", "lease-2")


def take(sim: Simulation, link: int, delivery: Delivery) -> None:
    sim.request(link, delivery.request_id, lease_id=delivery.lease_id)
    sim.write(link)


def replies(sim: Simulation) -> list[bytes]:
    return [
        wire.SDKResponse.FromString(payload).body
        for payload in sim.sent(wire.WORKER_REPLY)
    ]
