"""Logging that can't hurt whoever logs.

An app may have set a record factory that claims our attribute names, a filter that
raises, a handler whose disk is full. Nothing of that may cost a reply or a lease.
"""

from __future__ import annotations

import logging
import queue
import sys
import traceback
from collections.abc import Callable, Mapping

from . import ends

__all__ = ["LOGGER", "Writer", "emit", "handle", "record"]

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
        if logging.getLogger(name).isEnabledFor(level):
            handle(record(level, message, error=error, extra=extra, name=name))
    except Exception:
        _last_resort(message)


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
    except Exception:
        made = logging.LogRecord(name, level, __file__, 0, message, (), info)
    for key, value in (extra or {}).items():
        if key not in _RESERVED:
            setattr(made, key, value)
    if at is not None:
        made.relativeCreated += (at - made.created) * 1000
        made.created = at
        made.msecs = at % 1 * 1000
    return made


def handle(record: logging.LogRecord) -> None:
    """Give a record to its logger. Raises nothing."""
    try:
        logging.getLogger(record.name).handle(record)
    except Exception:
        # A filter's. A handler's are its own business, and end up here too.
        _last_resort(str(record.msg))


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
