"""Libraries that are old, odd or broken, beside a worker that runs all the same."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import inngest
import opentelemetry.metrics
import opentelemetry.trace
import pytest
import sentry_sdk
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Counter, Gauge
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from starlette.applications import Starlette

from inngest_connect_asgi import libraries, prometheus
from inngest_connect_asgi.integrations import observers as integrations
from inngest_connect_asgi.integrations.surroundings import Surroundings
from inngest_connect_asgi.state import State
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker import sdk

from .. import harness
from ..simulation import configuration

Patch = pytest.MonkeyPatch


class Broken(Exception):
    pass


def fail(*args: Any, **options: Any) -> Any:
    raise Broken("of its own")


class AllFail:
    """Whatever is called fails."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return fail


class NoHash:
    """Stands for another object, but has no hash, and can't be compared."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, real: object) -> None:
        self._real = real

    def __eq__(self, other: object) -> bool:
        raise Broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture(autouse=True)
def alone(monkeypatch: Patch) -> None:
    monkeypatch.setattr(integrations, "OBSERVERS", [])
    monkeypatch.setattr(prometheus, "_registered", [])
    monkeypatch.delitem(sys.modules, "django.apps", raising=False)


def trace_with(monkeypatch: Patch, provider: object) -> None:
    monkeypatch.setattr(opentelemetry.trace, "get_tracer_provider", lambda: provider)


def measure_with(monkeypatch: Patch, provider: object) -> None:
    monkeypatch.setattr(opentelemetry.metrics, "get_meter_provider", lambda: provider)


# What is wrong with them: each returns what the log says, in one line for each


def no_hash(patch: Patch) -> list[str]:
    trace_with(patch, NoHash(TracerProvider()))
    measure_with(patch, NoHash(MeterProvider()))
    return []


def tracer_provider_fails(patch: Patch) -> list[str]:
    trace_with(patch, AllFail())
    return ["No traces by opentelemetry-api"]


def get_tracer_provider_fails(patch: Patch) -> list[str]:
    patch.setattr(opentelemetry.trace, "get_tracer_provider", fail)
    return ["No traces by opentelemetry-api"]


def tracer_fails(patch: Patch) -> list[str]:
    trace_with(patch, types.SimpleNamespace(get_tracer=lambda *args: AllFail()))
    return ["Traces by opentelemetry-api"]


def span_fails(patch: Patch) -> list[str]:
    @contextmanager
    def start(*args: Any, **options: Any) -> Iterator[AllFail]:
        try:
            yield AllFail()
        finally:
            fail()

    tracer = types.SimpleNamespace(start_as_current_span=start)
    trace_with(patch, types.SimpleNamespace(get_tracer=lambda *args: tracer))
    return ["Traces by opentelemetry-api"]


def span_processor_fails(when: str) -> Callable[[Patch], list[str]]:
    def install(patch: Patch) -> list[str]:
        processor = SpanProcessor()
        setattr(processor, when, fail)
        provider = TracerProvider()
        provider.add_span_processor(processor)
        trace_with(patch, provider)
        return ["Traces by opentelemetry-api"]

    install.__name__ = f"span_processor_fails_{when}"
    return install


def meter_provider_fails(patch: Patch) -> list[str]:
    measure_with(patch, AllFail())
    return ["No metrics by opentelemetry-api"]


def get_meter_provider_fails(patch: Patch) -> list[str]:
    patch.setattr(opentelemetry.metrics, "get_meter_provider", fail)
    return ["No metrics by opentelemetry-api"]


def meter_fails(patch: Patch) -> list[str]:
    measure_with(patch, types.SimpleNamespace(get_meter=lambda *args: AllFail()))
    return ["No metrics by opentelemetry-api"]


def instruments_fail(patch: Patch) -> list[str]:
    class Meter:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **options: AllFail()

    measure_with(patch, types.SimpleNamespace(get_meter=lambda *args: Meter()))
    return ["No metrics by opentelemetry-api"]


def sentry_fails(name: str) -> Callable[[Patch], list[str]]:
    def install(patch: Patch) -> list[str]:
        patch.setattr(sentry_sdk, "is_initialized", lambda: True)
        patch.setattr(sentry_sdk, name, fail)
        how = "No error" if name == "is_initialized" else "Error"
        return [f"{how} reports by sentry-sdk"]

    install.__name__ = f"sentry_fails_in_{name}"
    return install


def sentry_scope_fails(patch: Patch) -> list[str]:
    @contextmanager
    def scope() -> Iterator[AllFail]:
        yield AllFail()

    patch.setattr(sentry_sdk, "is_initialized", lambda: True)
    patch.setattr(sentry_sdk, "isolation_scope", scope)
    return ["Error reports by sentry-sdk"]


def sentry_is_old(patch: Patch) -> list[str]:
    hub = types.SimpleNamespace(current=types.SimpleNamespace(client=object()))
    patch.delattr(sentry_sdk, "isolation_scope")
    patch.setattr(sentry_sdk, "Hub", hub)
    return ["No error reports by sentry-sdk"]


def module_is(name: str, value: object) -> Callable[[Patch], list[str]]:
    ours, said = {
        "opentelemetry.trace": ("opentelemetry", "No traces by opentelemetry-api"),
        "opentelemetry.metrics": (
            "opentelemetry_metrics",
            "No metrics by opentelemetry-api",
        ),
        "sentry_sdk": ("sentry", "No error reports by sentry-sdk"),
        "django.apps": ("", "No clean connections by django"),
    }[name]

    def install(patch: Patch) -> list[str]:
        patch.setitem(sys.modules, name, value)
        parent, _, child = name.rpartition(".")
        if parent == "opentelemetry":
            patch.setattr(sys.modules[parent], child, value)
        # As if it were imported for the first time.
        where = "inngest_connect_asgi.integrations"
        patch.delitem(sys.modules, f"{where}.{ours}", raising=False)
        patch.delattr(sys.modules[where], ours or "absent", raising=False)
        return [said]

    install.__name__ = f"{name}_is_{value}"
    return install


def observer_fails(name: str) -> Callable[[Patch], list[str]]:
    def install(patch: Patch) -> list[str]:
        observer = types.SimpleNamespace(
            observe=lambda message: None, close=lambda: None
        )
        setattr(observer, name, fail)
        patch.setattr(integrations, "OBSERVERS", [lambda configuration: observer])
        return [f"No metrics by {__name__} unknown"]

    install.__name__ = f"observer_fails_in_{name}"
    return install


def observer_exits(patch: Patch) -> list[str]:
    patch.setattr(integrations, "OBSERVERS", [lambda configuration: sys.exit(3)])
    return [f"No metrics by {__name__} unknown"]


def prometheus_name_is_taken(patch: Patch) -> list[str]:
    registry = CollectorRegistry()
    Counter("inngest_connect_malformed_messages", "the app's", registry=registry)
    before = list(registry.collect())
    prometheus.register(registry)
    prometheus.register(registry)
    assert len(list(registry.collect())) == len(before) == 1
    return ["No metrics by prometheus-client"]


EVERYTHING = [
    no_hash,
    tracer_provider_fails,
    get_tracer_provider_fails,
    tracer_fails,
    span_fails,
    span_processor_fails("on_start"),
    span_processor_fails("on_end"),
    meter_provider_fails,
    get_meter_provider_fails,
    meter_fails,
    instruments_fail,
    sentry_fails("is_initialized"),
    sentry_fails("isolation_scope"),
    sentry_fails("capture_exception"),
    sentry_scope_fails,
    sentry_is_old,
    *(
        module_is(name, value)
        for name in (
            "opentelemetry.trace",
            "opentelemetry.metrics",
            "sentry_sdk",
            "django.apps",
        )
        for value in (None, types.ModuleType("half"))
    ),
    observer_fails("observe"),
    observer_fails("close"),
    observer_exits,
    prometheus_name_is_taken,
]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage().partition("\n")[0]
        for record in caplog.records
        if record.name == "inngest_connect_asgi" and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize("install", EVERYTHING, ids=lambda install: install.__name__)
def test_the_worker_runs_beside_it(
    gateway: LocalGateway,
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
    install: Callable[[Patch], list[str]],
) -> None:
    """Each function does its step once, and one that fails has its own error."""
    expected = install(monkeypatch)
    charged: list[str] = []

    async def pay(ctx: inngest.Context) -> str:
        async def charge() -> str:
            charged.append("async")
            return "charged"

        return await ctx.step.run("charge", charge)

    def sell(ctx: inngest.ContextSync) -> str:
        def charge() -> str:
            charged.append("sync")
            return "charged"

        return ctx.step.run("charge", charge)

    async def refuse(ctx: inngest.Context) -> str:
        raise inngest.NonRetriableError("refused")

    def deny(ctx: inngest.ContextSync) -> str:
        raise inngest.NonRetriableError("denied")

    async def main() -> None:
        async with harness.worker(gateway, pay, sell, refuse, deny):
            event_id = await harness.off_loop(gateway.send, "test")
            runs = {}
            for name in ("pay", "sell", "refuse", "deny"):
                slug = f"app-{name}"
                wait = partial(gateway.wait_for_run, event_id, function=slug)
                runs[name] = await harness.off_loop(wait)
        for name in ("pay", "sell"):
            run = runs[name]
            assert (run.output, run.attempts) == ("charged", 1), run.error
        for name, message in (("refuse", "refused"), ("deny", "denied")):
            run = runs[name]
            assert run.status == "failed"
            assert isinstance(run.error, dict)
            assert (run.error["message"], run.attempts) == (message, 1)

    harness.run(main)
    assert sorted(charged) == ["async", "sync"]
    lines = said(caplog)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    assert len(gateway.connections) == 1


def test_spans_go_on_where_the_provider_is_replaced(
    gateway: LocalGateway, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    exported = InMemorySpanExporter()

    def make_providers() -> None:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exported))
        trace_with(monkeypatch, provider)
        measure_with(monkeypatch, MeterProvider([InMemoryMetricReader()]))

    async def pay(ctx: inngest.Context) -> str:
        return "paid"

    async def main() -> None:
        make_providers()
        async with harness.worker(gateway, pay):
            for _ in range(2):
                run = await harness.off_loop(gateway.run, "test")
                assert run.output == "paid"
                make_providers()

    harness.run(main)
    names = [span.name for span in exported.get_finished_spans()]
    assert names == ["process app-pay"] * 2
    assert said(caplog) == []


class Recorder(Transport):
    events: list[Any]

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events.append(envelope.get_event())


@pytest.fixture
def sentry() -> Iterator[Callable[..., list[Any]]]:
    """Initialises Sentry, and returns the list of what it sends."""

    def init(**options: Any) -> list[Any]:
        Recorder.events = []
        sentry_sdk.init(
            "https://key@sentry.test/1",
            transport=Recorder,
            default_integrations=False,
            auto_enabling_integrations=False,
            **options,
        )
        return Recorder.events

    yield init
    sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.parametrize("how", ["before_send", "tags", "processor"])
def test_a_function_reports_to_a_broken_sentry(
    gateway: LocalGateway,
    caplog: pytest.LogCaptureFixture,
    sentry: Callable[..., list[Any]],
    how: str,
) -> None:
    """Also what it reports itself, while it runs, goes through us."""
    events = sentry(**({"before_send": fail} if how == "before_send" else {}))

    def processor(event: Any, hint: Any) -> Any:
        if how == "processor":
            fail()
        # An older form, which is a list of pairs.
        event["tags"] = []
        return event

    async def pay(ctx: inngest.Context) -> str:
        sentry_sdk.get_current_scope().add_event_processor(processor)
        if how != "processor":
            sentry_sdk.capture_exception(Broken("reported"))
        raise inngest.NonRetriableError("refused")

    async def main() -> None:
        async with harness.worker(gateway, pay):
            run = await harness.off_loop(gateway.run, "test")
            assert isinstance(run.error, dict)
            assert (run.error["message"], run.attempts) == ("refused", 1)

    harness.run(main)
    if how == "tags":
        types_sent = [e["exception"]["values"][-1]["type"] for e in events]
        assert types_sent == ["Broken", "NonRetriableError"]
        assert said(caplog) == []
    assert len(said(caplog)) <= 1


# Observers


def test_one_observer_that_fails_leaves_the_others(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []
    closed: list[str] = []

    def make(name: str, observe: Callable[[object], object]) -> Any:
        return types.SimpleNamespace(observe=observe, close=lambda: closed.append(name))

    makers = [
        lambda configuration: make("first", told.append),
        integrations.Maker("pytest", lambda configuration: make("broken", fail)),
        lambda configuration: make("last", told.append),
        fail,
    ]
    monkeypatch.setattr(integrations, "OBSERVERS", makers)
    observers = integrations.observers(configuration())
    assert len(observers) == 3
    for message in ("one", "two"):
        for observer in observers:
            observer.observe(message)
    assert told == ["one", "one", "two", "two"]
    # So that it does not show for ever what was so when it failed.
    assert closed == ["broken"]
    for observer in observers:
        observer.close()
        observer.close()
    assert closed == ["broken", "first", "last"]
    lines = said(caplog)
    assert [line.partition(" unknown")[0] for line in lines[:1]] == [
        f"No metrics by {__name__}"
    ]
    assert lines[1].startswith(f"No metrics by pytest {pytest.__version__}; all else")
    assert len(lines) == 2


def test_an_older_api_gets_durations_without_buckets(monkeypatch: Patch) -> None:
    reader = InMemoryMetricReader()
    real = MeterProvider([reader]).get_meter("real")

    class OldMeter:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def create_histogram(self, name: str, unit: str, description: str) -> Any:
            return real.create_histogram(name, unit, description)

    provider = types.SimpleNamespace(get_meter=lambda *args: OldMeter())
    measure_with(monkeypatch, provider)
    (observer,) = integrations.observers(configuration())
    observer.observe(State("ready", leases_held=1))
    data = reader.get_metrics_data()
    assert data is not None
    assert "inngest.connect.leases_held" in data.to_json()


def test_a_reader_that_fails_leaves_the_others(monkeypatch: Patch) -> None:
    class BrokenReader(InMemoryMetricReader):
        def _receive_metrics(self, *args: Any, **options: Any) -> None:
            fail()

    broken, sound = BrokenReader(), InMemoryMetricReader()
    measure_with(monkeypatch, MeterProvider([broken, sound]))
    (observer,) = integrations.observers(configuration())
    for held in (1, 2):
        observer.observe(State("ready", leases_held=held, round_trip=0.5))
        with pytest.raises(Broken):
            broken.collect()
    data = sound.get_metrics_data()
    assert data is not None
    assert "inngest.connect.heartbeat_round_trip" in data.to_json()


def test_an_older_prometheus_shows_the_worst_of_all_processes(
    monkeypatch: Patch,
) -> None:
    made: list[str] = []

    def old_gauge(*args: Any, **options: Any) -> Gauge:
        mode = options["multiprocess_mode"]
        if mode == "livemax":
            raise ValueError(f"Invalid multiprocess mode: {mode}")
        made.append(mode)
        return Gauge(*args, **options)

    monkeypatch.setattr(prometheus, "Gauge", old_gauge)
    metrics = prometheus.ConnectMetrics()
    metrics.begin(configuration()).observe(State("ready", round_trip=0.5))
    name = "inngest_connect_heartbeat_round_trip_seconds"
    assert metrics.registry.get_sample_value(name) == 0.5
    assert {"max", "livesum"} == set(made)


def test_two_workers_of_a_process_are_measured_together() -> None:
    registry = CollectorRegistry()
    prometheus.register(registry)
    first, second = (integrations.observers(configuration())[0] for _ in range(2))
    first.observe(State("ready", leases_held=1))
    second.observe(State("ready", leases_held=2))
    assert registry.get_sample_value("inngest_connect_leases_held") == 3
    first.close()
    assert registry.get_sample_value("inngest_connect_leases_held") == 2


def test_django_that_is_not_set_up_surrounds_nothing(monkeypatch: Patch) -> None:
    apps = types.SimpleNamespace(apps=types.SimpleNamespace(ready=False))
    monkeypatch.setitem(sys.modules, "django.apps", apps)
    assert integrations.surroundings() == Surroundings()


# Starlette, which others wrap


def test_a_starlette_that_is_wrapped_is_served(monkeypatch: Patch) -> None:
    """As sentry-sdk 2.0.0 leaves it: it may be called with anything."""
    call = Starlette.__call__

    def anything(*args: Any) -> Any:
        return call(*args) if len(args) == 4 else object()

    monkeypatch.setattr(Starlette, "__call__", anything)
    with LocalGateway() as gateway:
        url = f"{gateway.origin}/v0/connect/start"
        assert httpx.post(url, timeout=20).status_code < 500


def test_a_module_made_by_hand_is_not_installed(monkeypatch: Patch) -> None:
    # Such a one has no spec, and importlib raises ValueError.
    monkeypatch.setitem(sys.modules, "prometheus_client", types.ModuleType("by_hand"))
    assert not libraries.is_installed("prometheus_client")
    assert libraries.is_installed("uvicorn")


def test_views_of_any_kind_are_looked_at() -> None:
    def outer() -> Callable[[], object]:
        def view() -> object:
            return late

        return view
        late: object = None

    def wrapped() -> None: ...

    wrapped.__wrapped__ = wrapped  # type: ignore[attr-defined]
    for view in (outer(), wrapped, object(), partial(outer)):
        assert sdk.served_function_ids(view) == set()  # type: ignore[arg-type]
