"""An app that is observed in every way there is, to be run by a real server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys

import inngest
import sentry_sdk
from fastapi import FastAPI, Request, Response
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.context import RunContextFilter
from inngest_connect_asgi.prometheus import register, scrape

SENTRY = os.environ.get("TEST_SENTRY")


class UserError(Exception):
    pass


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        names = ("name", "run_id", "function_id", "request_id", "attempt")
        fields = {name: getattr(record, name) for name in names}
        return "log: " + json.dumps({**fields, "message": record.getMessage()})


class Printer(Transport):
    """Prints what Sentry would be sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            # In one write: others print as well.
            sys.stdout.write(f"sentry: {json.dumps(event, default=str)}\n")


handler = logging.StreamHandler(sys.stdout)
handler.addFilter(RunContextFilter())
handler.setFormatter(JSONFormatter())
logging.basicConfig(level=logging.INFO, handlers=[handler])
logger = logging.getLogger("shop")

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))

middleware: list[type[inngest.MiddlewareSync]] = []
if SENTRY:
    sentry_sdk.init("https://key@sentry.test/1", transport=Printer)
if SENTRY == "middleware":
    from inngest.experimental.sentry_middleware import SentryMiddleware

    middleware.append(SentryMiddleware)

register()
client = inngest.Inngest(app_id="shop", logger=None, middleware=[*middleware])


def on(event: str) -> inngest.TriggerEvent:
    return inngest.TriggerEvent(event=event)


@client.create_function(fn_id="async", trigger=on("async"), retries=0)
async def an_async_function(ctx: inngest.Context) -> str:
    with tracer.start_as_current_span("of the user's"):
        logger.info("in an async function")

    async def charge() -> str:
        logger.info("in a step")
        return "charged"

    return await ctx.step.run("charge", charge)


@client.create_function(fn_id="sync", trigger=on("sync"), retries=0)
def a_sync_function(ctx: inngest.ContextSync) -> None:
    with tracer.start_as_current_span("of the user's"):
        logger.info("in a sync function")


@client.create_function(fn_id="fails", trigger=on("fails"), retries=0)
async def fails(ctx: inngest.Context) -> None:
    raise UserError("async")


@client.create_function(fn_id="fails-sync", trigger=on("fails-sync"), retries=0)
def fails_sync(ctx: inngest.ContextSync) -> None:
    raise UserError("sync")


@client.create_function(
    fn_id="fails-in-step",
    trigger=on("fails-in-step"),
    retries=0,
)
async def fails_in_step(ctx: inngest.Context) -> None:
    async def charge() -> None:
        raise UserError("step")

    with contextlib.suppress(inngest.StepError):
        await ctx.step.run("charge", charge)


@client.create_function(fn_id="exits", trigger=on("exits"), retries=0)
def exits(ctx: inngest.ContextSync) -> None:
    sys.exit("exit")


@client.create_function(fn_id="reports", trigger=on("reports"), retries=0)
def reports(ctx: inngest.ContextSync) -> None:
    try:
        raise UserError("reported")
    except UserError:
        logger.exception("the user's own report")
        raise


app = FastAPI()
app.add_middleware(
    InngestConnectMiddleware,
    client=client,
    functions=[
        an_async_function,
        a_sync_function,
        fails,
        fails_sync,
        fails_in_step,
        exits,
        reports,
    ],
    **json.loads(os.environ.get("TEST_OPTIONS", "{}")),
)


@app.get("/metrics")
async def prometheus(request: Request) -> Response:
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    body, media_type = scrape(registry, request.headers.get("accept", ""))
    return Response(body, media_type=media_type)


@app.get("/otel/spans")
async def otel_spans() -> Response:
    body = ",".join(span.to_json() for span in spans.get_finished_spans())
    return Response(f"[{body}]", media_type="application/json")


@app.get("/otel/metrics")
async def otel_metrics() -> Response:
    data = reader.get_metrics_data()
    body = data.to_json() if data is not None else "{}"
    return Response(body, media_type="application/json")
