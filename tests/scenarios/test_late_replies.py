"""A function has ended, and the server does not get its reply for a while."""

from __future__ import annotations

import os
import signal

import inngest
import pytest

from inngest_connect_asgi.testing import LocalGateway

from ..harness import deliveries_of, off_loop, run, worker
from ..hosts import ISOLATIONS
from ..processes import the_child, wait_gone


async def extensions(gateway: LocalGateway, count: int) -> None:
    (delivery,) = deliveries_of(gateway).values()
    await off_loop(gateway.wait_until, lambda: delivery.extensions >= count)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_lease_of_a_late_reply_is_extended(isolation: str) -> None:
    calls = 0

    async def count(ctx: inngest.Context) -> str:
        nonlocal calls
        calls += 1
        return "once"

    async def main(gateway: LocalGateway) -> None:
        gateway.faults.refuse = lambda request_id: True
        async with worker(gateway, count, isolation=isolation):
            event_id = gateway.send("test")
            await off_loop(gateway.wait_until, lambda: gateway.executions)
            # More than one lease lasts for.
            await extensions(gateway, 20)
            gateway.faults.refuse = None
            ended = await off_loop(gateway.wait_for_run, event_id)
        assert (ended.status, ended.output, ended.attempts) == ("completed", "once", 1)
        assert calls == 1

    with LocalGateway(extend_lease_interval="200ms", lease_duration=2.0) as gateway:
        run(lambda: main(gateway))


def test_a_new_runtime_extends_the_lease_of_a_late_reply_under_its_newest_id() -> None:
    async def noop(ctx: inngest.Context) -> None:
        pass

    async def main(gateway: LocalGateway) -> None:
        gateway.faults.refuse = lambda request_id: True
        async with worker(gateway, noop, isolation="process"):
            event_id = gateway.send("test")
            await off_loop(gateway.wait_until, lambda: gateway.executions)
            await extensions(gateway, 3)
            (delivery,) = deliveries_of(gateway).values()
            child = the_child()
            os.kill(child, signal.SIGKILL)
            await off_loop(wait_gone, child, 5)
            await extensions(gateway, delivery.extensions + 3)
            assert delivery.nacks == 0
            gateway.faults.refuse = None
            ended = await off_loop(gateway.wait_for_run, event_id)
        assert (ended.status, ended.attempts) == ("completed", 1)

    # The last answer may not have come before the child died.
    with LocalGateway(
        extend_lease_interval="200ms", honour_previous_lease=True
    ) as gateway:
        run(lambda: main(gateway))
