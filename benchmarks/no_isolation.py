"""A worker whose connection lives on the app's own event loop, for comparison.

Not a way to use the package: it shows what the thread and the process are for.
Runs the functions of ``tests/server_app.py`` until it is killed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from inngest_connect_asgi.configuration import DEFAULT_REPLY_BUFFER_SIZE
from inngest_connect_asgi.messages import (
    Accepted,
    Delivery,
    FromRuntime,
    Ping,
    Pong,
    Request,
    Result,
    Start,
)
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.worker.config import settings
from tests import server_app


async def main() -> None:
    chosen = settings(
        client=server_app.client,
        functions=server_app.functions,
        apps=None,
        isolation=None,
        instance_id=None,
        max_worker_concurrency=None,
        gateway_url=None,
        startup_timeout=None,
        shutdown_timeout=25.0,
        stall_timeout=None,
        wedge_timeout=None,
        probe=None,
        reply_buffer_size=DEFAULT_REPLY_BUFFER_SIZE,
        outcome_buffer_size=0,
        health_path=None,
        health_details=True,
    )
    (runner,) = chosen.runners
    pool = ThreadPoolExecutor(8)
    tasks: set[asyncio.Task[None]] = set()
    offered: dict[Delivery, Request] = {}

    async def run(request: Request) -> None:
        outcome = await runner.run(request, pool)
        runtime.receive([Result(request.lease, outcome)])

    def tell(message: FromRuntime) -> None:
        if isinstance(message, Ping):
            pong = Pong(message.number)
            asyncio.get_running_loop().call_soon(runtime.receive, [pong])
        elif isinstance(message, Request):
            offered[message.lease.delivery] = message
        elif isinstance(message, Accepted):
            task = asyncio.ensure_future(run(offered.pop(message.delivery)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    runtime = Runtime(tell)
    await runtime.run(Start(chosen.configuration()))


if __name__ == "__main__":
    asyncio.run(main())
