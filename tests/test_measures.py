"""What becomes of the messages between app and runtime, for whoever measures."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import inngest
import pytest
from prometheus_client import CollectorRegistry

from inngest_connect_asgi import prometheus
from inngest_connect_asgi.configuration import App
from inngest_connect_asgi.context import CURRENT, Run, RunContextFilter, run_context
from inngest_connect_asgi.integrations import observers as integrations
from inngest_connect_asgi.integrations.measures import Feed, Measure
from inngest_connect_asgi.integrations.surroundings import Layer, Surroundings, nested
from inngest_connect_asgi.libraries import Library
from inngest_connect_asgi.messages import Accepted, Outcome, Request, Result
from inngest_connect_asgi.state import State
from inngest_connect_asgi.testing import LocalGateway

from . import harness
from .simulation import configuration, lease

APPS = (App("app", None, b'[{"id": "app-f"}, {"id": "app-g"}]'),)
REQUEST = Request(lease("r"), "app", "job", b"")


class Notebook:
    def __init__(self) -> None:
        self.amounts: Counter[tuple[str, str]] = Counter()
        self.values: dict[str, float | None] = {}
        self.requests: list[tuple[str, str, str, bool]] = []

    def add(self, measure: Measure, label: str, amount: float) -> None:
        self.amounts[measure.name, label] += amount  # type: ignore[assignment]

    def set(self, measure: Measure, worker: object, value: float | None) -> None:
        self.values[measure.name] = value

    def finished(
        self, app: str, function: str, outcome: str, seconds: float | None
    ) -> None:
        self.requests.append((app, function, outcome, seconds is not None))


def make_feed() -> tuple[Feed, Notebook]:
    notebook = Notebook()
    return Feed(notebook, configuration(apps=APPS)), notebook


def test_a_runtime_that_starts_again_takes_nothing_off_the_counts() -> None:
    feed, notebook = make_feed()
    by = {"connection_lost": 2}
    feed.observe(State("ready", reconnects_by=by, leases_lost=3, leases_held=5))
    feed.observe(State("ready", reconnects_by=by, leases_lost=3, leases_held=5))
    feed.observe(State("connecting"))
    by = {"connection_lost": 1}
    feed.observe(State("ready", reconnects_by=by, leases_lost=1, leases_held=1))
    assert notebook.amounts["reconnects", "connection_lost"] == 3
    assert notebook.amounts["leases_lost", ""] == 4
    assert notebook.amounts["leases_held", ""] == 1
    assert notebook.amounts["connection_state", "ready"] == 1
    assert notebook.amounts["connection_state", "connecting"] == 0


def test_a_worker_that_ends_is_in_no_sum() -> None:
    feed, notebook = make_feed()
    feed.observe(State("ready", leases_held=5, leases_lost=3, round_trip=0.1))
    feed.close()
    assert notebook.amounts["leases_held", ""] == 0
    assert notebook.amounts["connection_state", "ready"] == 0
    assert notebook.amounts["leases_lost", ""] == 3
    assert notebook.values["heartbeat_round_trip"] is None


def test_a_lag_is_shown_for_a_minute() -> None:
    notebook = Notebook()
    clock = iter((0, 10, 20, 69, 71, 130))
    feed = Feed(notebook, configuration(), clock=lambda: next(clock))
    shown = []
    for lag in (0.1, 4.0, 0.2, 0.3, 0.1, 0.0):
        feed.observe(State("ready", runtime_lag=lag))
        shown.append(notebook.values["runtime_loop_lag"])
    assert shown == [0.1, 4.0, 4.0, 4.0, 0.3, 0.1]


def test_a_loop_that_has_not_answered_yet_is_late() -> None:
    feed, notebook = make_feed()
    feed.observe(State("ready", at=107.0, app_waiting_since=100.0, app_lag=0.1))
    assert notebook.values["app_loop_lag"] == 7.0


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome(200, b""), "done"),
        (Outcome(206, b""), "continued"),
        (Outcome(206, b"", step_failed=True), "step_failed"),
        (Outcome(500, b""), "failed"),
    ],
)
def test_a_request_is_counted_by_its_outcome(outcome: Outcome, word: str) -> None:
    feed, notebook = make_feed()
    feed.observe(Accepted(REQUEST.lease.delivery))
    feed.observe(Result(REQUEST.lease, outcome))
    # Taken over from a runtime that crashed: nobody knows when it began.
    feed.observe(Result(REQUEST.lease, outcome))
    assert notebook.requests == [
        ("app", "app-f", word, True),
        ("app", "app-f", word, False),
    ]


def test_the_network_cannot_make_up_labels() -> None:
    notebook = Notebook()
    feed = Feed(notebook, configuration())
    feed.observe(Result(REQUEST.lease, Outcome(200, b"")))
    assert notebook.requests == [("unknown", "unknown", "done", False)]


def test_several_workers_make_one_figure() -> None:
    metrics = prometheus.ConnectMetrics()
    feeds = [metrics.begin(configuration(apps=APPS)) for _ in range(2)]
    feeds[0].observe(State("ready", leases_held=1, round_trip=0.3))
    feeds[1].observe(State("ready", leases_held=2, round_trip=0.2))

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"inngest_connect_{name}", labels)

    assert value("connection_state", state="ready") == 2
    assert value("leases_held") == 3
    assert value("heartbeat_round_trip_seconds") == 0.3
    feeds[0].close()
    assert value("connection_state", state="ready") == 1
    assert value("leases_held") == 2
    assert value("heartbeat_round_trip_seconds") == 0.2


def test_every_series_is_there_from_the_start() -> None:
    metrics = prometheus.ConnectMetrics()
    metrics.begin(configuration(apps=APPS))
    labels = {"app": "app", "function": "app-g", "outcome": "failed"}
    name = "inngest_connect_requests_total"
    assert metrics.registry.get_sample_value(name, labels) == 0
    name = "inngest_connect_reconnects_total"
    labels = {"reason": "heartbeat_timeout"}
    assert metrics.registry.get_sample_value(name, labels) == 0


def test_registering_twice_is_registering_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(integrations, "OBSERVERS", [])
    registry = CollectorRegistry()
    prometheus.register(registry)
    prometheus.register(registry)
    assert len(integrations.OBSERVERS) == 1


def test_nothing_surrounds_a_run_that_nobody_traces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenTelemetry and Sentry are imported here, but not set up."""
    for name in ("opentelemetry.metrics", "opentelemetry.trace", "sentry_sdk"):
        importlib.import_module(name)
    monkeypatch.delitem(sys.modules, "django.apps", raising=False)
    monkeypatch.setattr(integrations, "OBSERVERS", [])
    assert integrations.observers(configuration()) == ()
    assert integrations.surroundings() == Surroundings()


@pytest.mark.parametrize(
    "trace_context",
    [b"", b"[1]", b"\xff", b'{"traceparent": 1}', b'{"traceparent":"x"}'],
)
def test_a_trace_context_that_makes_no_sense_is_none(trace_context: bytes) -> None:
    from opentelemetry import trace

    from inngest_connect_asgi.integrations.opentelemetry import _parent

    # Nor is it what happens to be traced where the worker was started.
    elsewhere = trace.SpanContext(1, 1, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(elsewhere)):
        context = _parent(trace_context)
    assert not trace.get_current_span(context).get_span_context().is_valid


def test_an_observer_that_fails_costs_no_run(
    gateway: LocalGateway, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def observe(self, message: object) -> None:
            raise OSError("the disk is full")

        def close(self) -> None:
            raise AssertionError

    monkeypatch.setattr(integrations, "OBSERVERS", [lambda configuration: Broken()])

    async def handler(ctx: inngest.Context) -> str:
        return "done"

    async def main() -> None:
        async with harness.worker(gateway, handler):
            event_id = await harness.off_loop(gateway.send, "test")
            run = await harness.off_loop(gateway.wait_for_run, event_id)
            assert run.output == "done"

    harness.run(main)
    assert len(gateway.connections) == 1


# What surrounds a run


def layer(name: str, log: list[str]) -> Layer:
    @contextmanager
    def sync_run(run: Run) -> Iterator[None]:
        log.append(f"{name} enters {run.request.lease.request_id}")
        yield
        log.append(f"{name} leaves")

    @asynccontextmanager
    async def async_run(run: Run) -> AsyncIterator[None]:
        with sync_run(run):
            yield

    return Layer(Library(name, "nothing"), sync_run, async_run)


def test_surroundings_are_nested() -> None:
    log: list[str] = []
    both = nested([layer("outer", log), layer("inner", log)])
    expected = ["outer enters r", "inner enters r", "inner leaves", "outer leaves"]
    with both.sync_run(Run(REQUEST)):
        assert len(log) == 2
    assert log == expected
    log.clear()

    async def main() -> None:
        async with both.async_run(Run(REQUEST)):
            assert len(log) == 2

    asyncio.run(main())
    assert log == expected


# The context of a run


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run(REQUEST, attempt=2)
    token = CURRENT.set(run)
    yield run
    CURRENT.reset(token)


def make_record(**extra: Any) -> logging.LogRecord:
    record = logging.makeLogRecord({"msg": "hello", **extra})
    assert RunContextFilter().filter(record)
    return record


@pytest.mark.usefixtures("run")
def test_the_context_of_a_run() -> None:
    assert run_context() == {
        "run_id": "run",
        "function_id": "app-f",
        "request_id": "r",
        "attempt": 2,
    }
    assert vars(make_record()).items() >= run_context().items()
    other: list[dict[str, object]] = []
    thread = threading.Thread(target=lambda: other.append(run_context()))
    thread.start()
    thread.join()
    assert other == [{}]
    assert asyncio.run(asyncio.to_thread(run_context)) == run_context()


@pytest.mark.usefixtures("run")
def test_what_a_record_says_of_itself_stays() -> None:
    assert make_record(run_id="other").__dict__["run_id"] == "other"


def test_outside_of_a_run_there_is_no_context() -> None:
    assert run_context() == {}
    assert make_record().__dict__["run_id"] is None
