"""Listens to a runtime at the other end of a pipe, and knows whether it is alive."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from io import FileIO
from logging import WARNING
from typing import Protocol

from ..messages import VERSION, FromRuntime, Log
from ..state import SILENCE
from . import pipe

__all__ = ["Ear", "RuntimeCrashed", "Speaker"]

START_TIMEOUT = 30.0
"""Seconds that a runtime gets until its first message."""

LOOKS = 5
"""Times to look, in vain, before a runtime that says nothing is taken to hang."""

READ_SIZE = pipe.PIPE_SIZE

SHOWN = 400
"""Characters to show of what was printed."""


class RuntimeCrashed(Exception):
    """The runtime ended without saying that it stopped."""


class Speaker(Protocol):
    """Who is listened to: where a runtime lives."""

    name: str
    """What to call it: the runtime's process."""
    fate: str
    """What becomes of one that hangs, once :meth:`kill` was called."""
    output: FileIO

    @property
    def stderr(self) -> FileIO | None:
        """Where it prints before it speaks, if that is not where the app does."""

    @property
    def is_gone(self) -> bool:
        """Whether it can say nothing any more."""

    def kill(self) -> None:
        """Have it end, as far as that can be done; from any thread."""

    def end(self) -> str:
        """Wait until it has ended, and say how."""


class Ear:
    """Listens.

    What counts is for how long somebody has listened in vain, not the clock: for a
    while this process may not have run, or the whole machine.
    """

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._output = speaker.output.fileno()
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._stderr: int | None = None
        if speaker.stderr is not None:
            self._stderr = speaker.stderr.fileno()
            os.set_blocking(self._stderr, False)
            self._poll.register(self._stderr, select.POLLIN)
        self._printed = b""
        """The end of what it printed before it spoke."""
        self._early = b""
        """What came with the greeting."""
        self._started = False

    def hear_greeting(self) -> None:
        """Wait for the word that shows that it is a runtime of this version.

        Raises:
            RuntimeCrashed: It said something else, or nothing.
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
                raise RuntimeCrashed(
                    "inngest-connect-asgi was upgraded beneath a running app; "
                    "restart it"
                )
            raise RuntimeCrashed(
                f"{self._speaker.name} does not speak our language; it began with "
                f"{_shown(said[:SHOWN])}"
            )
        self._early = said[len(word) :]

    def hear(self) -> Iterator[FromRuntime]:
        """Its messages, until it is gone.

        Raises:
            RuntimeCrashed: It hangs.
        """
        decoder = pipe.Decoder()
        data = self._early or self._read()
        while data:
            try:
                messages = list(decoder.feed(data))
            except Exception as error:
                # Not what it said: there may be a payload in that.
                text = f"{self._speaker.name} said what is no message"
                raise RuntimeCrashed(text) from error
            if messages and not self._started:
                self._started = True
                if self._printed:
                    text = f"{_capital(self._speaker.name)} printed as it started: "
                    yield Log(WARNING, text + _shown(self._printed))
            yield from messages
            data = self._read()

    def death(self, said: bytes = b"") -> RuntimeCrashed:
        """How it died; ``said`` is what it said before."""
        self._speaker.kill()
        text = f"{self._speaker.name} died, {self._speaker.end()}"
        if said:
            text += f"; it said {_shown(said)}"
        return RuntimeCrashed(text + self._last_words())

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
            if not ready and self._speaker.is_gone and not self._poll.poll(0):
                # Somebody else has the other end of its pipe, too.
                return b""
            # A late look says nothing of the runtime, which may not have run either.
            if took < 2 * look:
                waited += min(took, look)
            if waited >= patience:
                self._speaker.kill()
                raise RuntimeCrashed(
                    f"{self._speaker.name} said nothing for "
                    f"{patience:g} s; {self._speaker.fate}{self._last_words()}"
                )

    def _read_stderr(self) -> bool:
        """Take note of what it printed; returns whether there may be more."""
        if self._stderr is None:
            return False
        try:
            data = os.read(self._stderr, READ_SIZE)
        except BlockingIOError:
            return False
        self._printed = (self._printed + data)[-4 * SHOWN :]
        if not data:
            # It prints where the app does from now on.
            self._poll.unregister(self._stderr)
            self._stderr = None
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


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
