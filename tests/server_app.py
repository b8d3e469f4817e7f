"""An app as a user's, to be run by a real server; the environment sets it up."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import inngest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.routing import Mount

from inngest_connect_asgi import InngestConnectMiddleware

client = inngest.Inngest(app_id="app", logger=None)


def number(ctx: inngest.Context | inngest.ContextSync, name: str) -> int:
    value = ctx.event.data[name]
    assert isinstance(value, int)
    return value


@client.create_function(fn_id="noop", trigger=inngest.TriggerEvent(event="noop"))
async def noop(ctx: inngest.Context) -> int:
    return os.getpid()


@client.create_function(fn_id="wait", trigger=inngest.TriggerEvent(event="wait"))
async def wait(ctx: inngest.Context) -> str:
    await asyncio.sleep(number(ctx, "seconds"))
    return "waited"


@client.create_function(fn_id="sleep", trigger=inngest.TriggerEvent(event="sleep"))
async def sleep(ctx: inngest.Context) -> str:
    time.sleep(number(ctx, "seconds"))
    return "slept"


turns = asyncio.Semaphore(0)


@client.create_function(fn_id="hold", trigger=inngest.TriggerEvent(event="hold"))
async def hold(ctx: inngest.Context) -> str:
    """Returns as much as it is told to, once it is its turn."""
    await turns.acquire()
    return "x" * number(ctx, "size")


def spin(seconds: float) -> int:
    rounds, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        rounds += 1
    return rounds


@client.create_function(fn_id="busy", trigger=inngest.TriggerEvent(event="busy"))
async def busy(ctx: inngest.Context) -> int:
    return spin(number(ctx, "seconds"))


@client.create_function(fn_id="crunch", trigger=inngest.TriggerEvent(event="crunch"))
def crunch(ctx: inngest.ContextSync) -> int:
    return spin(number(ctx, "seconds"))


@client.create_function(fn_id="seize", trigger=inngest.TriggerEvent(event="seize"))
def seize(ctx: inngest.ContextSync) -> str:
    """Keeps the GIL, for so many whole seconds."""
    ctypes.PyDLL(None).sleep(number(ctx, "seconds"))
    return "seized"


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    print(f"app: started at {time.monotonic()}", flush=True)
    if fork:
        asyncio.get_running_loop().call_later(1.0, fork_and_wait)
    ended = threading.Event()
    if full_executor:
        # More than it has threads, as consumers of queues are.
        for _ in range(40):
            asyncio.get_running_loop().run_in_executor(None, ended.wait)
    yield
    ended.set()
    print("app: stopped", flush=True)


def fork_and_wait() -> None:
    """As a library does that forks: the copy holds every descriptor open."""
    if pid := os.fork():
        print(f"forked: {pid} ", flush=True)
    else:
        signal.pause()


options = json.loads(os.environ.get("TEST_OPTIONS", "{}"))
functions: list[inngest.Function[Any]] = [
    *(noop, wait, hold),
    *(sleep, busy, crunch, seize),
]
fork = options.pop("fork", False)
full_executor = options.pop("full_executor", False)
if options.pop("no_threads", False):
    # As if the system gave no more of them: nobody foresaw it.
    start_thread = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("inngest-connect"):
            raise RuntimeError("can't start new thread")
        start_thread(self)

    threading.Thread.start = refuse  # type: ignore[method-assign]
app = FastAPI(lifespan=lifespan)
app.add_middleware(
    InngestConnectMiddleware,
    client=client,
    functions=functions,
    **options,
)


@app.get("/")
async def index() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.get("/events")
async def events() -> StreamingResponse:
    """A stream that ends when its reader goes."""

    async def stream() -> AsyncIterator[str]:
        while True:
            yield "data: x\n\n"
            await asyncio.sleep(0.2)

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.post("/release")
async def release(count: int) -> None:
    for _ in range(count):
        turns.release()


wrapped = InngestConnectMiddleware(
    Starlette(), client=client, functions=functions, **options
)


mounted = Starlette(routes=[Mount("/sub", app)])
