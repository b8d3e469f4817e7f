"""The app's half of a worker: runs the functions that the runtime asks for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from .. import logs
from ..errors import StartupError, describe
from ..health.report import Health, facts
from ..integrations import observers as integrations
from ..isolation.interpreter import InterpreterHost
from ..isolation.mailbox import Mailbox
from ..isolation.moving import MovingHost
from ..isolation.process import ProcessHost
from ..isolation.supervisor import Host, Supervisor
from ..isolation.thread import ThreadHost
from ..messages import (
    Accepted,
    Delivered,
    Drain,
    Extended,
    FromRuntime,
    Log,
    Moved,
    Outcome,
    Ping,
    Pong,
    Request,
    Stalled,
    Start,
    Starved,
    Stopped,
    Wanted,
    Withdrawn,
)
from ..state import State
from .attempts import Attempt, Attempts
from .config import Isolation, Settings
from .ledger import Ledger
from .records import Records, level
from .runs import Runs
from .threads import THREAD_NAME, FunctionThreads

__all__ = ["Worker"]

HOSTS: dict[Isolation, Callable[[], Host]] = {
    "auto": lambda: MovingHost(ThreadHost(), ProcessHost(), "process"),
    "thread": ThreadHost,
    "interpreter": InterpreterHost,
    "process": ProcessHost,
}
"""Where a runtime lives."""

STOP_GRACE = 5.0
"""Seconds that the runtime may take to stop, beyond ``shutdown_timeout``."""


class Worker:
    """A Connect worker beside an app, on the app's event loop.

    Started and stopped once, or used with ``async with``. Functions run on the loop
    that :meth:`start` was called on, or in a thread pool where they are synchronous.

    Args:
        settings: What to run, and how.
        health: Is kept up to date while the worker lives.
    """

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings = settings
        self._health = health
        self._ledger = Ledger()
        self._attempts = Attempts(settings.outcome_buffer_size)
        self._stops_at: float | None = None
        """When to give up what still runs, by ``time.monotonic()``."""
        self._stopped = asyncio.Event()
        self._ready = asyncio.Event()
        """Or stopped: nobody is to wait for what can not come any more."""

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def health(self) -> dict[str, Any]:
        """The report that ``/healthz`` serves, as a new dictionary."""
        return self._health.report(details=True)

    async def start(self) -> None:
        """Start the runtime, and wait for it as ``startup_timeout`` says.

        Raises:
            StartupError: No connection was ready in time, or the event loop is none
                of asyncio's.
        """
        settings = self._settings
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise StartupError(
                "the app does not run on an event loop of asyncio's, which Inngest's "
                "SDK needs: with hypercorn, leave out --worker-class trio"
            ) from None
        self._configuration = settings.configuration()
        surroundings = integrations.surroundings()
        self._health.begin(facts(self._configuration))
        self._mailbox = Mailbox(self._loop, self._receive)
        self._runs = Runs(
            {runner.app.name: runner for runner in settings.runners},
            settings.max_worker_concurrency,
            self._attempts,
            pool=FunctionThreads(settings.threads, thread_name_prefix=THREAD_NAME),
            surroundings=surroundings,
            answer=self._answer,
            failed=self._unforeseen,
        )
        self._records = Records(threading.get_ident(), settings.isolation)
        self._observers = integrations.observers(self._configuration, self._records.log)
        self._supervisor = Supervisor(
            HOSTS[settings.isolation](), self._make_start, self._tell
        )
        try:
            self._supervisor.start()
        except BaseException:
            self._stopped.set()
            await self._clean_up()
            raise
        if settings.startup_timeout is not None:
            try:
                await self.ready(settings.startup_timeout)
            except BaseException:
                # Cancelled, maybe: nobody else knows yet that there is a worker.
                await self.stop()
                raise

    async def ready(self, timeout: float | None = None) -> None:
        """Wait until the first connection is ready.

        Args:
            timeout: Seconds; ``None`` waits for ever.

        Raises:
            StartupError: None was in time, or the worker has stopped; says why.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), timeout)
        except asyncio.TimeoutError:
            raise StartupError(
                f"no Connect connection was ready within {timeout:g} seconds "
                f"(startup_timeout): {self._health.ready().reason}"
            ) from None
        if self._stopped.is_set():
            reason = self._health.ready().reason
            raise StartupError(f"there is no Connect connection any more: {reason}")

    async def stop(self) -> None:
        """Take no new requests, finish the running ones, and disconnect.

        Takes no longer than ``shutdown_timeout``, and 2 seconds to disconnect, or 5
        where the runtime itself hangs.
        """
        timeout = self._settings.shutdown_timeout
        self._stops_at = time.monotonic() + timeout
        self._supervisor.hurry()
        self._supervisor.send(Drain(timeout))
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout + STOP_GRACE)
        except asyncio.TimeoutError:
            text = "The Connect runtime did not stop in time; going on without"
            logs.emit_aside(logging.ERROR, text)
            self._name_what_is_left()
        finally:
            await self._clean_up()

    async def _clean_up(self) -> None:
        await self._runs.cancel()
        for observer in self._observers:
            observer.close()
        await self._records.close()

    def _name_what_is_left(self) -> None:
        """There is no runtime any more, nor will there be one."""
        for lease in self._ledger.left():
            self._records.left(lease)

    # In the runtime's thread.

    def _make_start(self) -> Start:
        drain = None
        if self._stops_at is not None:
            drain = Drain(max(0.0, self._stops_at - time.monotonic()))
        return Start(
            self._configuration,
            **self._ledger.taken_over(),
            state=self._health.state,
            drain=drain,
            log_level=level(),
        )

    def _tell(self, message: FromRuntime) -> None:
        # What the next runtime has to know, should this one die, what a probe asks
        # for, and what is to be logged: none of it is to wait for the app's loop.
        if isinstance(message, Request):
            self._ledger.offer(message)
        elif isinstance(message, Accepted):
            self._post(self._ledger.accept(message.delivery))
            self._ledger.accepted(message.delivery)
            self._observe(message)
        elif isinstance(message, Delivered):
            self._ledger.settle(message.delivery)
            self._attempts.delivered(message.delivery)
        elif isinstance(message, Withdrawn):
            self._ledger.withdraw(message.delivery)
        elif isinstance(message, Extended):
            self._ledger.extend(message.delivery, message.lease_id)
        elif isinstance(message, Wanted):
            self._supervisor.send(self._ledger.wanted(message.delivery))
        elif isinstance(message, State):
            self._health.update(message)
            self._observe(message)
            self._post(message)
        elif isinstance(message, Log):
            self._records.log(message)
        elif isinstance(message, Stalled):
            self._records.stalled(message)
        elif isinstance(message, Starved):
            self._records.starved(message)
        elif isinstance(message, Moved):
            self._records.moved(message)
        else:
            if isinstance(message, Stopped) and message.error is not None:
                self._health.crash(message.error)
                self._name_what_is_left()
            self._post(message)

    def _post(self, message: FromRuntime) -> None:
        if not self._mailbox.post(message):
            # The server died without a shutdown: nothing can run any more.
            self._stops_at = time.monotonic()
            self._supervisor.send(Drain(0.0))

    def _observe(self, message: object) -> None:
        for observer in self._observers:
            observer.observe(message)

    # On the app's loop.

    def _receive(self, messages: list[FromRuntime]) -> None:
        for message in messages:
            try:
                self._handle(message)
            except BaseException as error:
                if isinstance(message, Request):
                    self._runs.fail(message, None, error)
                else:
                    self._unforeseen(error)
        self._runs.go_on()

    def _handle(self, message: FromRuntime) -> None:
        if isinstance(message, Request):
            self._runs.add(message)
        elif isinstance(message, Ping):
            self._supervisor.send(Pong(message.number))
        elif isinstance(message, State):
            if message.connection == "ready":
                self._ready.set()
        elif isinstance(message, Stopped):
            self._stopped.set()
            # Whoever waits for a connection waits in vain.
            self._ready.set()

    def _unforeseen(self, error: BaseException) -> None:
        """Begin again with what is known here, rather than go on with half of it."""
        text = f"The Connect worker failed: {describe(error)}"
        logs.emit(logging.ERROR, text, error=error)
        self._supervisor.crash(error)

    def _answer(
        self,
        request: Request,
        attempt: Attempt,
        outcome: Outcome,
        repeated: bool,
    ) -> None:
        lease = self._ledger.lease(request.lease.delivery)
        if lease is None:
            # It was answered, and what was raised came later.
            return
        self._attempts.answered(attempt, outcome)
        result = self._ledger.answer(lease, outcome, repeated=repeated)
        self._observe(result)
        try:
            self._supervisor.send(result)
        except BaseException as error:
            self._unforeseen(error)
