"""OpenTelemetry: a span for every run, and the figures of every worker.

By the semantic conventions for messaging: Inngest is the messaging system, a
function is the destination, and a request to run it the message.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .context import Run
from .measures import BUCKETS, MEASURES, Feed, Measure
from .messages import Configuration
from .surroundings import Surroundings

__all__ = ["observers", "surroundings"]

NAME = "inngest_connect_asgi"
VERSION = importlib.metadata.version("inngest-connect-asgi")
SYSTEM = {"messaging.system": "inngest", "messaging.operation.name": "process"}

_propagator = TraceContextTextMapPropagator()


def surroundings() -> list[Surroundings]:
    if not _is_set(trace.get_tracer_provider()):
        return []
    tracer = trace.get_tracer(NAME, VERSION)

    @contextmanager
    def sync_run(run: Run) -> Iterator[None]:
        lease = run.request.lease
        with tracer.start_as_current_span(
            f"process {lease.function_slug}",
            context=_parent(lease.user_trace_ctx),
            kind=SpanKind.CONSUMER,
            attributes={
                **SYSTEM,
                "messaging.operation.type": "process",
                "messaging.destination.name": lease.function_slug,
                "messaging.message.id": lease.request_id,
                "messaging.message.conversation_id": lease.run_id,
                "messaging.message.body.size": len(run.request.payload),
                "messaging.consumer.group.name": run.request.app_name,
            },
        ) as span:
            yield
            if run.attempt is not None:
                span.set_attribute("inngest.attempt", run.attempt)
            if run.outcome is not None:
                span.set_attribute("inngest.status", run.outcome.status)
            if run.error is not None:
                span.record_exception(run.error)
                span.set_attribute("error.type", type(run.error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, str(run.error)))
            elif run.outcome is not None and run.outcome.status == 500:
                span.set_attribute("error.type", "500")
                span.set_status(Status(StatusCode.ERROR))

    @asynccontextmanager
    async def async_run(run: Run) -> AsyncIterator[None]:
        with sync_run(run):
            yield

    return [Surroundings(sync_run, async_run)]


def observers() -> list[Callable[[Configuration], Feed]]:
    if not _is_set(metrics.get_meter_provider()):
        return []
    return [lambda configuration: Feed(_instruments(), configuration)]


def _is_set(provider: object) -> bool:
    """Whether it is more than what the API has until somebody sets one."""
    return not type(provider).__module__.startswith(
        ("opentelemetry.trace", "opentelemetry.metrics")
    )


def _parent(trace_context: bytes) -> Context:
    """The span that the server says this request belongs to, if any."""
    try:
        carrier = json.loads(trace_context)
    except ValueError:
        carrier = None
    # Not beneath whatever span is current where the worker was started.
    if not isinstance(carrier, dict):
        return Context()
    carrier = {name: value for name, value in carrier.items() if isinstance(value, str)}
    return _propagator.extract(carrier, Context())


class _Instruments:
    def __init__(self) -> None:
        meter = metrics.get_meter(NAME, VERSION)
        self._most: dict[str, dict[object, float]] = {}
        self._changes: dict[str, metrics.Counter | metrics.UpDownCounter] = {}
        for measure in MEASURES:
            name = f"inngest.connect.{measure.name}"
            unit = "s" if measure.seconds else "1"
            if measure.kind == "count":
                self._changes[measure.name] = meter.create_counter(
                    name, unit, measure.help
                )
            elif measure.kind == "sum":
                self._changes[measure.name] = meter.create_up_down_counter(
                    name, unit, measure.help
                )
            else:
                self._most[measure.name] = {}
                callback = self._observe(measure)
                meter.create_observable_gauge(name, [callback], unit, measure.help)
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "How long requests took",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )

    def _observe(
        self, measure: Measure
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            values = list(self._most[measure.name].values())
            return [Observation(max(values))] if values else []

        return observe

    def add(self, measure: Measure, label: str, amount: float) -> None:
        attributes = {measure.label: label} if measure.label else {}
        self._changes[measure.name].add(amount, attributes)

    def set(self, measure: Measure, worker: object, value: float | None) -> None:
        if value is None:
            self._most[measure.name].pop(worker, None)
        else:
            self._most[measure.name][worker] = value

    def finished(
        self, app: str, function: str, outcome: str, seconds: float | None
    ) -> None:
        if seconds is not None:
            attributes = {
                **SYSTEM,
                "messaging.destination.name": function,
                "messaging.consumer.group.name": app,
                "inngest.outcome": outcome,
            }
            self._duration.record(seconds, attributes)


_made: dict[metrics.MeterProvider, _Instruments] = {}


def _instruments() -> _Instruments:
    """One set for every provider: a process has one, but a test may have more."""
    provider = metrics.get_meter_provider()
    if provider not in _made:
        _made[provider] = _Instruments()
    return _made[provider]
