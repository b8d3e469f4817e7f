"""Which run the calling code belongs to: for logs, and for whatever else asks.

It imports nothing of the SDK, so that a logging configuration can name it.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass

from .messages import Outcome, Request

__all__ = ["CURRENT", "Run", "RunContextFilter", "run_context"]

FIELDS = ("run_id", "function_id", "request_id", "attempt")


@dataclass(eq=False)
class Run:
    """A request while its function runs."""

    request: Request
    attempt: int | None = None
    """Known once the SDK has read the payload, before the function is called."""
    error: BaseException | None = None
    """What the function, or one of its steps, raised."""
    outcome: Outcome | None = None
    """How it ended, once it has."""


CURRENT: ContextVar[Run | None] = ContextVar("inngest_connect_run", default=None)


def run_context() -> dict[str, object]:
    """What the calling code runs for, to be merged into a log record.

    Returns:
        ``run_id``, ``function_id`` (with the app in front), ``request_id`` and
        ``attempt`` (counted from 0); nothing outside of a run. Tasks and
        ``asyncio.to_thread`` inherit it, other threads do not.
    """
    run = CURRENT.get()
    if run is None:
        return {}
    lease = run.request.lease
    values = (lease.run_id, lease.function_slug, lease.request_id, run.attempt)
    return dict(zip(FIELDS, values, strict=True))


class RunContextFilter(logging.Filter):
    """Puts :func:`run_context` on every record, and ``None`` where there is none.

    For a handler rather than a logger: a logger's filters do not see what the
    loggers below it pass on. What a record has already stays as it is. A record that
    takes no attributes passes without.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        context = run_context()
        for name in FIELDS:
            try:
                if not hasattr(record, name):
                    setattr(record, name, context.get(name))
            except Exception:
                # An app's own kind of record; not worth what it has to say.
                pass
        return True
