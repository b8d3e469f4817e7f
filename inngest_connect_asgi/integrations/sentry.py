"""Sentry: a scope for every run, and what functions raise is reported once.

The SDK turns exceptions into replies, so nothing else would see them. Reporting
them is left to whoever did it already: ``inngest``'s own Sentry middleware, the
function itself, or a log record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sentry_sdk

from ..context import Run
from ..libraries import Library, TooOld
from .surroundings import Layer

__all__ = ["layers"]


def layers(library: Library) -> list[Layer]:
    """A scope, if Sentry is initialised."""
    if not hasattr(sentry_sdk, "isolation_scope"):
        # Scopes as they are since 2.0. Before, the hub has the client.
        if sentry_sdk.Hub.current.client is not None:
            raise TooOld("it wants sentry-sdk 2.0 or later")
        return []
    return [Layer(library, _scope)] if sentry_sdk.is_initialized() else []


@contextmanager
def _scope(run: Run) -> Iterator[None]:
    lease = run.request.lease
    reported: list[BaseException] = []

    def note(event: Any, hint: dict[str, Any]) -> Any:
        # Called by the function, where that reports something itself.
        try:
            if exc_info := hint.get("exc_info"):
                reported.append(exc_info[1])
            if run.attempt is not None:
                event.setdefault("tags", {})["inngest.attempt"] = str(run.attempt)
        except Exception:
            pass
        return event

    with sentry_sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        scope.set_transaction_name(lease.function_slug)
        scope.set_tag("inngest.app_id", run.request.app_name)
        scope.set_tag("inngest.function_id", lease.function_slug)
        scope.set_tag("inngest.run_id", lease.run_id)
        scope.set_tag("inngest.request_id", lease.request_id)
        scope.add_event_processor(note)
        yield
        error = run.error
        if error is not None and not any(error is each for each in reported):
            sentry_sdk.capture_exception(error)
