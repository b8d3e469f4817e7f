"""Metrics, spans, logs and error reports of real processes."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway

from ..hosts import ISOLATIONS
from ..servers import Server, Uvicorn, free_port

APP = "tests.observed_app:app"
EVENTS = ("async", "sync", "fails", "fails-sync", "fails-in-step")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Observed:
    gateway: LocalGateway
    server: Server
    probe: str
    runs: dict[str, Any]
    """By the name of the function."""


@pytest.fixture(scope="module", params=ISOLATIONS)
def observed(request: pytest.FixtureRequest) -> Iterator[Observed]:
    """A worker that ran every function once."""
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(
            LocalGateway(heartbeat_interval="200ms", retry_delay=0.0)
        )
        # Not before the gateway has its ports.
        port = free_port()
        options = {"isolation": request.param, "probe": f"127.0.0.1:{port}"}
        server = stack.enter_context(Uvicorn(gateway.environ, app=APP, **options))
        gateway.wait_for_worker()
        gateway.drop()
        gateway.wait_until(lambda: len(gateway.connections) == 2)
        gateway.wait_for_worker()
        ids = {name: gateway.send(name, {}) for name in EVENTS}
        runs = {name: gateway.wait_for_run(ids[name]) for name in EVENTS}
        yield Observed(gateway, server, f"http://127.0.0.1:{port}", runs)


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def scrape_when(url: str, name: str, value: float, **labels: str) -> Samples:
    """Scrape until a figure is there: the runtime tells its state a bit later."""
    key = name, frozenset(labels.items())
    for _ in range(200):
        found = samples(httpx.get(url, timeout=20).text)
        if found.get(key) == value:
            return found
    raise TimeoutError(f"{name} is still {found.get(key)}")


@pytest.mark.parametrize("where", ["probe", "app"])
def test_a_scrape(observed: Observed, where: str) -> None:
    url = (observed.probe if where == "probe" else observed.server.url) + "/metrics"
    state = "inngest_connect_connection_state"
    found = scrape_when(url, "inngest_connect_requests_in_flight", 0)

    def value(name: str, **labels: str) -> float:
        return found[f"inngest_connect_{name}", frozenset(labels.items())]

    assert found[state, frozenset({("state", "ready")})] == 1
    assert sum(n for (name, _), n in found.items() if name == state) == 1
    assert value("reconnects_total", reason="connection_lost") == 1
    assert value("reconnects_total", reason="gateway_closing") == 0
    assert value("connection_failures_total", reason="api_unreachable") == 0
    assert 0 < value("heartbeat_round_trip_seconds") < 20
    assert value("runtime_loop_lag_seconds") >= 0
    assert value("app_loop_lag_seconds") > 0
    assert value("leases_held") == value("leases_lost_total") == 0
    assert value("replies_given_up_total") == 0
    outcomes = {
        ("async", "continued"): 1,
        ("async", "done"): 1,
        ("sync", "done"): 1,
        ("sync", "failed"): 0,
        ("fails", "failed"): 1,
        ("fails-sync", "failed"): 1,
        ("fails-in-step", "step_failed"): 1,
        ("fails-in-step", "done"): 1,
    }
    for (name, outcome), count in outcomes.items():
        labels = {"app": "shop", "function": f"shop-{name}"}
        assert value("requests_total", **labels, outcome=outcome) == count, name
    labels = {"app": "shop", "function": "shop-async"}
    assert value("request_duration_seconds_count", **labels) == 2
    assert 0 < value("request_duration_seconds_sum", **labels) < 20
    assert value("request_duration_seconds_bucket", **labels, le="900.0") == 2


def test_metrics_are_named_as_the_field_does(observed: Observed) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    answer = httpx.get(observed.probe + "/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = list(parse_openmetrics(answer.text))  # type: ignore[no-untyped-call]
    assert len(families) == 19
    for family in families:
        assert family.name.startswith("inngest_connect_")
        assert family.documentation
        if family.type == "counter":
            assert not family.unit
        elif family.name.endswith("_seconds"):
            assert family.unit in ("seconds", "")
    durations = {f.name for f in families if f.name.endswith("_seconds")}
    assert durations == {
        "inngest_connect_app_loop_lag_seconds",
        "inngest_connect_heartbeat_round_trip_seconds",
        "inngest_connect_request_duration_seconds",
        "inngest_connect_runtime_loop_lag_seconds",
    }


def test_the_probe_server_still_serves_health(observed: Observed) -> None:
    assert httpx.get(observed.probe + "/healthz/ready").status_code == 200


def spans(observed: Observed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = observed.server.get("/otel/spans").json()
    return found


@pytest.mark.parametrize("name", ["async", "sync"])
def test_a_run_is_a_span_beneath_the_servers(observed: Observed, name: str) -> None:
    traces = {}
    for seen in observed.gateway.received("WORKER_REQUEST_ACK"):
        assert isinstance(seen.message, wire.WorkerRequestAckData)
        context = json.loads(seen.message.user_trace_ctx)
        traces[seen.message.request_id] = context["traceparent"].split("-")
    run = observed.runs[name]
    found = [s for s in spans(observed) if s["name"] == f"process shop-{name}"]
    assert len(found) == len(run.request_ids)
    for span in found:
        attributes = span["attributes"]
        _, trace_id, span_id, _ = traces[attributes["messaging.message.id"]]
        assert span["context"]["trace_id"] == f"0x{trace_id}"
        assert span["parent_id"] == f"0x{span_id}"
        assert span["kind"] == "SpanKind.CONSUMER"
        assert span["status"]["status_code"] == "UNSET"
        assert attributes["messaging.system"] == "inngest"
        assert attributes["messaging.operation.type"] == "process"
        assert attributes["messaging.destination.name"] == f"shop-{name}"
        assert attributes["messaging.message.conversation_id"] == run.id
        assert attributes["inngest.attempt"] == 0
    own = [s for s in spans(observed) if s["name"] == "of the user's"]
    parents = [s["parent_id"] for s in own]
    for span in found:
        assert parents.count(span["context"]["span_id"]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("fails", "async"), ("fails-sync", "sync"), ("fails-in-step", "step")],
)
def test_a_failure_is_in_its_span(observed: Observed, name: str, message: str) -> None:
    found = [s for s in spans(observed) if s["name"] == f"process shop-{name}"]
    failed = [s for s in found if s["status"]["status_code"] == "ERROR"]
    assert len(failed) == 1
    (span,) = failed
    assert span["status"]["description"] == message
    assert span["attributes"]["error.type"] == "UserError"
    (event,) = span["events"]
    assert event["attributes"]["exception.type"] == "tests.observed_app.UserError"
    assert "observed_app.py" in event["attributes"]["exception.stacktrace"]


def test_the_same_figures_go_to_opentelemetry(observed: Observed) -> None:
    data = observed.server.get("/otel/metrics").json()
    found = {
        metric["name"]: metric
        for resource in data["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    durations = found["messaging.process.duration"]
    assert durations["unit"] == "s"
    counts = {
        (
            point["attributes"]["messaging.destination.name"],
            point["attributes"]["inngest.outcome"],
        ): point["count"]
        for point in durations["data"]["data_points"]
    }
    assert counts["shop-async", "continued"] == counts["shop-async", "done"] == 1
    assert counts["shop-fails", "failed"] == 1
    assert counts["shop-fails-in-step", "step_failed"] == 1
    (reconnects,) = found["inngest.connect.reconnects"]["data"]["data_points"]
    assert reconnects["attributes"] == {"reason": "connection_lost"}
    assert reconnects["value"] == 1
    (trip,) = found["inngest.connect.heartbeat_round_trip"]["data"]["data_points"]
    assert trip["value"] > 0


def logs(server: Server) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("log: "))
        for line in server.lines
        if line.startswith("log: ")
    ]


def test_the_log_of_a_run(observed: Observed) -> None:
    run = observed.runs["async"]
    lines = [line for line in logs(observed.server) if line["run_id"] == run.id]
    assert [(line["message"], line["request_id"]) for line in lines] == [
        ("in an async function", run.request_ids[0]),
        ("in a step", run.request_ids[0]),
        ("in an async function", run.request_ids[1]),
    ]
    for line in lines:
        assert (line["function_id"], line["attempt"]) == ("shop-async", 0)
    (line,) = [x for x in logs(observed.server) if x["message"] == "in a sync function"]
    assert line == {
        "name": "shop",
        "run_id": observed.runs["sync"].id,
        "function_id": "shop-sync",
        "request_id": observed.runs["sync"].request_ids[0],
        "attempt": 0,
        "message": "in a sync function",
    }


def test_a_log_outside_of_a_run_has_no_run(observed: Observed) -> None:
    observed.server.wait_for_log("Connected to Inngest")
    line = next(
        x for x in logs(observed.server) if x["message"] == "Connected to Inngest"
    )
    assert line["run_id"] is line["attempt"] is None


# Several processes


def test_prometheus_multiprocess_mode(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    environ = {**gateway.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    port = free_port()
    probe = f"127.0.0.1:{port}"
    with Uvicorn(environ, "--workers=2", app=APP, probe=probe) as server:
        gateway.wait_for_worker(2)
        ids = [gateway.send("sync", {}) for _ in range(20)]
        for event_id in ids:
            gateway.wait_for_run(event_id)
        url = server.url + "/metrics"
        labels = {"app": "shop", "function": "shop-sync", "outcome": "done"}
        found = scrape_when(url, "inngest_connect_requests_total", 20, **labels)
        found = scrape_when(url, "inngest_connect_connection_state", 2, state="ready")
        # It would show one worker only, in one of the two.
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 404
        # Its workers would outlive a supervisor that is killed.
        server.signal(signal.SIGTERM)
        server.wait()
    workers = {
        seen.connection
        for seen in gateway.received("WORKER_REPLY")
        if seen.connection is not None
    }
    assert len(workers) == 2
    del labels["outcome"]
    count = "inngest_connect_request_duration_seconds_count"
    assert found[count, frozenset(labels.items())] == 20
    trip = "inngest_connect_heartbeat_round_trip_seconds"
    assert found[trip, frozenset()] > 0


# Sentry


def reports(server: Server) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("sentry: "))
        for line in server.lines
        if line.startswith("sentry: ")
    ]


@pytest.mark.parametrize("how", ["alone", "middleware"])
def test_sentry_gets_what_functions_raise_once(gateway: LocalGateway, how: str) -> None:
    """Also where the SDK's own middleware for Sentry reports it already."""
    names = ("fails", "fails-sync", "fails-in-step", "exits", "reports", "sync")
    with Uvicorn({**gateway.environ, "TEST_SENTRY": how}, app=APP) as server:
        gateway.wait_for_worker()
        ids = {name: gateway.send(name, {}) for name in names}
        runs = {name: gateway.wait_for_run(ids[name]) for name in names}
    events: dict[str, list[dict[str, Any]]] = {run.id: [] for run in runs.values()}
    for event in reports(server):
        events[event["tags"]["inngest.run_id"]].append(event)
    values = {
        "fails": ("UserError", "async"),
        "fails-sync": ("UserError", "sync"),
        "fails-in-step": ("UserError", "step"),
        "exits": ("SystemExit", "exit"),
        "reports": ("UserError", "reported"),
    }
    for name, value in values.items():
        (event,) = events[runs[name].id]
        (exception,) = event["exception"]["values"]
        assert (exception["type"], exception["value"]) == value
        assert event["transaction"] == f"shop-{name}"
        tags = event["tags"]
        assert tags["inngest.function_id"] == f"shop-{name}"
        assert tags["inngest.request_id"] == runs[name].request_ids[0]
        assert tags["inngest.app_id"] == "shop"
        assert tags["inngest.attempt"] == "0"
    assert events[runs["sync"].id] == []


# Nobody observes


def test_nothing_is_imported_for_an_app_that_observes_nothing() -> None:
    code = (
        "import sys, inngest_connect_asgi.asgi.middleware\n"
        "import inngest_connect_asgi.worker.connect\n"
        "print([m for m in sys.modules if m.partition('.')[0] in "
        "('opentelemetry', 'sentry_sdk', 'prometheus_client', 'structlog')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.stdout == "[]\n", result.stderr
