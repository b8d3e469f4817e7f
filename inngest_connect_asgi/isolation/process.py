"""The runtime in a child process, at the other end of two pipes."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from logging import WARNING

from ..errors import describe
from ..messages import VERSION, FromApp, FromRuntime, Log, Start, Stopped
from ..network import access as network
from ..network import trust
from ..state import SILENCE
from . import launch, pipe
from .outbox import Outbox

__all__ = ["ProcessCrashed", "ProcessHost"]

START_TIMEOUT = 30.0
"""Seconds that a child gets until its first message."""

LOOKS = 5
"""Times to look, in vain, before a child that says nothing is taken to hang."""

READ_SIZE = pipe.PIPE_SIZE

SHOWN = 400
"""Characters to show of what a child printed."""


class ProcessCrashed(Exception):
    """The child ended without saying that it stopped."""


class ProcessHost:
    """Isolation from everything that the app's process does, the GIL included.

    The child imports neither the app nor the SDK. It is told everything through
    a pipe, and ends when that does, however the parent died.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None
        self._child: launch.Child | None = None
        self._error: BaseException | None = None
        """What the one that runs is to have crashed of."""

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a child, and read its messages in the calling thread, until it ends.

        Raises:
            ProcessCrashed: It died, hung, or spoke another language, or its runtime
                crashed.
            BaseException: Whatever ``start`` or ``tell`` raises.
        """
        # Takes messages before there is a child.
        outbox = Outbox(self.crash)
        with self._lock:
            self._outbox, self._error = outbox, None
        try:
            child = launch.Child()
            try:
                self._run(child, outbox, start, tell)
            finally:
                with self._lock:
                    self._child = None
                child.kill()
                child.wait()
                outbox.close()
                child.close()
        finally:
            with self._lock:
                self._outbox = None
                error = self._error
            if error is not None:
                # Whatever else there is to say comes of that.
                text = f"the runtime's process was ended: {describe(error)}"
                raise ProcessCrashed(text) from error

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
            if self._child is not None:
                self._child.kill()

    def _run(
        self,
        child: launch.Child,
        outbox: Outbox,
        start: Callable[[], Start],
        tell: Callable[[FromRuntime], None],
    ) -> None:
        with self._lock:
            self._child = child
            if self._error is not None:
                return
        outbox.open(child.input.fileno(), launch.prelude())
        ear = Ear(child)
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
                    raise ProcessCrashed(message.error)
                child.wait()
                return
            tell(message)
        raise ear.death()


class Ear:
    """Listens to a child, and knows whether it is alive.

    What counts is for how long somebody has listened in vain, not the clock: for a
    while this process may not have run, or the whole machine.
    """

    def __init__(self, child: launch.Child) -> None:
        self._child = child
        self._output = child.output.fileno()
        self._stderr = child.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)
        self._printed = b""
        """The end of what it printed before it spoke."""
        self._early = b""
        """What came with the greeting."""
        self._is_quiet = False
        self._started = False

    def hear_greeting(self) -> None:
        """Wait for the word that shows that it is a child of this version.

        Raises:
            ProcessCrashed: It said something else, or nothing.
        """
        word = pipe.greeting(VERSION)
        said = b""
        while len(said) < len(word) and word.startswith(said):
            data = self._read()
            if not data:
                raise self.death(said)
            said += data
        if not said.startswith(word):
            if said.startswith(word.partition(b"/")[0]):
                raise ProcessCrashed(
                    "inngest-connect-asgi was upgraded beneath a running app; "
                    "restart it"
                )
            raise ProcessCrashed(
                "the runtime's process does not speak our language; it began with "
                f"{_shown(said[:SHOWN])}"
            )
        self._early = said[len(word) :]

    def hear(self) -> Iterator[FromRuntime]:
        """Its messages, until it is gone.

        Raises:
            ProcessCrashed: It hangs.
        """
        decoder = pipe.Decoder()
        data = self._early or self._read()
        while data:
            try:
                messages = list(decoder.feed(data))
            except Exception as error:
                # Not what it said: there may be a payload in that.
                text = "the runtime's process said what is no message"
                raise ProcessCrashed(text) from error
            if messages and not self._started:
                self._started = True
                if self._printed:
                    text = "The runtime's process printed as it started: "
                    yield Log(WARNING, text + _shown(self._printed))
            yield from messages
            data = self._read()

    def death(self, said: bytes = b"") -> ProcessCrashed:
        """How it died; ``said`` is what it said before."""
        self._child.kill()
        code = self._child.wait()
        text = f"the runtime's process died, exit code {code}"
        if said:
            text += f"; it said {_shown(said)}"
        return ProcessCrashed(text + self._last_words())

    def _read(self) -> bytes:
        """What it says next; nothing where it is gone."""
        look = SILENCE / LOOKS
        patience = SILENCE if self._started else START_TIMEOUT
        waited = 0.0
        while True:
            since = time.monotonic()
            ready = {fd for fd, _ in self._poll.poll(look * 1000)}
            took = time.monotonic() - since
            if self._stderr in ready:
                self._read_stderr()
            if self._output in ready:
                return os.read(self._output, READ_SIZE)
            if not ready and self._child.is_gone and not self._poll.poll(0):
                # Somebody else has the other end of its pipe, too.
                return b""
            # A late look says nothing of the child, which may not have run either.
            if took < 2 * look:
                waited += min(took, look)
            if waited >= patience:
                self._child.kill()
                raise ProcessCrashed(
                    "the runtime's process said nothing for "
                    f"{patience:g} s; it was killed{self._last_words()}"
                )

    def _read_stderr(self) -> bool:
        """Take note of what it printed; returns whether there may be more."""
        try:
            data = os.read(self._stderr, READ_SIZE)
        except BlockingIOError:
            return False
        self._printed = (self._printed + data)[-4 * SHOWN :]
        if not data and not self._is_quiet:
            # It prints where the app does from now on.
            self._is_quiet = True
            self._poll.unregister(self._stderr)
        return bool(data)

    def _last_words(self) -> str:
        if self._started:
            return ""
        while self._read_stderr():
            pass
        return f"; it printed {_shown(self._printed)}" if self._printed else ""


def _shown(data: bytes) -> str:
    text = data.decode(errors="replace").strip()
    return repr(text if len(text) <= SHOWN else f"…{text[1 - SHOWN :]}")
