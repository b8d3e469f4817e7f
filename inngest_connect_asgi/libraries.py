"""Libraries of the app's that a worker can do without.

Whatever one of them raises is named once, with its version, and changes nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import logging
import threading
import traceback
from collections.abc import Callable

from . import logs
from .errors import describe
from .messages import Log

__all__ = ["Library", "TooOld", "is_installed", "is_the_callers", "version"]


class TooOld(Exception):
    """A version that is not supported."""


def version(distribution: str) -> str:
    """The installed version, or ``unknown``: in a zip file, or copied, it has none."""
    try:
        found: str | None = importlib.metadata.version(distribution)
    except Exception:
        found = None
    return found or "unknown"


def is_installed(module: str) -> bool:
    """Whether a module could be imported, as far as can be told without doing so."""
    try:
        return importlib.util.find_spec(module) is not None
    except Exception:
        # One that somebody has made by hand, or an import hook of the app's.
        return False


class Library:
    """What a library does for a worker, and whether it was said that it does not.

    Args:
        name: The distribution's.
        purpose: What is not there without it.
        log: Takes what is to be logged, where a handler that blocks would hold up
            more than the caller.
    """

    def __init__(
        self, name: str, purpose: str, log: Callable[[Log], object] | None = None
    ) -> None:
        self._name = name
        self._purpose = purpose
        self._log = log
        self._lock = threading.Lock()
        self._told = False

    def left_out(self, error: BaseException) -> None:
        """Say that it is of no use here. Raises nothing."""
        text = f"No {self._purpose} by {self._name} {version(self._name)}"
        self._tell(f"{text}; all else goes on. {describe(error)}", error)

    def failed(self, error: BaseException) -> None:
        """Say the first time that it failed around a run. Raises nothing."""
        text = f"{self._purpose} by {self._name} {version(self._name)}"
        text = f"{text[0].upper()}{text[1:]} failed around a run, whose outcome stands"
        self._tell(f"{text}; this is not said again. {describe(error)}", error)

    def _tell(self, text: str, error: BaseException) -> None:
        with self._lock:
            if self._told:
                return
            self._told = True
        if self._log is None:
            logs.emit(logging.WARNING, text, error=error)
            return
        try:
            lines = "".join(traceback.format_exception(error))
            self._log(Log(logging.WARNING, f"{text}\n{lines}"))
        except Exception:
            logs.emit(logging.WARNING, text)


def is_the_callers(error: BaseException, *, awaited: bool = False) -> bool:
    """Whether what came out of a library is meant for whoever called it.

    Args:
        awaited: Whether the library may have let the event loop run meanwhile.
    """
    if isinstance(error, KeyboardInterrupt):
        # Signals are handled nowhere else.
        return threading.current_thread() is threading.main_thread()
    if not awaited:
        return False
    if isinstance(error, asyncio.CancelledError):
        # Before Python 3.11 nobody can tell whether the task was meant.
        cancelling = getattr(asyncio.current_task(), "cancelling", None)
        return cancelling is None or cancelling() > 0
    return isinstance(error, GeneratorExit)
