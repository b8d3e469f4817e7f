"""Functions, as workers declare them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..protocol.durations import parse_duration

__all__ = ["Batch", "Cancel", "Function", "load_functions"]

JSON = Any
"""Whatever ``json.loads`` returns."""

DEFAULT_RETRIES = 4
"""Where the function does not say (pkg/consts/consts.go)."""


@dataclass(frozen=True)
class Cancel:
    """An event that cancels the runs of a function."""

    event: str
    expression: str | None
    timeout: float | None
    """Seconds from a run's start for which the event is heeded."""


@dataclass(frozen=True)
class Batch:
    """How many events make one run."""

    max_size: int
    timeout: float
    """Seconds after which a batch is full enough."""


@dataclass(frozen=True)
class Function:
    """A function that a worker declared."""

    id: str
    """With the app in front, as ``shop-charge``: the slug."""
    app: str
    name: str
    events: tuple[tuple[str, str | None], ...]
    """The events that trigger it, each with its expression."""
    crons: tuple[str, ...]
    """Listed, but LocalGateway runs nothing by the clock."""
    max_attempts: int
    cancels: tuple[Cancel, ...] = ()
    batch: Batch | None = None
    start_timeout: float | None = None
    """Seconds within which a run must begin, or is cancelled."""
    finish_timeout: float | None = None
    """Seconds within which a run that has begun must end, or is cancelled."""


def load_functions(app: str, data: bytes) -> list[Function]:
    """Read the functions that a worker declares for an app.

    Raises:
        ValueError: They are not the JSON that an HTTP sync would send.
    """
    functions = json.loads(data or b"[]")
    if not isinstance(functions, list):
        raise ValueError("the functions are not an array")
    for function in functions:
        if not isinstance(function, dict) or not isinstance(function.get("id"), str):
            raise ValueError("a function has no id")
    try:
        return [_parse(app, function) for function in functions]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a function makes no sense: {error!r}") from error


def _parse(app: str, configuration: dict[str, JSON]) -> Function:
    triggers = _dictionaries(configuration.get("triggers"))
    try:
        steps = configuration["steps"].values()
        retries = next(iter(steps))["retries"]["attempts"]
    except (AttributeError, KeyError, StopIteration, TypeError):
        retries = None
    timeouts = configuration.get("timeouts") or {}
    return Function(
        id=configuration["id"],
        app=app,
        name=str(configuration.get("name") or configuration["id"]),
        events=tuple(
            (str(trigger["event"]), trigger.get("expression"))
            for trigger in triggers
            if trigger.get("event")
        ),
        crons=tuple(
            str(trigger["cron"]) for trigger in triggers if trigger.get("cron")
        ),
        max_attempts=1 + (retries if isinstance(retries, int) else DEFAULT_RETRIES),
        cancels=tuple(
            Cancel(str(each["event"]), each.get("if"), _seconds(each.get("timeout")))
            for each in _dictionaries(configuration.get("cancel"))
            if each.get("event")
        ),
        batch=_batch(configuration.get("batchEvents")),
        start_timeout=_seconds(timeouts.get("start")),
        finish_timeout=_seconds(timeouts.get("finish")),
    )


def _batch(configuration: JSON) -> Batch | None:
    if not configuration:
        return None
    timeout = _seconds(configuration.get("timeout"))
    # What the server takes where the function does not say.
    return Batch(configuration["maxSize"], 60.0 if timeout is None else timeout)


def _seconds(duration: JSON) -> float | None:
    return parse_duration(duration) if duration else None


def _dictionaries(value: JSON) -> list[dict[str, JSON]]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []
