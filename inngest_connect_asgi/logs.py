"""Logging that can't hurt whoever logs.

An app may have set a record factory that claims our attribute names, a filter that
raises, a handler whose disk is full. Nothing of that may cost a reply or a lease.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress

from . import ends

__all__ = [
    "LOGGER",
    "Writer",
    "disabled",
    "emit",
    "emit_aside",
    "handle",
    "is_enabled",
    "level",
    "record",
]

LOGGER = "inngest_connect_asgi"

_RESERVED = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def emit(
    level: int,
    message: str,
    *,
    error: BaseException | None = None,
    extra: Mapping[str, object] | None = None,
    name: str = LOGGER,
) -> None:
    """Log ``message``, as it stands, if anybody wants it. Raises nothing.

    Args:
        error: Its traceback goes into the record.
        extra: Attributes of the record.
    """
    try:
        if is_enabled(name, level):
            handle(record(level, message, error=error, extra=extra, name=name))
    except BaseException as failure:
        _contain(failure, message)


def emit_aside(level: int, message: str) -> None:
    """As :func:`emit`, without waiting for a handler that hangs. Raises nothing."""
    # Without a thread there is nobody to tell who can be told safely.
    with suppress(RuntimeError):
        ends.start_thread(
            lambda: emit(level, message), lambda _: None, name="inngest-connect-aside"
        )


def is_enabled(name: str, level: int) -> bool:
    """Whether anybody wants a record. Where that can't be told: yes."""
    try:
        return logging.getLogger(name).isEnabledFor(level)
    except Exception:
        return True


def level(name: str) -> int:
    """From which level on a logger wants records. Where that can't be told: warnings.

    ``logger.level = "WARNING"`` is easily written, and logging itself fails of it.
    """
    try:
        found = logging.getLogger(name).getEffectiveLevel()
    except Exception:
        return logging.WARNING
    return found if isinstance(found, int) else logging.WARNING


def record(
    level: int,
    message: str,
    *,
    error: BaseException | None = None,
    extra: Mapping[str, object] | None = None,
    name: str = LOGGER,
    at: float | None = None,
) -> logging.LogRecord:
    """Make a record, by the app's factory if that works.

    Args:
        extra: Attributes; they go before what the factory has set by the same names.
        at: When it was made, in Unix seconds; by default now.
    """
    info = None if error is None else (type(error), error, error.__traceback__)
    # As logging itself calls it: a factory may want all of them by position.
    make = logging.getLogRecordFactory()
    try:
        made = make(name, level, __file__, 0, message, (), info, None, None)
        vars(made)
    except BaseException as failure:
        _let_pass(failure)
        made = logging.LogRecord(name, level, __file__, 0, message, (), info)
    for key, value in (extra or {}).items():
        if key not in _RESERVED:
            # It may be a property of the factory's own class.
            with suppress(Exception):
                setattr(made, key, value)
    if at is not None:
        with suppress(Exception):
            made.relativeCreated += (at - made.created) * 1000
        with suppress(Exception):
            made.created = at
            made.msecs = at % 1 * 1000
    return made


def handle(record: logging.LogRecord) -> None:
    """Give a record to its logger. Raises nothing."""
    try:
        logging.getLogger(record.name).handle(record)
    except BaseException as failure:
        # A filter's. A handler's are its own business, and end up here too.
        _contain(failure, str(record.msg))


def disabled() -> str | None:
    """What there is to say where the app has disabled our logger, else ``None``.

    Mostly by accident: ``fileConfig`` and ``dictConfig`` disable every logger that
    was there before, unless ``disable_existing_loggers`` is ``False``.
    """
    # Not by getLogger(), which would make it be there before.
    logger = logging.Logger.manager.loggerDict.get(LOGGER)
    if not getattr(logger, "disabled", False):
        return None
    return (
        f"the logger {LOGGER} is disabled: give logging's fileConfig or dictConfig "
        "disable_existing_loggers=False"
    )


def _contain(failure: BaseException, message: str) -> None:
    _let_pass(failure)
    _last_resort(message)


def _let_pass(failure: BaseException) -> None:
    """Raise what is meant for the process. An exit or a cancellation is no more to
    whoever logs than any other exception of a handler."""
    if isinstance(failure, KeyboardInterrupt) and (
        threading.current_thread() is threading.main_thread()
    ):
        raise failure


def _last_resort(message: str) -> None:
    """As ``logging.Handler.handleError`` does, which wants a record."""
    if not logging.raiseExceptions or sys.stderr is None:
        return
    try:
        sys.stderr.write(f"--- Logging error of {message!r} ---\n")
        traceback.print_exc(file=sys.stderr)
    except Exception:
        pass


class Writer:
    """Writes records in a thread of its own: a handler may block.

    Args:
        ended: Is called in that thread once all is written after :meth:`close`.
    """

    def __init__(self, ended: Callable[[], object]) -> None:
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        ends.start_thread(self._run, lambda _: ended(), name="inngest-connect-log")

    def put(self, record: logging.LogRecord) -> None:
        self._records.put(record)

    def close(self) -> None:
        """Write what there is, and end; without waiting for it."""
        self._records.put(None)

    def _run(self) -> None:
        while (record := self._records.get()) is not None:
            handle(record)
