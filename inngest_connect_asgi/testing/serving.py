"""An app under its lifespan, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from starlette.types import ASGIApp, Message

__all__ = ["lifespan"]


@contextlib.contextmanager
def lifespan(app: ASGIApp) -> Iterator[None]:
    """Start an app up on an event loop of its own, and shut it down.

    Raises:
        RuntimeError: It says that its start-up or its shutdown failed.
        Exception: It raised one.
    """
    started: Future[Callable[[], object]] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="served-app") as pool:
        ended = pool.submit(asyncio.run, _live(app, started))
        stop = started.result()
        try:
            yield
        finally:
            stop()
            ended.result()


async def _live(app: ASGIApp, started: Future[Callable[[], object]]) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()

    async def call() -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        try:
            await app(scope, to_app.get, from_app.put)
        finally:
            from_app.put_nowait({"type": "returned"})

    async def go_through(phase: str) -> None:
        to_app.put_nowait({"type": f"lifespan.{phase}"})
        message = await from_app.get()
        if message["type"] != f"lifespan.{phase}.complete":
            # What the app raises says more than what it sends.
            await task
            raise RuntimeError(f"The app's {phase} failed: {message.get('message')}")

    task = asyncio.ensure_future(call())
    try:
        await go_through("startup")
    except Exception as error:
        started.set_exception(error)
        return
    started.set_result(partial(loop.call_soon_threadsafe, stopping.set))
    await stopping.wait()
    await go_through("shutdown")
    await task
