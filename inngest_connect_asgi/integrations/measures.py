"""What is measured of a worker, whoever keeps the figures.

A :class:`Feed` is told the messages between app and runtime, on either side, and
turns them into changes of somebody's instruments.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ..configuration import Configuration
from ..messages import Accepted, Delivery, Outcome, Result
from ..state import CONNECTIONS, FAILURE_REASONS, PLACES, RECONNECT_REASONS, State

__all__ = ["BUCKETS", "MEASURES", "OUTCOMES", "Feed", "Instruments", "Measure"]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
"""Upper bounds of the durations of requests, in seconds."""

OUTCOMES = ("done", "continued", "step_failed", "failed")

PEAK = 60.0
"""Seconds for which a lag is remembered, so that no scrape misses it."""

UNKNOWN = "unknown"
"""Instead of a function that the worker does not have: labels must be few."""


@dataclass(frozen=True)
class Measure:
    """Something that a :class:`State` says."""

    name: str
    help: str
    kind: Literal["count", "sum", "most"]
    """A ``count`` grows; several workers of a process make a ``sum``, or the one
    with the ``most`` of it counts."""
    read: Callable[[State], Mapping[str, float]]
    """The value, by label."""
    label: str = ""
    labels: tuple[str, ...] = ("",)
    seconds: bool = False


def _value(name: str) -> Callable[[State], Mapping[str, float]]:
    return lambda state: {"": getattr(state, name) or 0.0}


MEASURES = (
    Measure(
        "connection_state",
        "1 for the state that the connection is in, 0 for the others",
        "sum",
        lambda state: {name: name == state.connection for name in CONNECTIONS},
        "state",
        CONNECTIONS,
    ),
    Measure(
        "lives_in",
        "1 for the place that the runtime lives in, 0 for the others",
        "sum",
        lambda state: {name: name == state.lives_in for name in PLACES},
        "place",
        PLACES,
    ),
    Measure(
        "reconnects",
        "Connections that replaced another one, by why that one ended",
        "count",
        lambda state: state.reconnects_by,
        "reason",
        RECONNECT_REASONS,
    ),
    Measure(
        "connection_failures",
        "Attempts to connect that came to nothing",
        "count",
        lambda state: state.failures_by,
        "reason",
        FAILURE_REASONS,
    ),
    Measure(
        "heartbeat_round_trip",
        "How long the gateway took to answer the last heartbeat",
        "most",
        _value("round_trip"),
        seconds=True,
    ),
    Measure(
        "heartbeats_missed",
        "Heartbeats that were not answered before the next was due",
        "count",
        _value("heartbeats_missed"),
    ),
    Measure(
        "runtime_loop_lag",
        "How late the runtime's event loop ran at most, in the last minute",
        "most",
        _value("runtime_lag"),
        seconds=True,
    ),
    Measure(
        "app_loop_lag",
        "How long the app's event loop took to answer at most, in the last minute",
        "most",
        _value("app_lag"),
        seconds=True,
    ),
    Measure(
        "requests_in_flight",
        "Requests that are acknowledged and not done",
        "sum",
        _value("requests_in_flight"),
    ),
    Measure(
        "requests_repeated",
        "Requests answered from memory, or by a run that was under way",
        "count",
        _value("requests_repeated"),
    ),
    Measure("leases_held", "Leases that are extended", "sum", _value("leases_held")),
    Measure(
        "leases_extended",
        "Extensions of leases that the server granted",
        "count",
        _value("leases_extended"),
    ),
    Measure(
        "leases_lost",
        "Leases that the server refused to extend",
        "count",
        _value("leases_lost"),
    ),
    Measure(
        "replies_waiting",
        "Replies that the server has not confirmed yet",
        "sum",
        _value("replies_waiting"),
    ),
    Measure(
        "replies_flushed",
        "Replies that were delivered by the HTTP API",
        "count",
        _value("replies_flushed"),
    ),
    Measure(
        "replies_given_up",
        "Replies that were given up",
        "count",
        _value("replies_given_up"),
    ),
    Measure(
        "malformed_messages",
        "Messages from the network that made no sense",
        "count",
        _value("malformed"),
    ),
)


class Instruments(Protocol):
    """Who keeps the figures. Called from any thread."""

    def add(self, measure: Measure, label: str, amount: float) -> None:
        """A count or a sum has changed by so much."""

    def set(self, measure: Measure, worker: object, value: float | None) -> None:
        """What one worker has of this is now so much, or the worker is gone."""

    def finished(
        self, app: str, function: str, outcome: str, seconds: float | None
    ) -> None:
        """A request is done; ``seconds`` where it is known when it began."""


class Feed:
    """Feeds one worker's messages to somebody's instruments."""

    def __init__(
        self,
        instruments: Instruments,
        configuration: Configuration,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._instruments = instruments
        self._apps = functions(configuration)
        self._started: dict[Delivery, float] = {}
        self._before: dict[tuple[str, str], float] = {}
        self._runtime_lag = _Peak()
        self._app_lag = _Peak()

    def observe(self, message: object) -> None:
        if isinstance(message, Accepted):
            self._started[message.delivery] = self._clock()
        elif isinstance(message, Result):
            self._finish(message)
        elif isinstance(message, State):
            self._update(message)

    def close(self) -> None:
        """The worker is gone, and its part in every sum with it."""
        for measure in MEASURES:
            if measure.kind == "most":
                self._instruments.set(measure, self, None)
            elif measure.kind == "sum":
                for label in measure.labels:
                    self._add(measure, label, 0.0)

    def _finish(self, result: Result) -> None:
        started = self._started.pop(result.lease.delivery, None)
        seconds = None if started is None else self._clock() - started
        function = result.lease.function_slug
        app = self._apps.get(function)
        if app is None:
            app = function = UNKNOWN
        self._instruments.finished(app, function, _outcome(result.outcome), seconds)

    def _update(self, state: State) -> None:
        now, app_lag = self._clock(), state.app_lag
        if state.app_waiting_since is not None:
            app_lag = max(app_lag, state.at - state.app_waiting_since)
        state = replace(
            state,
            runtime_lag=self._runtime_lag.add(now, state.runtime_lag),
            app_lag=self._app_lag.add(now, app_lag),
        )
        for measure in MEASURES:
            values = measure.read(state)
            if measure.kind == "most":
                self._instruments.set(measure, self, values[""])
            else:
                for label, value in values.items():
                    self._add(measure, label, value)

    def _add(self, measure: Measure, label: str, value: float) -> None:
        before = self._before.get((measure.name, label), 0.0)
        if value == before:
            return
        self._before[measure.name, label] = value
        if measure.kind == "count" and value < before:
            # A new runtime counts from zero.
            before = 0.0
        self._instruments.add(measure, label, value - before)


class _Peak:
    """The highest value of the last minute."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()

    def add(self, at: float, value: float) -> float:
        values = self._values
        while values and (at - values[0][0] > PEAK or values[0][1] <= value):
            values.popleft()
        # What is lower and older can never be the highest again.
        while values and values[-1][1] <= value:
            values.pop()
        values.append((at, value))
        return values[0][1]


def functions(configuration: Configuration) -> dict[str, str]:
    """The app of every function."""
    return {
        function["id"]: app.name
        for app in configuration.apps
        for function in json.loads(app.functions)
    }


def _outcome(outcome: Outcome) -> str:
    if outcome.status == 200:
        return "done"
    if outcome.status != 206:
        return "failed"
    return "step_failed" if outcome.step_failed else "continued"
