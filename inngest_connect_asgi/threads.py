"""The threads that synchronous functions run in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["FunctionThreads"]

P = ParamSpec("P")
T = TypeVar("T")


class FunctionThreads(ThreadPoolExecutor):
    """A thread pool that keeps its word where the system gives no more threads.

    The standard one raises, and has queued the call all the same: what was reported as
    failed is run later. Here it waits for a thread that there is, and without one it
    fails and never runs.
    """

    def __init__(self, size: int, name: str) -> None:
        super().__init__(size, thread_name_prefix=name, initializer=self._started)
        self._has_threads = False

    def _started(self) -> None:
        self._has_threads = True

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        claim = threading.Lock()
        late: Future[T] = Future()

        def call() -> T:
            if not claim.acquire(blocking=False):
                raise RuntimeError("it was given up")
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
            # If the pool is shut down, nothing is queued, and nothing comes of it.
            if self._has_threads and not self._shutdown:
                return late
            claim.acquire(blocking=False)
            raise
