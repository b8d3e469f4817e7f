"""The app whose worker is measured; ``BENCHMARK_WORKER`` says which that is.

The same app for all of them: a FastAPI app under uvicorn, that imports no more than
its worker needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import inngest
from fastapi import FastAPI

WORKER = os.environ.get("BENCHMARK_WORKER", "none")
APPS = int(os.environ.get("BENCHMARK_APPS", "1"))
FUNCTIONS = int(os.environ.get("BENCHMARK_FUNCTIONS", "0"))
"""Further functions in each app."""

released = asyncio.Event()
held = 0


def make(
    app_id: str,
) -> tuple[inngest.Inngest, list[inngest.Function[Any]]]:
    client = inngest.Inngest(app_id=app_id, logger=None)
    functions: list[inngest.Function[Any]] = []

    @client.create_function(fn_id="noop", trigger=inngest.TriggerEvent(event="noop"))
    async def noop(ctx: inngest.Context) -> int:
        return 1

    @client.create_function(fn_id="step", trigger=inngest.TriggerEvent(event="step"))
    async def step(ctx: inngest.Context) -> int:
        return await ctx.step.run("one", one)

    @client.create_function(fn_id="sync", trigger=inngest.TriggerEvent(event="sync"))
    def sync(ctx: inngest.ContextSync) -> int:
        return 1

    @client.create_function(fn_id="echo", trigger=inngest.TriggerEvent(event="echo"))
    async def echo(ctx: inngest.Context) -> Any:
        return ctx.event.data["payload"]

    @client.create_function(fn_id="wait", trigger=inngest.TriggerEvent(event="wait"))
    async def wait(ctx: inngest.Context) -> int:
        # Not all in step, or they would end in bursts.
        await asyncio.sleep(random.uniform(0.5, 1.5))
        return 1

    @client.create_function(fn_id="hold", trigger=inngest.TriggerEvent(event="hold"))
    async def hold(ctx: inngest.Context) -> int:
        global held
        held += 1
        await released.wait()
        held -= 1
        return 1

    @client.create_function(fn_id="busy", trigger=inngest.TriggerEvent(event="busy"))
    def busy(ctx: inngest.ContextSync) -> int:
        """5 ms of Python."""
        rounds, end = 0, time.thread_time() + 0.005
        while time.thread_time() < end:
            rounds += 1
        return rounds

    functions += noop, step, sync, echo, wait, hold, busy
    for number in range(FUNCTIONS):
        trigger = inngest.TriggerEvent(event=f"further-{number}")
        decorate = client.create_function(fn_id=f"further-{number}", trigger=trigger)
        functions.append(decorate(nothing))
    return client, functions


async def one() -> int:
    return 1


async def nothing(ctx: inngest.Context) -> None:
    pass


apps = [make("app" if not n else f"app-{n}") for n in range(APPS)]


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if WORKER != "official":
        yield
        return
    from inngest.connect import connect

    connection = connect(apps)
    task = asyncio.create_task(connection.start())
    yield
    await connection.close(wait=True)
    await task


app = FastAPI(lifespan=lifespan)

if WORKER in ("thread", "interpreter", "process"):
    from inngest_connect_asgi import InngestConnectMiddleware

    options = json.loads(os.environ.get("TEST_OPTIONS", "{}"))
    app.add_middleware(
        InngestConnectMiddleware,
        apps=apps,
        **options,
    )
elif WORKER == "serve":
    from inngest.fast_api import serve

    serve(app, *apps[0])


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}


@app.get("/held")
async def count_held() -> dict[str, int]:
    return {"held": held}


@app.post("/release")
async def release() -> None:
    released.set()
    released.clear()
