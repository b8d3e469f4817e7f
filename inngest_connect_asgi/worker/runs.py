"""Runs functions on the app's event loop, a few in each of its turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial

from .. import ends
from ..integrations.surroundings import Surroundings
from ..messages import Delivery, Outcome, Request
from .attempts import Attempt, Attempts
from .runner import FunctionRunner

__all__ = ["Runs"]

CANCEL_TIMEOUT = 1.0
"""Seconds that a function gets to end when it is cancelled."""

RUNS_PER_TURN = 4
"""Runs to start in one turn of the app's event loop, which has requests to serve."""

Answer = Callable[[Request, Attempt, Outcome, bool], None]


class Runs:
    """Belongs to the app's event loop.

    Args:
        runners: By the name of the app.
        limit: How many run at a time at most.
        answer: Takes the outcome of a request, and whether it is a repeated one.
        failed: Is told of what nobody foresaw.
    """

    def __init__(
        self,
        runners: Mapping[str, FunctionRunner],
        limit: int | None,
        attempts: Attempts,
        *,
        pool: Executor,
        surroundings: Surroundings,
        answer: Answer,
        failed: Callable[[BaseException], object],
    ) -> None:
        self._runners = runners
        self._limit = limit
        self._attempts = attempts
        self._pool = pool
        self._surroundings = surroundings
        self._answer = answer
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Request] = deque()
        """Acknowledged, and not started yet."""
        self._starting = False
        """Whether the next turn of the loop starts some of them."""
        self._tasks: dict[Delivery, asyncio.Task[None]] = {}
        self._cancelling = False

    def add(self, request: Request) -> None:
        """Have :meth:`go_on` run it when there is room."""
        self._waiting.append(request)

    def go_on(self) -> None:
        """Start what waits, unless the next turn does."""
        if not self._starting:
            self._turn()

    async def cancel(self) -> None:
        """End all that runs, or go on without."""
        self._waiting.clear()
        self._cancelling = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            # A function may refuse to be cancelled.
            await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def fail(
        self, request: Request, attempt: Attempt | None, error: BaseException
    ) -> None:
        """Whatever was raised, and wherever: the server gets an answer."""
        outcome = self._runners[request.app_name].failed(request, error)
        if attempt is None:
            attempt = Attempt(request.lease, "", b"")
        self._finish(request, attempt, outcome)

    def _turn(self) -> None:
        self._starting = False
        try:
            self._start_some()
        except BaseException as error:
            # What waits is looked at again with the next message.
            self._failed(error)

    def _start_some(self) -> None:
        """Start what waits, as far as it may run, and no more in one turn."""
        limit = self._limit
        for _ in range(RUNS_PER_TURN):
            if not self._waiting or (limit is not None and len(self._tasks) >= limit):
                return
            request, attempt = self._waiting.popleft(), None
            try:
                attempt = self._attempts.join(request)
                self._start(request, attempt)
            except BaseException as error:
                self.fail(request, attempt, error)
        if self._waiting:
            self._starting = True
            self._loop.call_soon(self._turn)

    def _start(self, request: Request, attempt: Attempt) -> None:
        """Start a run, unless the same attempt runs here, or has."""
        if attempt.outcome is not None:
            self._answer(request, attempt, attempt.outcome, True)
            return
        if not self._attempts.begin(attempt, request):
            return
        self._tasks[request.lease.delivery] = ends.spawn(
            self._run(request, attempt),
            partial(self._end, request, attempt),
            name=request.lease.function_slug,
        )

    async def _run(self, request: Request, attempt: Attempt) -> None:
        runner = self._runners[request.app_name]
        try:
            outcome = await runner.run(request, self._pool, self._surroundings)
        except asyncio.CancelledError as error:
            if self._cancelling:
                raise
            outcome = runner.cancelled(request, error)
        self._finish(request, attempt, outcome)

    def _end(
        self, request: Request, attempt: Attempt, error: BaseException | None
    ) -> None:
        del self._tasks[request.lease.delivery]
        if error is not None and not self._cancelling:
            self.fail(request, attempt, error)
        if self._waiting:
            self.go_on()

    def _finish(self, request: Request, attempt: Attempt, outcome: Outcome) -> None:
        self._answer(request, attempt, outcome, False)
        for waiting in self._attempts.end(attempt, request):
            self._answer(waiting, attempt, outcome, True)
