"""Keeps a runtime running, whatever becomes of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from .. import ends, logs
from ..errors import format_traceback, last_line
from ..messages import (
    Accepted,
    Delivered,
    Extended,
    FromApp,
    FromRuntime,
    Log,
    Request,
    Start,
    Stopped,
    Withdrawn,
)
from ..protocol.backoff import Backoff
from ..state import State

__all__ = ["Host", "Supervisor"]

RESPAWN_FIRST = 0.5
RESPAWN_CAP = 30.0
MAX_CRASHES = 10
"""Crashes in a row, without a stable connection, after which to give up."""

STABLE = 10.0
"""Seconds that a connection must have been ready for. One that is lost sooner may be
what the runtime dies of."""


About = Request | Accepted | Withdrawn | Extended | Delivered
"""What is said about a request, and must not go unheard."""


class Host(Protocol):
    """Where a runtime lives."""

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a runtime until it ends, in the calling thread.

        Raises:
            BaseException: It crashed.
        """

    def send(self, message: FromApp) -> None:
        """Send it a message, from any thread, without blocking."""

    def crash(self, error: BaseException) -> None:
        """End it as crashed, from any thread: :meth:`run` raises."""


class Supervisor:
    """Runs a runtime in a thread, and again when it crashes.

    Args:
        start: Makes the start message of a new runtime, in any thread.
        tell: Takes the messages from the runtime, and last a :class:`Stopped`. What it
            raises is a crash of the runtime.
    """

    def __init__(
        self,
        host: Host,
        start: Callable[[], Start],
        tell: Callable[[FromRuntime], None],
    ) -> None:
        self._host = host
        self._start = start
        self._tell = tell
        self._backoff = Backoff(
            first=RESPAWN_FIRST, cap=RESPAWN_CAP, rng=random.Random()
        )
        self._hurry = threading.Event()
        self._state = State("connecting")
        """The last that was told."""
        self._untold: list[About] = []
        """What could not be told of requests, some of which may be acknowledged."""
        self._error: str | None = None
        """Of what the last runtime died, where there is to be none after it."""

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        ends.start_thread(self._run, self._ended, name="inngest-connect")

    def send(self, message: FromApp) -> None:
        self._host.send(message)

    def crash(self, error: BaseException) -> None:
        """End the runtime as crashed; it is started again."""
        self._host.crash(error)

    def hurry(self) -> None:
        """Respawn without delay from now on: there is little time."""
        self._hurry.set()

    def _run(self) -> None:
        while True:
            try:
                self._host.run(self._start, self._hear)
            except BaseException as error:
                text = format_traceback(error)
            else:
                return
            finally:
                self._tell_again()
            delay = self._backoff.fail()
            if self._backoff.failures >= MAX_CRASHES:
                self._log_crash(logging.CRITICAL, "it will not be started again", text)
                self._error = text
                return
            self._log_crash(logging.ERROR, f"starting it again in {delay:.1f} s", text)
            self._tell_state(last_line(text))
            self._hurry.wait(delay)

    def _ended(self, error: BaseException | None) -> None:
        """Say last of all that there is no runtime any more."""
        if error is not None:
            self._error = format_traceback(error)
            self._log_crash(logging.CRITICAL, "so did what looks after it", self._error)
        self._say(Stopped(self._error))

    def _hear(self, message: FromRuntime) -> None:
        """Take a message; raises nothing.

        What the runtime has said already is to be heard as well, whatever one of its
        messages comes to.
        """
        try:
            if isinstance(message, State):
                self._note(message)
            self._tell(message)
        except BaseException as error:
            if isinstance(message, About):
                self._untold.append(message)
            self._host.crash(error)

    def _note(self, state: State) -> None:
        self._state = state
        if state.connection == "ready" and _age(state) >= STABLE:
            self._backoff.reset()

    def _tell_again(self) -> None:
        untold, self._untold = self._untold, []
        for message in untold:
            self._say(message)

    def _say(self, message: FromRuntime) -> None:
        """Tell what the supervisor itself has to say; raises nothing."""
        try:
            self._tell(message)
        except BaseException as error:
            if isinstance(message, Log):
                logs.emit(message.level, message.message)
            text, extra = f"Could not tell the worker of {type(message).__name__}", {}
            if isinstance(message, About):
                about = message.lease if isinstance(message, Request) else message
                text += f" for the request {about.delivery.request_id}"
                extra = {"request_id": about.delivery.request_id}
            logs.emit(logging.ERROR, text, error=error, extra=extra)

    def _tell_state(self, reason: str) -> None:
        """Say what a runtime that is gone can not: that there is no connection."""
        now = time.time()
        was_ready = self._state.connection != "connecting"
        self._state = replace(
            self._state,
            connection="reconnecting" if was_ready else "connecting",
            at=now,
            connection_id=None,
            gateway_group=None,
            connected_at=None,
            last_error=f"the runtime crashed: {reason}",
            last_error_at=now,
            heartbeat_interval=None,
            heartbeat_sent_at=None,
            heartbeat_answered_at=None,
            heartbeats_unanswered=0,
            round_trip=None,
            paused=False,
            app_waiting_since=None,
        )
        self._say(self._state)

    def _log_crash(self, level: int, what_now: str, error: str) -> None:
        self._say(Log(level, f"The Connect runtime crashed; {what_now}\n{error}"))


def _age(state: State) -> float:
    """Of the connection, in seconds."""
    return 0.0 if state.connected_at is None else state.at - state.connected_at
