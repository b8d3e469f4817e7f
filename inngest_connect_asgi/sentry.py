"""Sentry: a scope for every run, and what functions raise is reported once.

The SDK turns exceptions into replies, so nothing else would see them. Reporting
them is left to whoever did it already: ``inngest``'s own Sentry middleware, the
function itself, or a log record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sentry_sdk

from .context import Run
from .surroundings import Surroundings

__all__ = ["surroundings"]


@contextmanager
def _sync_run(run: Run) -> Iterator[None]:
    lease = run.request.lease
    reported: list[BaseException] = []

    def note(event: Any, hint: dict[str, Any]) -> Any:
        if exc_info := hint.get("exc_info"):
            reported.append(exc_info[1])
        if run.attempt is not None:
            event.setdefault("tags", {})["inngest.attempt"] = str(run.attempt)
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


@asynccontextmanager
async def _async_run(run: Run) -> AsyncIterator[None]:
    with _sync_run(run):
        yield


def surroundings() -> list[Surroundings]:
    # Scopes as they are since 2.0.
    if not hasattr(sentry_sdk, "isolation_scope") or not sentry_sdk.is_initialized():
        return []
    return [Surroundings(_sync_run, _async_run)]
