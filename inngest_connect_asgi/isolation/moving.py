"""The runtime in a thread until that is starved, then in a place of its own."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from .. import ends
from ..errors import describe
from ..messages import (
    Adopt,
    Delivered,
    Delivery,
    Drain,
    FromApp,
    FromRuntime,
    Leave,
    Log,
    Moved,
    Request,
    Result,
    Start,
    Starved,
    Withdrawn,
)
from ..state import State
from .supervisor import Host

__all__ = ["MovingHost"]


class Phase(enum.Enum):
    STILL = "still"
    """There is one runtime, in the thread."""
    ARRIVING = "arriving"
    """Another is connecting, at home."""
    LEAVING = "leaving"
    """That one is ready, and the one in the thread takes nothing more."""
    HOME = "home"
    """There is one runtime, at home."""


class MovingHost:
    """Costs nothing while nothing starves a thread, and moves when something does.

    The new runtime connects before the old one leaves. Until then each answers the
    requests that it took; what the old one leaves, the new one adopts, as the app
    knows it.

    Args:
        first: Where it begins, a thread.
        home: Where to move.
        name: What the option ``isolation`` calls that.
    """

    def __init__(self, first: Host, home: Host, name: str) -> None:
        self._first = first
        self._home = home
        self._name = name
        self._lock = threading.RLock()
        """Two runtimes tell one app, one message at a time."""
        self._phase = Phase.STILL
        self._start: Callable[[], Start]
        self._tell: Callable[[FromRuntime], None]
        self._state: State | None = None
        """The last of the one in the thread."""
        self._taken: set[Delivery] = set()
        """By the one at home, before it was alone."""
        self._drain: Drain | None = None
        self._began_at = 0.0
        self._home_ended = threading.Event()
        self._home_error: BaseException | None = None

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a runtime, in the calling thread or at home, until it ends.

        Raises:
            BaseException: It crashed; so did the other one, if there were two.
        """
        if self._phase is Phase.HOME:
            self._home.run(lambda: _living_in(self._name, start()), tell)
            return
        self._start, self._tell, self._state = start, tell, None

        def start_first() -> Start:
            return _living_in("thread", start())

        error = None
        try:
            self._first.run(start_first, self._hear_old)
        except BaseException as raised:
            error = raised
        with self._lock:
            is_alone = self._phase is Phase.STILL
        if not is_alone:
            was_over, failed = self._home_ended.is_set(), None
            try:
                self._hand_over(error)
            except BaseException as raised:
                failed = raised
                self._home.crash(raised)
            self._home_ended.wait()
            if failed is not None:
                error = failed
            elif self._home_error is not None or not was_over:
                error = self._home_error
        if error is not None:
            raise error

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime that it is for; from any thread."""
        phase = self._phase
        if isinstance(message, Drain):
            self._begin_drain(message)
        elif phase is Phase.STILL:
            self._first.send(message)
        elif phase is Phase.HOME:
            self._home.send(message)
        elif isinstance(message, Result):
            # One that finds nobody is kept by the app, and adopted.
            is_taken = message.lease.delivery in self._taken
            (self._home if is_taken else self._first).send(message)
        else:
            # Whoever did not ask takes no notice.
            self._first.send(message)
            self._home.send(message)

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise ``error``, if there is a runtime; from any thread."""
        self._first.crash(error)
        self._home.crash(error)

    def _begin_drain(self, drain: Drain) -> None:
        with self._lock:
            self._drain = drain
            self._first.send(drain)
            if self._phase is not Phase.LEAVING:
                self._home.send(drain)
            # Otherwise it is told once it has adopted what there is to finish.

    # In the thread of the old runtime.

    def _hear_old(self, message: FromRuntime) -> None:
        with self._lock:
            if isinstance(message, State):
                self._state = message
                if self._phase is Phase.LEAVING:
                    # The app is not to see that it stops.
                    return
            self._tell(message)
            if isinstance(message, Starved) and self._phase is Phase.STILL:
                self._begin()

    def _begin(self) -> None:
        """Start a runtime at home."""
        if self._drain is not None:
            return
        self._phase, self._began_at = Phase.ARRIVING, time.monotonic()
        self._home_ended.clear()
        try:
            ends.start_thread(self._run_home, self._ended, name="inngest-connect-home")
        except RuntimeError as error:
            self._ended(error)

    def _hand_over(self, error: BaseException | None) -> None:
        """The old runtime has ended: the new one goes on with what it has left."""
        with self._lock:
            # First of all: what is sent from now on is not in what the app knows now.
            self._phase = Phase.HOME
            known, taken = self._start(), self._taken
            self._home.send(
                Adopt(
                    tuple(e for e in known.requests if e.delivery not in taken),
                    tuple(e for e in known.offered if e.delivery not in taken),
                    tuple(
                        e for e in known.undelivered if e.lease.delivery not in taken
                    ),
                    known.settled,
                    self._state,
                )
            )
            if self._drain is not None and known.drain is not None:
                self._home.send(known.drain)
            if error is not None:
                text = f"The Connect runtime crashed as it moved: {describe(error)}"
                self._tell(Log(logging.ERROR, text))
            self._tell(Moved(self._name, time.monotonic() - self._began_at))
            self._taken = set()

    # In the thread of the new runtime.

    def _run_home(self) -> None:
        def start() -> Start:
            return replace(
                _living_in(self._name, self._start()),
                requests=(),
                offered=(),
                undelivered=(),
                state=None,
                beside=True,
            )

        self._home.run(start, self._hear_new)

    def _hear_new(self, message: FromRuntime) -> None:
        with self._lock:
            if self._phase is not Phase.HOME:
                if isinstance(message, State):
                    if message.connection == "ready":
                        self._leave()
                    return
                if isinstance(message, Request):
                    self._taken.add(message.lease.delivery)
                elif isinstance(message, Withdrawn | Delivered):
                    self._taken.discard(message.delivery)
            self._tell(message)

    def _leave(self) -> None:
        if self._phase is Phase.ARRIVING and self._drain is None:
            self._phase = Phase.LEAVING
            self._first.send(Leave())

    def _ended(self, error: BaseException | None) -> None:
        with self._lock:
            self._home_error = error
            if self._phase is Phase.ARRIVING:
                self._phase = Phase.STILL
                if error is not None:
                    text = (
                        f"The Connect runtime could not move to isolation="
                        f'"{self._name}", and stays in its thread: {describe(error)}'
                    )
                    self._tell(Log(logging.ERROR, text))
            self._home_ended.set()


def _living_in(place: str, start: Start) -> Start:
    """For the reports."""
    configuration = replace(start.configuration, isolation=place)
    return replace(start, configuration=configuration)
