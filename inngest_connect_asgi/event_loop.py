"""The runtime's event loop: no fork and no exit of the app has to do with it."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

from . import ends, forks

__all__ = ["EventLoop", "close", "run"]

T = TypeVar("T")

CANCEL_TIMEOUT = 5.0
"""Seconds for tasks that are left to end when they are cancelled."""


class EventLoop(asyncio.SelectorEventLoop):
    """A loop of which no fork gets a connection, and for which no exit waits.

    Not the policy's: the app may have put uvloop there.
    """

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        forks.hold_selector(selector)

    async def sock_connect(self, sock: socket.socket, address: object) -> None:
        # A connection that nobody reads from for now is not in the selector.
        forks.hold(sock)
        await super().sock_connect(sock, address)  # type: ignore[arg-type]

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[..., T],
        *args: object,
    ) -> asyncio.Future[T]:
        """As the standard one, but that the default executor is a thread for each.

        That is where names are looked up. The standard pool is waited for when the
        interpreter ends, and a DNS that hangs would hold the exit of the app.
        """
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        future: asyncio.Future[T] = self.create_future()
        results: list[T] = []

        def ended(error: BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop is closed by now
                self.call_soon_threadsafe(_settle, future, results, error)

        ends.start_thread(
            lambda: results.append(func(*args)), ended, name="inngest-connect-lookup"
        )
        return future


def _settle(
    future: asyncio.Future[T], results: list[T], error: BaseException | None
) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(results[0])
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError(f"raised {error!r}"))
    else:
        future.set_exception(error)


def run(main: Callable[[EventLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop of its own, and leave nothing of it behind.

    As ``asyncio.run`` does, but that threads which look names up are not waited for.

    Raises:
        BaseException: What the coroutine raises.
    """
    loop = EventLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        close(loop)


def close(loop: EventLoop) -> None:
    """Close a loop, and leave nothing of what it ran behind."""
    try:
        loop.run_until_complete(_clean_up(loop))
    finally:
        loop.close()


async def _clean_up(loop: EventLoop) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
    await loop.shutdown_asyncgens()
