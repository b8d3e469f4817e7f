"""The runtime in an interpreter of its own, in a thread of the app's process.

Since Python 3.14 a process may have several, each with a lock of its own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from io import FileIO
from logging import WARNING
from typing import Any

from .. import ends
from ..errors import format_traceback
from ..messages import FromApp, FromRuntime, Log, Start
from . import departures
from .ear import RuntimeCrashed
from .launch import make_pipe, prelude
from .near_end import NearEnd

__all__ = ["Interpreter", "InterpreterHost"]

ENTRY = "inngest_connect_asgi.isolation.resident"

END_TIMEOUT = 5.0
"""Seconds for an interpreter to leave, before it is left behind."""

# The standard library first, which it must not have from a folder of the app's.
_BOOT = """\
import marshal, os, sys
sys.argv = ["-c", *argv]
library = os.path.dirname(os.__file__)
sys.path.sort(key=lambda entry: entry not in (library, library + "/lib-dynload"))
exec(*marshal.loads(prelude))
"""

_FORKED = (
    "The app has forked. No interpreter survives that, so the Connect runtime has left "
    "its own, and goes on in a new one, with a new connection; so it will at every "
    'fork, which is not said again. isolation="process" has no need of that'
)


class Interpreter:
    """An interpreter, the thread that it runs in, and our ends of its pipes.

    Raises:
        OSError: The system gives no more descriptors.
        RuntimeError: It gives no more threads.
    """

    name = "the runtime's interpreter"
    fate = "none can be killed, so it is left behind, with its thread and its memory"
    stderr = None

    def __init__(self) -> None:
        self.gave_way = False
        """Whether it had to, for a fork or the end of the process."""
        self._theirs: list[FileIO] = []
        self._ours: list[FileIO] = []
        self._lock = threading.Lock()
        self._spoke = threading.Event()
        """Is set once it says nothing any more."""
        self._death = "and said nothing of it"
        try:
            its_input, self.input = make_pipe(self._theirs, self._ours)
            self.output, its_output = make_pipe(self._ours, self._theirs)
            its_life, self._life = make_pipe(self._theirs, self._ours)
            numbers = (str(f.fileno()) for f in (its_input, its_output, its_life))
            self._argv = (ENTRY, *numbers)
            departures.arrive(self, self._start)
        except BaseException:
            for each in self._theirs + self._ours:
                each.close()
            raise

    def _start(self) -> None:
        ends.start_thread(self._live, self._ended, name="inngest-connect-runtime")

    def prelude(self) -> bytes:
        """Nothing: it was told as it was made."""
        return b""

    @property
    def is_gone(self) -> bool:
        return self._spoke.is_set()

    def kill(self) -> None:
        """Have it leave, if it does not hang; from any thread."""
        with self._lock:
            self._life.close()

    def give_way(self) -> None:
        self.gave_way = True
        self.kill()

    def end(self) -> str:
        """Wait until it has said all, and say how it died."""
        self._spoke.wait(END_TIMEOUT)
        return self._death

    def close(self) -> None:
        """Have it leave, wait for that, and close our ends of its pipes."""
        self.kill()
        self._spoke.wait(END_TIMEOUT)
        for each in self._ours:
            each.close()

    def _live(self) -> None:
        """In a thread of its own: whoever runs an interpreter is in it."""
        interpreter = _create()
        try:
            interpreter.prepare_main(argv=self._argv, prelude=prelude())
            interpreter.exec(_BOOT)
        except BaseException as error:
            self._fall_silent(error)
            raise
        else:
            self._fall_silent(None)
        finally:
            # Waits for its threads: one may be looking a name up.
            interpreter.close()

    def _fall_silent(self, error: BaseException | None) -> None:
        """Whoever listens hears of it at once."""
        if error is not None:
            self._death = f"of this:\n{_shown(error)}"
        for each in self._theirs:
            each.close()
        self._spoke.set()

    def _ended(self, error: BaseException | None) -> None:
        self._fall_silent(error)
        departures.depart(self)


class InterpreterHost:
    """Isolation from everything but the end of the process, the app's GIL included.

    The interpreter imports neither the app nor the SDK, and is told everything through
    a pipe. One that hangs can be replaced, and not ended.
    """

    def __init__(self) -> None:
        self._near_end = NearEnd(self._make)
        self._interpreter: Interpreter | None = None
        self._told_of_forks = False

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run one, and read its messages in the calling thread, until it ends.

        Where the app forks that is another one.

        Raises:
            RuntimeCrashed: It died, hung, or spoke another language, or its runtime
                crashed.
            BaseException: Whatever ``start`` or ``tell`` raises.
        """
        while True:
            try:
                self._near_end.run(start, tell)
            except RuntimeCrashed as error:
                if error.__cause__ is not None or not self._gave_way():
                    raise
            else:
                return
            if not self._told_of_forks:
                self._told_of_forks = True
                tell(Log(WARNING, _FORKED))

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime, if there is one; from any thread."""
        self._near_end.send(message)

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise, if there is a runtime; from any thread."""
        self._near_end.crash(error)

    def _make(self) -> Interpreter:
        self._interpreter = Interpreter()
        return self._interpreter

    def _gave_way(self) -> bool:
        return self._interpreter is not None and self._interpreter.gave_way


def _create() -> Any:
    # Before Python 3.14 there is no such module.
    return importlib.import_module("concurrent.interpreters").create()


def _shown(error: BaseException) -> str:
    """What was raised in there, as it would be shown there."""
    shown = getattr(getattr(error, "excinfo", None), "errdisplay", None)
    return shown or format_traceback(error)
