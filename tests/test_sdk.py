from __future__ import annotations

import asyncio
import http.server
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastapi
import httpx
import inngest
import pytest
from inngest._internal import transforms

from inngest_connect_asgi.errors import ConfigurationError
from inngest_connect_asgi.messages import Delivery, Lease, Outcome, Request
from inngest_connect_asgi.worker import sdk
from inngest_connect_asgi.worker.client import Client, hash_signing_key
from inngest_connect_asgi.worker.outcomes import MAX_BODY_SIZE, VERSION
from inngest_connect_asgi.worker.runner import FunctionRunner

from . import sdk_functions

KEY = "signkey-test-" + "0123456789abcdef" * 4
HAS_JOB_ID = "job_id" in inngest.Context.__dataclass_fields__


AnApp = tuple[inngest.Inngest, list["inngest.Function[Any]"], FunctionRunner]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4, thread_name_prefix="ours") as executor:
        yield executor


@pytest.fixture(scope="module")
def app() -> AnApp:
    client = sdk_functions.client()
    functions = sdk_functions.functions(client)
    return client, functions, FunctionRunner(client, functions)


def payload(
    steps: Mapping[str, object] | None = None,
    *,
    event: str = "app/event",
    use_api: bool = False,
    immediate: bool = True,
    events: int = 1,
) -> bytes:
    one = {"id": "1", "name": event, "data": {"key": "value"}, "ts": 1}
    request: dict[str, object] = {
        "ctx": {
            "attempt": 1,
            "disable_immediate_execution": not immediate,
            "run_id": "run",
            "stack": {"stack": []},
        },
        "event": one,
        "steps": dict(steps or {}),
        "use_api": use_api,
    }
    if not use_api:
        request["events"] = [one] * events
    return json.dumps(request).encode()


def request(
    function_id: str, body: bytes | None = None, step_id: str | None = None
) -> Request:
    lease = Lease(
        Delivery("request-1", "lease"),
        "lease",
        "account",
        "env",
        "id",
        function_id,
        step_id,
        "run",
        b"{}",
        b"{}",
    )
    return Request(lease, "app", "job-1", payload() if body is None else body)


async def over_serve(
    client: inngest.Inngest,
    functions: list[inngest.Function[Any]],
    request: Request,
) -> Outcome:
    """The same request, as the HTTP endpoint of the SDK answers it."""
    # Imported late, because the module sdk silences its warnings.
    import inngest.fast_api

    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, functions)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://app"
    ) as http_client:
        response = await http_client.post(
            "/api/inngest",
            params={
                "fnId": request.lease.function_slug,
                "stepId": request.lease.step_id or "step",
            },
            content=request.payload,
            headers={"x-inngest-job-id": "job-1", "x-request-id": "request-1"},
        )
    step_failed = response.status_code == 206 and any(
        op.get("error") is not None for op in response.json()
    )
    return Outcome(
        status=response.status_code,
        body=response.content,
        no_retry=response.headers.get("x-inngest-no-retry") == "true",
        retry_after=response.headers.get("retry-after"),
        sdk_version=response.headers["x-inngest-sdk"],
        request_version=int(response.headers["x-inngest-req-version"]),
        step_failed=step_failed,
    )


def run(
    handler: Any, executor: ThreadPoolExecutor, step_id: str | None = None
) -> Outcome:
    """Run one function, without middleware, and nothing else."""
    client = inngest.Inngest(app_id="app", is_production=False)
    trigger = sdk_functions.EVENT
    function = client.create_function(fn_id="f", trigger=trigger)(handler)
    runner = FunctionRunner(client, [function])
    return asyncio.run(runner.run(request("app-f", step_id=step_id), executor))


def step_id(name: str) -> str:
    return transforms.hash_step_id(name)


DONE = {step_id("one"): {"data": 1}}
BOTH = {**DONE, step_id("two"): {"data": 2}}
FAILED = {
    step_id("fail"): {
        "error": {"name": "UserError", "message": "step failed", "stack": "s"},
    }
}
EVENTS = {step_id("wait"): {"name": "app/other", "data": {}, "id": "2", "ts": 2}}

CASES: dict[str, tuple[str, bytes, str | None]] = {
    "returns": ("returns", payload(), None),
    "none": ("returns-none", payload(), None),
    "batch": ("batch", payload(events=3), None),
    "raises": ("raises", payload(), None),
    "non-retriable": ("non-retriable", payload(), None),
    "retry-after": ("retries-later", payload(), None),
    "unserialisable": ("unserialisable", payload(), None),
    "step first": ("step", payload(), None),
    "step second": ("step", payload(DONE), None),
    "step all": ("step", payload(BOTH), None),
    "step planned": ("step", payload(immediate=False), None),
    "step targeted": ("step", payload(), step_id("one")),
    "step unexpected": ("step", payload(), step_id("other")),
    "step fails": ("step-fails", payload(), None),
    "step failed": ("step-fails", payload(FAILED), None),
    "step gives up": ("step-gives-up", payload(), None),
    "step retry-after": ("step-retries-later", payload(), None),
    "step unserialisable": ("step-unserialisable", payload(), None),
    "sleep": ("sleeps", payload(), None),
    "wait": ("waits", payload(), None),
    "waited": ("waits", payload(EVENTS), None),
    "parallel planned": ("parallel", payload(), None),
    "parallel targeted": ("parallel", payload(immediate=False), step_id("two")),
    "parallel all": ("parallel", payload(BOTH), None),
    "with failure handler": ("fails-finally", payload(), None),
    "failure handler": (
        "fails-finally-failure",
        payload(event="inngest/function.failed"),
        None,
    ),
    "middleware": ("middleware", payload(), None),
    "failing middleware": ("failing-middleware", payload(), None),
    "unknown function": ("nobody", payload(), None),
    "no events": ("returns", payload().replace(b'"events"', b'"none"'), None),
    "empty": ("returns", b"", None),
    "incomplete": ("returns", b"{}", None),
    "step id is step": ("returns", payload(), "step"),
    "no app in the id": ("", payload(), None),
}


@pytest.mark.parametrize("prefix", ["app-", "app-sync-"], ids=["async", "sync"])
@pytest.mark.parametrize("case", CASES)
def test_same_outcome_as_serve(
    prefix: str, case: str, app: AnApp, executor: ThreadPoolExecutor
) -> None:
    name, body, step = CASES[case]
    client, functions, runner = app
    call = request(prefix + name, body, step)

    outcome = asyncio.run(runner.run(call, executor))

    assert outcome == asyncio.run(over_serve(client, functions, call))
    assert outcome.status in (200, 206, 500)


@pytest.mark.parametrize("prefix", ["app-", "app-sync-"], ids=["async", "sync"])
def test_cases_are_what_they_say(
    prefix: str, app: AnApp, executor: ThreadPoolExecutor
) -> None:
    """Parity alone would hold if every case failed in the same way."""
    runner = app[2]

    def outcome(case: str) -> Outcome:
        name, body, step = CASES[case]
        return asyncio.run(runner.run(request(prefix + name, body, step), executor))

    def body(case: str) -> Any:
        return json.loads(outcome(case).body)

    assert body("returns")["event"]["seen_by_client"] == f"{prefix}returns"
    assert body("none") is None
    assert len(body("batch")) == 3
    raised = body("raises")
    assert (raised["name"], raised["message"]) == ("ValueError", "outer")
    assert "UserError: inner" in raised["stack"]
    assert "inngest_connect_asgi" not in raised["stack"]
    assert outcome("raises").no_retry is False
    assert outcome("non-retriable").no_retry is True
    assert outcome("retry-after").retry_after == "2030-01-02T03:04:05.000Z"
    assert outcome("step first").status == 206
    assert body("step first")[0]["data"] == 1
    assert body("step second")[0]["data"] == 2
    assert body("step all") == 3
    assert body("step planned")[0]["op"] == "StepPlanned"
    assert body("step unexpected")["code"] == "step_unexpected"
    assert body("step fails")[0]["error"]["message"] == "step failed"
    assert body("step failed") == "handled UserError: step failed"
    assert outcome("step gives up").no_retry is True
    assert body("waited") == "app/other"
    assert [step["op"] for step in body("parallel planned")] == ["StepPlanned"] * 2
    assert body("parallel all") == [1, 2]
    assert body("failure handler") == {"failed": "inngest/function.failed"}
    assert body("middleware")["seen_by_function"] is True
    assert body("failing middleware")["message"] == "from middleware"
    assert body("unknown function")["code"] == "function_not_found"
    assert outcome("returns").sdk_version == f"inngest-py:v{VERSION}"
    assert outcome("returns").request_version > 0


@pytest.mark.parametrize("function_id", ["app-returns", "app-sync-returns"])
def test_payload_that_is_not_json(
    function_id: str, app: AnApp, executor: ThreadPoolExecutor
) -> None:
    # Before 0.5.19, serve refused it with a 401 before looking at the function.
    outcome = asyncio.run(app[2].run(request(function_id, b"{"), executor))
    assert (outcome.status, outcome.no_retry) == (500, False)
    assert json.loads(outcome.body).keys() == {"code", "message", "name"}


class _Api(http.server.BaseHTTPRequestHandler):
    paths: list[str]
    broken = False

    def do_GET(self) -> None:
        self.paths.append(self.path)
        if self.broken:
            self.send_error(500, "broken")
            return
        events = [{"id": "1", "name": "fetched", "data": {}, "ts": 1}] * 2
        body = json.dumps(events if self.path.endswith("/batch") else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[tuple[str, type[_Api]]]:
    handler = type("Api", (_Api,), {"paths": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("function_id", ["app-batch", "app-sync-batch"])
@pytest.mark.parametrize("broken", [False, True])
def test_fetches_the_payload(
    function_id: str,
    broken: bool,
    api: tuple[str, type[_Api]],
    executor: ThreadPoolExecutor,
) -> None:
    origin, handler = api
    handler.broken = broken
    client = inngest.Inngest(app_id="app", api_base_url=origin, is_production=False)
    functions = sdk_functions.functions(client)
    runner = FunctionRunner(client, functions)
    call = request(function_id, payload(use_api=True))

    outcome = asyncio.run(runner.run(call, executor))
    paths = sorted(handler.paths)

    assert outcome == asyncio.run(over_serve(client, functions, call))
    assert "/v0/runs/run/batch" in paths
    if broken:
        assert outcome.status == 500
        assert not outcome.no_retry
    else:
        assert paths == ["/v0/runs/run/actions", "/v0/runs/run/batch"]
        assert json.loads(outcome.body) == ["fetched", "fetched"]


def test_unreachable_api_is_an_error(executor: ThreadPoolExecutor) -> None:
    client = sdk_functions.client()
    runner = FunctionRunner(client, sdk_functions.functions(client))
    for function_id in ("app-batch", "app-sync-batch"):
        call = request(function_id, payload(use_api=True))
        outcome = asyncio.run(runner.run(call, executor))
        assert (outcome.status, outcome.no_retry) == (500, False)


def test_registration_is_that_of_an_http_sync() -> None:
    from inngest._internal import comm_lib

    client = sdk_functions.client()
    functions = sdk_functions.functions(client)
    runner = FunctionRunner(client, functions)
    configs = comm_lib.get_function_configs(
        "http://app/api/inngest", {function.id: function for function in functions}
    )
    assert not isinstance(configs, Exception)
    synced = [transforms.deep_strip_none(config.to_dict()) for config in configs]

    registered = json.loads(runner.app.functions)

    assert len(registered) == len(functions) + 2
    for function in registered:
        (step,) = function["steps"].values()
        assert step["runtime"] == {
            "type": "ws",
            "url": f"wss://connect?fnId={function['id']}&stepId=step",
        }
    for function in [*registered, *synced]:
        del function["steps"]["step"]["runtime"]
    assert registered == synced
    assert runner.app.name == "app"


def test_app_version_where_the_sdk_has_one() -> None:
    options: dict[str, Any] = {"app_id": "app", "is_production": False}
    versioned = hasattr(inngest.Inngest, "app_version")
    if versioned:
        options["app_version"] = "v1"
    client = inngest.Inngest(**options)
    runner = FunctionRunner(client, sdk_functions.functions(client))
    assert runner.app.version == ("v1" if versioned else None)


def test_job_and_request_id(executor: ThreadPoolExecutor) -> None:
    if not HAS_JOB_ID:
        pytest.skip("this SDK has no ctx.job_id")

    async def function(ctx: inngest.Context) -> object:
        return [ctx.job_id, ctx.request_id]

    def function_sync(ctx: inngest.ContextSync) -> object:
        return [ctx.job_id, ctx.request_id]

    for handler in (function, function_sync):
        assert json.loads(run(handler, executor).body) == ["job-1", "request-1"]


def test_middleware_is_given_the_request(executor: ThreadPoolExecutor) -> None:
    seen = []

    class Middleware(inngest.MiddlewareSync):
        def __init__(self, client: inngest.Inngest, raw_request: object) -> None:
            super().__init__(client, raw_request)
            seen.append(raw_request)

        def transform_input(
            self, ctx: Any, function: inngest.Function[Any], steps: Any
        ) -> None:
            seen.append(function)

    client = inngest.Inngest(app_id="app", is_production=False, middleware=[Middleware])
    functions = sdk_functions.functions(client)
    runner = FunctionRunner(client, functions)
    call = request("app-returns")
    asyncio.run(runner.run(call, executor))
    assert seen[0] is call
    assert seen[1] is functions[0]


def test_async_functions_run_on_the_loop_of_the_caller(
    executor: ThreadPoolExecutor,
) -> None:
    async def function(ctx: inngest.Context) -> str:
        return sdk_functions.thread_name() + sdk_functions.context.get()

    async def main() -> Outcome:
        sdk_functions.context.set(" in context")
        return await runner.run(request("app-f"), executor)

    client = inngest.Inngest(app_id="app", is_production=False)
    create = client.create_function(fn_id="f", trigger=sdk_functions.EVENT)
    runner = FunctionRunner(client, [create(function)])
    assert json.loads(asyncio.run(main()).body) == "MainThread in context"


@pytest.mark.parametrize("workers", [None, "0"])
def test_sync_functions_run_in_the_executor(
    workers: str | None, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers is not None:
        monkeypatch.setenv("INNGEST_THREAD_POOL_MAX_WORKERS", workers)

    def function(ctx: inngest.ContextSync) -> str:
        before = sdk_functions.context.get()
        sdk_functions.context.set(" of the function")
        return sdk_functions.thread_name() + before

    async def main() -> tuple[Outcome, str]:
        sdk_functions.context.set(" in context")
        outcome = await runner.run(request("app-f"), executor)
        return outcome, sdk_functions.context.get()

    client = inngest.Inngest(app_id="app", is_production=False)
    create = client.create_function(fn_id="f", trigger=sdk_functions.EVENT)
    runner = FunctionRunner(client, [create(function)])
    outcome, after = asyncio.run(main())
    assert json.loads(outcome.body) == "ours_0 in context"
    assert after == " in context"


def test_streaming_stays_off(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INNGEST_STREAMING", "force")

    async def function(ctx: inngest.Context) -> str:
        return "whole"

    assert run(function, executor).body == b'"whole"'


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(),
        BaseException("base"),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("in_step", [False, True])
def test_sync_function_can_raise_anything(
    error: BaseException, in_step: bool, executor: ThreadPoolExecutor
) -> None:
    def fail() -> str:
        raise error

    def function(ctx: inngest.ContextSync) -> str:
        return ctx.step.run("fail", fail) if in_step else fail()

    outcome = run(function, executor)
    assert not outcome.no_retry
    body = json.loads(outcome.body)
    if not isinstance(error, Exception):
        assert outcome.status == 500
        assert body == {
            "code": "unknown",
            "message": str(error),
            "name": type(error).__name__,
        }
        assert outcome.sdk_version == f"inngest-py:v{VERSION}"


@pytest.mark.parametrize(
    "error", [SystemExit(3), BaseException("base")], ids=["exit", "base"]
)
@pytest.mark.parametrize("in_step", [False, True])
def test_async_function_can_raise_an_exit(
    error: BaseException, in_step: bool, executor: ThreadPoolExecutor
) -> None:
    async def fail() -> str:
        raise error

    async def function(ctx: inngest.Context) -> str:
        return await (ctx.step.run("fail", fail) if in_step else fail())

    outcome = run(function, executor)
    assert (outcome.status, outcome.no_retry) == (500, False)
    assert json.loads(outcome.body)["name"] == type(error).__name__


def test_error_that_can_not_be_printed(executor: ThreadPoolExecutor) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("unprintable")

    async def function(ctx: inngest.Context) -> None:
        raise Unprintable

    def function_sync(ctx: inngest.ContextSync) -> None:
        raise Unprintable

    for handler in (function, function_sync):
        outcome = run(handler, executor)
        assert (outcome.status, outcome.no_retry) == (500, False)
        assert json.loads(outcome.body)["message"] == "unprintable"


def test_unexpected_error_is_logged(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def function(ctx: inngest.ContextSync) -> None:
        raise SystemExit("no good")

    run(function, executor)
    (record,) = (r for r in caplog.records if r.name == "inngest_connect_asgi")
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "app-f failed with SystemExit: no good"
    assert record.exc_info is not None
    assert record.run_id == "run"  # type: ignore[attr-defined]


def test_cancelling_the_caller_cancels_the_function(
    executor: ThreadPoolExecutor,
) -> None:
    events = []

    async def function(ctx: inngest.Context) -> None:
        try:
            events.append("started")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            events.append("cleaned up")

    async def main() -> None:
        client = inngest.Inngest(app_id="app", is_production=False)
        create = client.create_function(fn_id="f", trigger=sdk_functions.EVENT)
        runner = FunctionRunner(client, [create(function)])
        task = asyncio.ensure_future(runner.run(request("app-f"), executor))
        while not events:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert events == ["started", "cleaned up"]

    asyncio.run(main())


def test_cancelling_the_caller_leaves_a_thread_behind(
    executor: ThreadPoolExecutor,
) -> None:
    started, release = threading.Event(), threading.Event()

    def function(ctx: inngest.ContextSync) -> None:
        started.set()
        release.wait(10)

    async def main() -> None:
        client = inngest.Inngest(app_id="app", is_production=False)
        create = client.create_function(fn_id="f", trigger=sdk_functions.EVENT)
        runner = FunctionRunner(client, [create(function)])
        task = asyncio.ensure_future(runner.run(request("app-f"), executor))
        while not started.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    asyncio.run(main())


def test_executor_that_is_shut_down_is_an_error(executor: ThreadPoolExecutor) -> None:
    executor.shutdown()

    def function(ctx: inngest.ContextSync) -> None:
        pass

    outcome = run(function, executor)
    assert (outcome.status, outcome.no_retry) == (500, False)


@pytest.mark.parametrize("in_step", [False, True])
def test_output_too_large(in_step: bool, executor: ThreadPoolExecutor) -> None:
    def output() -> str:
        return "x" * MAX_BODY_SIZE

    def function(ctx: inngest.ContextSync) -> str:
        return ctx.step.run("output", output) if in_step else output()

    outcome = run(function, executor)
    assert (outcome.status, outcome.no_retry) == (500, True)
    body = json.loads(outcome.body)
    assert body["name"] == "OutputTooLargeError"
    assert "app-f" in body["message"]
    assert str(MAX_BODY_SIZE) in body["message"]


def test_largest_output(executor: ThreadPoolExecutor) -> None:
    def function(ctx: inngest.ContextSync) -> str:
        return "x" * (MAX_BODY_SIZE - 2)

    assert len(run(function, executor).body) == MAX_BODY_SIZE


@pytest.mark.parametrize("kind", [ValueError, SystemExit, BaseException])
def test_error_too_large_may_be_retried(
    kind: type[BaseException], executor: ThreadPoolExecutor
) -> None:
    def function(ctx: inngest.ContextSync) -> None:
        raise kind("x" * MAX_BODY_SIZE)

    outcome = run(function, executor)
    assert (outcome.status, outcome.no_retry) == (500, False)
    assert len(outcome.body) < 1000


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        (KEY, "signkey-test-"),
        ("signkey-prod-AB12", "signkey-prod-"),
        ("ab12", ""),
        (f"{KEY}\n", "signkey-test-"),
    ],
)
def test_hash_agrees_with_the_sdk(key: str, prefix: str) -> None:
    assert hash_signing_key(key) == prefix + transforms.hash_signing_key(key)


@pytest.mark.parametrize(
    "key", ["", "signkey-prod-", "signkey-prod-abc", "signkey-prod-secret", "é", "a\0"]
)
def test_malformed_key(key: str) -> None:
    with pytest.raises(ConfigurationError, match="INNGEST_SIGNING_KEY") as info:
        hash_signing_key(key)
    assert "secret" not in str(info.value)
    assert info.value.__suppress_context__ or info.value.__context__ is None


def test_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", "signkey-test-ab")
    client = inngest.Inngest(
        app_id="app", env="branch", is_production=True, signing_key=KEY
    )
    runner = FunctionRunner(client, sdk_functions.functions(client))
    assert runner.client.hashed_signing_key == hash_signing_key(KEY)
    assert runner.client.hashed_signing_key_fallback == hash_signing_key(
        "signkey-test-ab"
    )
    assert runner.client.environment == "branch"
    assert runner.client.api_origin == client.api_origin
    assert "signkey" not in repr(runner.client)


def test_dev_server_takes_no_key() -> None:
    client = inngest.Inngest(app_id="app", is_production=False, signing_key="nonsense")
    runner = FunctionRunner(client, sdk_functions.functions(client))
    assert runner.client.hashed_signing_key is None
    assert not runner.client.is_production


def _duplicated(client: inngest.Inngest) -> list[Any]:
    return sdk_functions.functions(client) * 2


def _failure_handler_duplicated(client: inngest.Inngest) -> list[Any]:
    async def function(ctx: inngest.Context) -> None:
        pass

    create = client.create_function(
        fn_id="fails-finally-failure", trigger=sdk_functions.EVENT
    )
    return [*sdk_functions.functions(client), create(function)]


@pytest.mark.parametrize(
    ("functions", "match"),
    [
        (lambda client: [], "'app' has no functions"),
        (lambda client: 1, "must be a list, not a int"),
        (lambda client: [_duplicated], "client.create_function; one is a function"),
        (_duplicated, "two functions with the id 'app-returns'"),
        (_failure_handler_duplicated, "id 'app-fails-finally-failure'"),
    ],
)
def test_wrong_functions(
    functions: Callable[[inngest.Inngest], Any], match: str
) -> None:
    client = inngest.Inngest(app_id="app", is_production=False)
    with pytest.raises(ConfigurationError, match=match):
        FunctionRunner(client, functions(client))


def test_wrong_client() -> None:
    with pytest.raises(ConfigurationError, match=r"inngest\.Inngest, not a str"):
        FunctionRunner("app", [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("app_id", "half \ud800"),
        ("app_version", "half \ud800"),
        ("env", "prod\n"),
        ("env", " prod"),
        ("env", "pr\u00f6d"),
    ],
)
def test_what_can_not_go_over_a_wire_is_named(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app_id = value if option == "app_id" else "app"
    client = inngest.Inngest(app_id=app_id, is_production=False)
    if option != "app_id":
        monkeypatch.setattr(inngest.Inngest, option, value, raising=False)
    with pytest.raises(ConfigurationError, match=option):
        Client.of(client)


def test_no_key_in_production() -> None:
    client = inngest.Inngest(app_id="app", is_production=True)
    with pytest.raises(ConfigurationError, match="set INNGEST_SIGNING_KEY"):
        FunctionRunner(client, sdk_functions.functions(client))


def test_malformed_keys_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", "signkey-test-secret")
    client = inngest.Inngest(app_id="app", is_production=True, signing_key=KEY)
    with pytest.raises(ConfigurationError, match="INNGEST_SIGNING_KEY_FALLBACK is"):
        FunctionRunner(client, sdk_functions.functions(client))


def test_function_that_can_not_be_registered() -> None:
    client = inngest.Inngest(app_id="app", is_production=False)

    async def function(ctx: inngest.Context) -> None:
        pass

    create = client.create_function(
        fn_id="f",
        trigger=sdk_functions.EVENT,
        throttle=inngest.Throttle(limit=1, period=10),
    )
    with pytest.raises(
        ConfigurationError, match=r"'app' can't be registered: .*second"
    ):
        FunctionRunner(client, [create(function)])


def test_supported_version() -> None:
    sdk.check_version()


class _Handler:
    def __init__(self, *, client: Any, functions: Any, novelty: Any) -> None:
        pass

    def post(self, request: Any) -> None:
        pass

    post_sync = post


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CommHandler", _Handler),
        ("CommHandler", None),
        ("CommRequest", lambda **options: 1 / 0),
        ("CommResponse", object),
        ("get_function_configs", lambda: None),
    ],
)
def test_unsupported_version(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"inngest._internal.comm_lib.{name}", value)
    with pytest.raises(ConfigurationError, match=r"inngest 0\.5\.\d+ does not fit"):
        sdk.check_version()


def test_unsupported_version_without_the_modules() -> None:
    program = """
import sys, inngest
sys.modules["inngest._internal.comm_lib"] = None
if hasattr(inngest._internal, "comm_lib"):
    del inngest._internal.comm_lib
from inngest_connect_asgi.worker.runner import FunctionRunner
from inngest_connect_asgi.errors import ConfigurationError
client = inngest.Inngest(app_id="app", is_production=False)
try:
    FunctionRunner(client, [])
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "does not fit" in done.stdout
    assert "comm_lib" in done.stdout
