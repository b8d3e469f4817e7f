"""The app's side of two pipes to a runtime, wherever that is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from io import FileIO
from typing import Protocol

from ..errors import describe
from ..messages import FromApp, FromRuntime, Start, Stopped
from ..network import access as network
from ..network import trust
from .ear import Ear, RuntimeCrashed, Speaker
from .outbox import Outbox

__all__ = ["Home", "NearEnd"]


class Home(Speaker, Protocol):
    """Where a runtime lives: it runs from when it is made."""

    input: FileIO

    def prelude(self) -> bytes:
        """What it is to be told before anything else, as bytes for its pipe."""

    def close(self) -> None:
        """Have it end, wait for that as long as it makes sense, and close our ends."""


class NearEnd:
    """Runs one home after the other, and speaks to it.

    Args:
        make: Makes a home.
    """

    def __init__(self, make: Callable[[], Home]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None
        self._home: Home | None = None
        self._error: BaseException | None = None
        """What the one that runs is to have crashed of."""

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Make a home, and read its messages in the calling thread, until it ends.

        Raises:
            RuntimeCrashed: It died, hung, or spoke another language, or its runtime
                crashed.
            BaseException: Whatever ``start``, ``tell`` or making it raises.
        """
        # Takes messages before there is somebody to take them.
        outbox = Outbox(self.crash)
        with self._lock:
            self._outbox, self._error = outbox, None
        name = "the runtime"
        try:
            home = self._make()
            name = home.name
            try:
                self._run(home, outbox, start, tell)
            finally:
                with self._lock:
                    self._home = None
                home.kill()
                outbox.close()
                home.close()
        finally:
            with self._lock:
                self._outbox = None
                error = self._error
            if error is not None:
                # Whatever else there is to say comes of that.
                text = f"{name} was ended: {describe(error)}"
                raise RuntimeCrashed(text) from error

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime, if there is one; from any thread."""
        outbox = self._outbox
        if outbox is not None:
            outbox.send(message)

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise, if there is a runtime; from any thread."""
        with self._lock:
            if self._outbox is None:
                return
            self._error = self._error or error
            if self._home is not None:
                self._home.kill()

    def _run(
        self,
        home: Home,
        outbox: Outbox,
        start: Callable[[], Start],
        tell: Callable[[FromRuntime], None],
    ) -> None:
        with self._lock:
            self._home = home
            if self._error is not None:
                return
        outbox.open(home.input.fileno(), home.prelude())
        ear = Ear(home)
        # Nothing is told to a stranger.
        ear.hear_greeting()
        first = replace(
            start(),
            environ=network.for_a_child(),
            truststore=trust.truststore_is_injected(),
            certifi=trust.certifi_file(),
        )
        outbox.begin(first)
        for message in ear.hear():
            if isinstance(message, Stopped):
                if message.error is not None:
                    raise RuntimeCrashed(message.error)
                home.end()
                return
            tell(message)
        raise ear.death()
