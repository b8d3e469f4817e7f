"""The runtime's shell alone, on the test's own event loop."""

from __future__ import annotations

import asyncio

from inngest_connect_asgi.messages import Drain, Start
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.testing import LocalGateway

from ..harness import run, until
from ..simulation import configuration


def test_heartbeats_go_on_while_there_is_more_to_read_in_every_turn(
    gateway: LocalGateway,
) -> None:
    async def main() -> None:
        runtime = Runtime(lambda message: None)
        start = Start(configuration(api_origin=gateway.origin))
        task = asyncio.ensure_future(runtime.run(start))
        flooding = True

        def flood() -> None:
            runtime.receive([])
            if flooding:
                asyncio.get_running_loop().call_soon(flood)

        await until(lambda: gateway.received("WORKER_HEARTBEAT"))
        flood()
        before = len(gateway.received("WORKER_HEARTBEAT"))
        try:
            await until(lambda: len(gateway.received("WORKER_HEARTBEAT")) > before + 3)
        finally:
            flooding = False
            runtime.receive([Drain(0.0)])
            await task

    run(main)
