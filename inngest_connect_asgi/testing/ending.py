"""What ends a run, and what is told of its end."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .calls import finished_error
from .expressions import matches
from .functions import JSON
from .runs import Run

__all__ = ["FINISHED_EVENT", "METADATA", "cancels", "events_of_end"]

FAILED_EVENT = "inngest/function.failed"
FINISHED_EVENT = "inngest/function.finished"
CANCELLED_EVENT = "inngest/function.cancelled"
METADATA = "_inngest"
"""Where an event's data has what Inngest added (pkg/consts/consts.go)."""


def cancels(run: Run, event: dict[str, JSON]) -> bool:
    """Whether an event cancels a run."""
    # What started a run does not end it.
    if run.status != "running" or any(event["id"] == e["id"] for e in run.events):
        return False
    age = time.time() - run.started_at
    return any(
        cancel.event == event["name"]
        and (cancel.timeout is None or age < cancel.timeout)
        and matches(cancel.expression, {"event": run.event, "async": event})
        for cancel in run.function.cancels
    )


def events_of_end(run: Run) -> Iterator[dict[str, JSON]]:
    """What a run's end is told with (pkg/execution/executor/finalize.go)."""
    for number, event in enumerate(run.events):
        metadata = event["data"].get(METADATA)
        correlation_id = (
            metadata.get("correlation_id") if isinstance(metadata, dict) else None
        )
        # The handler of a failed handler would go on for ever.
        if event["name"] in (FAILED_EVENT, FINISHED_EVENT):
            continue
        # Of a batch, the first event is told of, and those that somebody awaits.
        if number > 0 and correlation_id is None:
            continue
        data: dict[str, JSON] = {
            "function_id": run.function.id,
            "run_id": run.id,
            "event": event,
            "events": run.events,
            METADATA: {"status": run.status.capitalize()},
        }
        if run.status == "completed":
            data["result"] = run.output
        elif run.status == "failed":
            data["error"] = finished_error(run.error)
            data["result"] = run.error
        if correlation_id is not None:
            data["correlation_id"] = correlation_id
        yield {"name": FINISHED_EVENT, "data": data}
        if run.status == "failed":
            yield {"name": FAILED_EVENT, "id": run.id, "data": data}
        elif run.status == "cancelled":
            yield {"name": CANCELLED_EVENT, "id": run.id, "data": data}
