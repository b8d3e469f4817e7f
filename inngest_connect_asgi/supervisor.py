"""Keeps a runtime running, whatever becomes of it."""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from .backoff import Backoff
from .messages import FromApp, FromRuntime, Log, Start, State, Stopped

__all__ = ["Host", "Supervisor"]

RESPAWN_FIRST = 0.5
RESPAWN_CAP = 30.0
MAX_CRASHES = 10
"""Crashes in a row, without a ready connection, after which to give up."""


class Host(Protocol):
    """Where a runtime lives."""

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a runtime until it ends, in the calling thread.

        Raises:
            Exception: It crashed.
        """

    def send(self, message: FromApp) -> None:
        """Send it a message, from any thread, without blocking."""

    def crash(self, error: BaseException) -> None:
        """End it as crashed, from any thread."""


class Supervisor:
    """Runs a runtime in a thread, and again when it crashes.

    Args:
        start: Makes the start message of a new runtime, in any thread.
        tell: Takes the messages from the runtime, and last a :class:`Stopped`.
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
        # A daemon: a process that exits without a shutdown must not hang on it.
        self._thread = threading.Thread(
            target=self._run, name="inngest-connect", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def send(self, message: FromApp) -> None:
        self._host.send(message)

    def crash(self, error: BaseException) -> None:
        """End the runtime as crashed; it is started again."""
        self._host.crash(error)

    def hurry(self) -> None:
        """Respawn without delay from now on, and no more than once."""
        self._hurry.set()

    def _run(self) -> None:
        while True:
            try:
                self._host.run(self._start, self._receive)
            except Exception:
                error = traceback.format_exc()
            else:
                self._tell(Stopped())
                return
            last = self._hurry.is_set()
            delay = self._backoff.fail()
            if last or self._backoff.failures >= MAX_CRASHES:
                self._log_crash(logging.CRITICAL, "it will not be started again", error)
                self._tell(Stopped(error))
                return
            self._log_crash(logging.ERROR, f"starting it again in {delay:.1f} s", error)
            self._tell_state()
            self._hurry.wait(delay)

    def _receive(self, message: FromRuntime) -> None:
        if isinstance(message, State):
            self._state = message
            if message.connection == "ready":
                self._backoff.reset()
        self._tell(message)

    def _tell_state(self) -> None:
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
            last_error="the runtime crashed",
            last_error_at=now,
            heartbeat_interval=None,
            heartbeat_sent_at=None,
            heartbeat_answered_at=None,
            heartbeats_unanswered=0,
            round_trip=None,
            paused=False,
            app_waiting_since=None,
        )
        self._tell(self._state)

    def _log_crash(self, level: int, what_now: str, error: str) -> None:
        text = f"The Connect runtime crashed; {what_now}\n{error}"
        self._tell(Log(level, text))
