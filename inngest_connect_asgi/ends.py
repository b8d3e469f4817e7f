"""Tasks, threads and callbacks whose end is always told, whatever is raised.

Everything of this package that runs by itself is started in here. What is raised in
a place where nobody foresaw it reaches whoever waits, who makes of it a result, a
lost connection or a crash: never a silence.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ParamSpec

__all__ = ["Ended", "guarded", "spawn", "start_thread"]

P = ParamSpec("P")

Ended = Callable[[BaseException | None], object]
"""Is called once with what ended it: ``None`` where it simply returned."""


def spawn(
    coroutine: Coroutine[Any, Any, None], ended: Ended, *, name: str | None = None
) -> asyncio.Task[None]:
    """Run a coroutine as a task on the running loop.

    Args:
        ended: Is called on the loop, with :class:`asyncio.CancelledError` where the
            task was cancelled.
    """
    contained = _contained(coroutine)
    try:
        task = asyncio.get_running_loop().create_task(contained, name=name)
    except BaseException:
        # The app's task factory may raise. What has not begun is let go in peace.
        contained.close()
        coroutine.close()
        raise
    task.add_done_callback(partial(_tell, coroutine, ended))
    return task  # type: ignore[return-value]


def _tell(
    coroutine: Coroutine[Any, Any, None],
    ended: Ended,
    task: asyncio.Task[BaseException | None],
) -> None:
    # One that is cancelled before its first turn has not begun it.
    coroutine.close()
    if task.cancelled():
        ended(asyncio.CancelledError())
    else:
        ended(task.exception() or task.result())


async def _contained(coroutine: Coroutine[Any, Any, None]) -> BaseException | None:
    # A SystemExit that leaves a task leaves its loop as well. A KeyboardInterrupt is
    # meant to.
    try:
        await coroutine
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:
        return error
    return None


def start_thread(
    target: Callable[[], object], ended: Ended, *, name: str
) -> threading.Thread:
    """Run ``target`` in a daemon thread: an exit of the process does not wait for it.

    In an interpreter that is not the process's first there are none, and its end waits
    for all of them.

    Args:
        ended: Is called in that thread, last of all.

    Raises:
        RuntimeError: The system gives no more threads.
    """

    def run() -> None:
        try:
            target()
        except BaseException as error:
            ended(error)
        else:
            ended(None)

    thread = threading.Thread(target=run, name=name)
    # Not in an interpreter that has no such threads.
    with suppress(RuntimeError):
        thread.daemon = True
    thread.start()
    return thread


def guarded(
    callback: Callable[P, object], failed: Callable[[BaseException], object]
) -> Callable[P, None]:
    """``callback``, but that it tells what it raises instead of raising it."""

    @wraps(callback)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except BaseException as error:
            failed(error)

    return call
