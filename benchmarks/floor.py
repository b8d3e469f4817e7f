"""What the SDK's handler costs by itself: no worker can cost less."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from .generator import allow_descriptors
from .processes import memory
from .requests import call_request

__all__ = ["Floor", "measure"]


@dataclass(frozen=True)
class Floor:
    """What the SDK's own handler takes, without any connection."""

    noop: float
    """Seconds of processor time for 1,000 runs."""
    step: float
    held: float
    """Bytes of memory of each run that waits."""


def measure() -> Floor:
    """In a process of its own, which has nothing else in its memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.floor"],
        capture_output=True,
        text=True,
        check=True,
    )
    return Floor(**json.loads(done.stdout))


async def floor() -> Floor:
    os.environ["INNGEST_DEV"] = "1"
    from inngest_connect_asgi.messages import Delivery, Lease, Request
    from inngest_connect_asgi.worker import sdk
    from inngest_connect_asgi.worker.runner import FunctionRunner

    from . import app

    runner = FunctionRunner(*app.apps[0])

    async def run(function: str) -> None:
        echoed = "l", "a", "e", "a", f"app-{function}", "step", "r", b"", b""
        lease = Lease(Delivery("r", "l"), *echoed)
        request = Request(lease, "app", "job", call_request(function, 0))
        await runner._handler._handler.post(sdk._comm_request(request))

    async def cpu(function: str) -> float:
        best = float("inf")
        for _ in range(20):
            start = time.process_time()
            await asyncio.gather(*(run(function) for _ in range(100)))
            best = min(best, time.process_time() - start)
        return best * 10

    noop, step = await cpu("noop"), await cpu("step")
    pid = os.getpid()
    count = 2000
    rest = memory(pid).private
    tasks = [asyncio.ensure_future(run("hold")) for _ in range(count)]
    while app.held < count:
        await asyncio.sleep(0.01)
    held = (memory(pid).private - rest) * 2**20 / count
    await app.release()
    await asyncio.gather(*tasks)
    return Floor(noop, step, held)


if __name__ == "__main__":
    allow_descriptors()
    print(json.dumps(vars(asyncio.run(floor()))))
