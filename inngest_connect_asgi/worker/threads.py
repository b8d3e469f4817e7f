"""The threads that synchronous functions run in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["THREAD_NAME", "FunctionThreads"]

THREAD_NAME = "inngest-connect-function"
"""How the threads are named, with a number behind."""

P = ParamSpec("P")
T = TypeVar("T")


class FunctionThreads(ThreadPoolExecutor):
    """A thread pool in which nothing runs later that was refused.

    Where the system gives no more threads, the standard one raises, and has queued the
    call all the same: what was reported as failed would be run by the next thread that
    has nothing to do.
    """

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        claim = threading.Lock()
        late: Future[T] = Future()

        def call() -> T:
            if not claim.acquire(blocking=False):
                raise RuntimeError("it was refused")
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                late.set_exception(error)
                raise
            late.set_result(result)
            return result

        try:
            return super().submit(call)
        except RuntimeError:
            if claim.acquire(blocking=False):
                raise
            # A thread that has become free was faster.
            return late
