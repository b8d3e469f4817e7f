"""A worker beside one library, set up as its documentation says.

    python scripts/surroundings_app.py LIBRARY

Prints what was seen, as JSON. A library that is a launcher has started this, and then
the runtime lives in a process of its own.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import inngest

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.testing import LocalGateway

Seen = Callable[[], "dict[str, bool]"]
MARK = "a function's own error"
inside: list[Callable[[], None]] = []
"""Called by each function."""


def opentelemetry_sdk() -> Seen:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    try:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    except ImportError:
        from opentelemetry.sdk.trace.export import (
            SimpleExportSpanProcessor as SimpleSpanProcessor,
        )

    names: set[str] = set()

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> Any:
            names.update(span.name for span in spans)

        def shutdown(self) -> None:
            pass

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    trace.set_tracer_provider(provider)
    try:
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    except ImportError:
        # It has none yet.
        def read() -> str:
            return ""
    else:
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))

        def read() -> str:
            return str(reader.get_metrics_data())

    def seen() -> dict[str, bool]:
        text = read()
        return {
            "traces": {"process shop-async", "process shop-sync"} <= names,
            "metrics": "inngest.connect.connection_state" in text
            and "messaging.process.duration" in text,
        }

    return seen


def sentry() -> Seen:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    sent: list[str] = []

    class Printer(Transport):
        def capture_event(self, event: Any) -> None:
            sent.append(str(event))

        def capture_envelope(self, envelope: Any) -> None:
            event = envelope.get_event()
            if event is not None:
                sent.append(str(event))

    sentry_sdk.init("https://key@sentry.test/1", transport=Printer)
    return lambda: {
        "error reports": any(MARK in each and "inngest.run_id" in each for each in sent)
    }


def prometheus_client() -> Seen:
    from prometheus_client import REGISTRY

    from inngest_connect_asgi.prometheus import register

    register()
    labels = {"app": "shop", "function": "shop-sync", "outcome": "done"}
    return lambda: {
        "metrics": REGISTRY.get_sample_value("inngest_connect_requests_total", labels)
        == 1
    }


def django() -> Seen:
    import django
    from django.conf import settings

    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(DATABASES={"default": database}, SECRET_KEY="a")
    django.setup()
    from django.db import connections

    used: list[Any] = []

    def use() -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            connection = connections["default"]
            connection.cursor().execute("select 1")
            # In memory it is never closed for its age.
            connection.close = lambda: used.append(connection)
            connection.errors_occurred = True
            connection.is_usable = lambda: False

    inside.append(use)
    return lambda: {"clean connections": len(used) >= 1}


def launcher(module: str) -> Callable[[], Seen]:
    return lambda: lambda: {"app": module in sys.modules}


def memory(pid: int) -> int:
    """Bytes that a process shares with no other."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        lines = [line.split() for line in file]
    return sum(int(line[1]) * 1024 for line in lines if line[0].startswith("Private_"))


def children() -> list[int]:
    found = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            found += [int(pid) for pid in file.read().split()]
    return found


LAUNCHERS = {
    "none": launcher("sys"),
    "ddtrace": launcher("ddtrace"),
    "opentelemetry-distro": launcher("opentelemetry"),
    "newrelic": launcher("newrelic"),
    "coverage": launcher("coverage"),
    "debugpy": launcher("debugpy"),
}
LIBRARIES = {
    **LAUNCHERS,
    "opentelemetry-sdk": opentelemetry_sdk,
    "sentry-sdk": sentry,
    "prometheus-client": prometheus_client,
    "django": django,
}


class Recorder(logging.Handler):
    """What the worker says of a library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def bare_app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError(scope["type"])


def main(library: str) -> None:
    recorder = Recorder()
    logging.getLogger("inngest_connect_asgi").addHandler(recorder)
    seen = LIBRARIES[library]()
    with LocalGateway() as gateway:
        os.environ.update(gateway.environ)
        client = inngest.Inngest(app_id="shop", logger=None)

        def function(name: str) -> Any:
            trigger = inngest.TriggerEvent(event=name)
            return client.create_function(fn_id=name, trigger=trigger, retries=0)

        @function("async")
        async def run_async(ctx: inngest.Context) -> str:
            for call in inside:
                call()
            return "done"

        @function("sync")
        def run_sync(ctx: inngest.ContextSync) -> str:
            for call in inside:
                call()
            return "done"

        @function("fails")
        def fails(ctx: inngest.ContextSync) -> None:
            raise ValueError(MARK)

        app = InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[run_async, run_sync, fails],
            isolation="process" if library in LAUNCHERS else "thread",
        )
        before = set(children())
        with gateway.serving(app):
            runs = [gateway.run(name) for name in ("async", "sync", "fails")]
            works = seen()
            child = sum(map(memory, set(children()) - before))
    outputs = [(run.status, run.output) for run in runs]
    worker = outputs[:2] == [("completed", "done")] * 2
    worker = worker and outputs[2][0] == "failed" and MARK in json.dumps(runs[2].error)
    version = "" if library == "none" else importlib.metadata.version(library)
    result = {"version": version, "worker": worker, "works": works, "child": child}
    print(json.dumps({**result, "log": recorder.lines}))


if __name__ == "__main__":
    main(sys.argv[1])
