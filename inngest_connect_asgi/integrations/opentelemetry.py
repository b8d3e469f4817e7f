"""OpenTelemetry: a span for every run.

By the semantic conventions for messaging: Inngest is the messaging system, a
function is the destination, and a request to run it the message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..context import Run
from ..libraries import Library, version
from .surroundings import Layer

__all__ = ["NAME", "SYSTEM", "is_set", "layers"]

NAME = "inngest_connect_asgi"
SYSTEM = {"messaging.system": "inngest", "messaging.operation.name": "process"}

_propagator = TraceContextTextMapPropagator()


def layers(library: Library) -> list[Layer]:
    """A span, if there is anybody to give it to."""
    provider = trace.get_tracer_provider()
    if not is_set(provider):
        return []
    tracer = provider.get_tracer(NAME, version("inngest-connect-asgi"))

    @contextmanager
    def span(run: Run) -> Iterator[None]:
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
        ) as started:
            yield
            _finish(started, run)

    return [Layer(library, span)]


def is_set(provider: object) -> bool:
    """Whether it is more than what the API has until somebody sets one."""
    return not type(provider).__module__.startswith(
        ("opentelemetry.trace", "opentelemetry.metrics")
    )


def _finish(span: Span, run: Run) -> None:
    if run.attempt is not None:
        span.set_attribute("inngest.attempt", run.attempt)
    if run.outcome is not None:
        span.set_attribute("inngest.status", run.outcome.status)
    if run.error is not None:
        span.set_attribute("error.type", type(run.error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, _text(run.error)))
        span.record_exception(run.error)
    elif run.outcome is not None and run.outcome.status == 500:
        span.set_attribute("error.type", "500")
        span.set_status(Status(StatusCode.ERROR))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__qualname__


def _parent(trace_context: bytes) -> Context:
    """The span that the server says this request belongs to, if any."""
    try:
        carrier = json.loads(trace_context)
    except (ValueError, RecursionError):
        carrier = None
    # Not beneath whatever span is current where the worker was started.
    if not isinstance(carrier, dict):
        return Context()
    carrier = {name: value for name, value in carrier.items() if isinstance(value, str)}
    return _propagator.extract(carrier, Context())
