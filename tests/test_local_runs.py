"""LocalGateway's executor, in what the suite over a worker can't see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import inngest
import pytest

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.testing.calls import MAX_REQUEST_SIZE, build_request, payload
from inngest_connect_asgi.testing.connection import Seen
from inngest_connect_asgi.testing.executor import Executor
from inngest_connect_asgi.testing.faults import Faults
from inngest_connect_asgi.testing.functions import Cancel, Function, load_functions
from inngest_connect_asgi.testing.log import Log
from inngest_connect_asgi.testing.router import Router
from inngest_connect_asgi.testing.runs import Run

from .harness import off_loop, run, until, worker

UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def function(**options: Any) -> Function:
    defaults: dict[str, Any] = {
        "id": "app-f",
        "app": "app",
        "name": "f",
        "events": (("test", None),),
        "crons": (),
        "max_attempts": 1,
    }
    return Function(**(defaults | options))


def event(**data: object) -> dict[str, Any]:
    return {"name": "test", "id": "event", "ts": 1, "data": data}


# Functions


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[1]",
        b'[{"id": 1}]',
        b'[{"id": "f", "timeouts": "1s"}]',
        b'[{"id": "f", "timeouts": {"finish": "soon"}}]',
        b'[{"id": "f", "cancel": [{"event": "stop", "timeout": "soon"}]}]',
        b'[{"id": "f", "batchEvents": {"size": 1}}]',
    ],
)
def test_functions_that_make_no_sense_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_functions("app", data)


def test_a_function_is_retried_four_times_where_it_does_not_say() -> None:
    (loaded,) = load_functions("app", b'[{"id": "app-f"}]')
    assert loaded.max_attempts == 5


# What is left out of a request


def body(run: Run, *, use_api: bool = False) -> dict[str, Any]:
    request = build_request(app="app", function="app-f", payload=b"")
    encoded = payload(run, request, 0, use_api=use_api)
    assert len(encoded) <= MAX_REQUEST_SIZE
    decoded: dict[str, Any] = json.loads(encoded)
    assert decoded["ctx"]["use_api"] == decoded["use_api"]
    return decoded


def run_with(size: int, *, step_size: int) -> Run:
    started = Run("run", function(), [event(text="x" * size)])
    op = {"id": "step", "op": "StepRun"}
    started.memoize(started.step(op), {"data": "x" * step_size})
    return started


def test_a_small_request_has_everything() -> None:
    sent = body(run_with(1000, step_size=1000))
    assert not sent["use_api"]
    assert len(sent["events"]) == len(sent["steps"]) == 1


def test_steps_are_left_out_where_they_are_large() -> None:
    sent = body(run_with(1000, step_size=MAX_REQUEST_SIZE - 1024))
    assert sent["use_api"]
    assert sent["steps"] == {}
    assert len(sent["events"]) == 1


def test_events_are_left_out_where_they_are_large() -> None:
    sent = body(run_with(MAX_REQUEST_SIZE // 2, step_size=10))
    assert sent["use_api"]
    assert sent["steps"] == {}
    assert sent["events"] == []
    assert len(sent["event"]["data"]["text"]) == MAX_REQUEST_SIZE // 2


def test_everything_is_left_out_where_that_is_asked_for() -> None:
    sent = body(run_with(10, step_size=10), use_api=True)
    assert sent["use_api"]
    assert sent["steps"] == {}
    assert sent["events"] == []


# Cancelling


def with_executor(main: Callable[[Executor], Awaitable[None]]) -> None:
    """An executor that no worker is connected to."""

    async def within() -> None:
        log: Log[Seen] = Log()
        router = Router(log, Faults(), 1.0)
        executor = Executor(log=log, router=router, retry_delay=0.1, use_api=False)
        try:
            await main(executor)
        finally:
            await executor.reset()

    run(within)


def test_what_started_a_run_does_not_cancel_it() -> None:
    async def main(executor: Executor) -> None:
        executor.functions["app-f"] = function(cancels=(Cancel("test", None, None),))
        executor.receive({"name": "test"})
        executor.receive({"name": "test"})
        assert [each.status for each in executor.runs] == ["cancelled", "running"]

    with_executor(main)


def test_an_event_cancels_no_longer_than_the_function_says() -> None:
    async def main(executor: Executor) -> None:
        executor.functions["app-f"] = function(cancels=(Cancel("stop", None, 5.0),))
        executor.receive({"name": "test"})
        executor.receive({"name": "test"})
        early, late = executor.runs
        late.started_at -= 5
        executor.receive({"name": "stop"})
        assert (early.status, late.status) == ("cancelled", "running")

    with_executor(main)


def test_a_request_of_a_cancelled_run_goes_to_no_worker() -> None:
    async def main(executor: Executor) -> None:
        executor.functions["app-f"] = function()
        executor.receive({"name": "test"})
        (waiting,) = executor.runs
        await until(lambda: executor.router.requests.deliveries)
        tasks = len(asyncio.all_tasks())
        executor.cancel(waiting)
        # What drove the run is gone, and what would have delivered the request too.
        await until(lambda: len(asyncio.all_tasks()) <= tasks - 2)

    with_executor(main)


def test_a_run_that_nobody_begins_in_time_is_cancelled() -> None:
    async def main(executor: Executor) -> None:
        executor.functions["app-f"] = function(start_timeout=0.05)
        executor.receive({"name": "test"})
        (waiting,) = executor.runs
        await until(lambda: waiting.status == "cancelled")

    with_executor(main)


# Jobs


def test_retries_are_requests_of_one_job(gateway: LocalGateway) -> None:
    async def steps(ctx: inngest.Context) -> None:
        async def flaky() -> None:
            if ctx.attempt == 0:
                raise ValueError("not yet")

        await ctx.step.run("flaky", flaky)

    async def main() -> None:
        async with worker(gateway, steps):
            event_id = await off_loop(gateway.send, "test")
            ended = await off_loop(gateway.wait_for_run, event_id)
            assert ended.status == "completed"
        requests = [
            seen.message
            for seen in gateway.seen
            if seen.kind == "GATEWAY_EXECUTOR_REQUEST"
        ]
        first, second, rest = (
            (each.request_id, each.job_id)
            for each in requests
            if isinstance(each, wire.GatewayExecutorRequestData)
        )
        assert first[0] != second[0]
        assert first[1] == second[1] != rest[1]

    run(main)


# Over HTTP


def test_what_is_no_id_or_not_known() -> None:
    with LocalGateway() as gateway, httpx.Client(base_url=gateway.origin) as http:
        assert http.get("/v1/events/no-id/runs").status_code == 400
        assert http.get("/v1/runs/no-id").status_code == 400
        assert http.get(f"/v1/events/{UNKNOWN}/runs").json()["data"] == []
        # As the server answers, also for a run that is not written down yet.
        assert http.get(f"/v1/runs/{UNKNOWN}").status_code == 500
        for what in ("batch", "actions"):
            assert http.get(f"/v0/runs/{UNKNOWN}/{what}").status_code == 410


def test_a_run_is_told_of_while_it_runs_and_after(gateway: LocalGateway) -> None:
    gate = asyncio.Event()

    async def waits(ctx: inngest.Context) -> str:
        await gate.wait()
        return "done"

    async def main() -> None:
        async with (
            worker(gateway, waits),
            httpx.AsyncClient(base_url=gateway.origin) as http,
        ):
            event_id = await off_loop(gateway.send, "test")
            (told,) = (await http.get(f"/v1/events/{event_id}/runs")).json()["data"]
            assert (told["status"], told["ended_at"]) == ("Running", None)
            assert told["event_id"] == event_id
            assert "output" not in told
            run_id = told["run_id"]
            assert len((await http.get(f"/v0/runs/{run_id}/batch")).json()) == 1
            gate.set()
            await off_loop(gateway.wait_for_run, event_id)
            told = (await http.get(f"/v1/runs/{run_id}")).json()["data"]
            assert (told["status"], told["output"]) == ("Completed", "done")
            assert told["run_started_at"] <= told["ended_at"]
            # Its events and steps are forgotten.
            assert (await http.get(f"/v0/runs/{run_id}/batch")).status_code == 410

    run(main)


def test_an_event_of_more_than_3_mib_is_refused() -> None:
    with LocalGateway() as gateway:
        large = {"name": "test", "data": {"text": "x" * 3 * 1024 * 1024}}
        answer = httpx.post(f"{gateway.origin}/e/key", json=large)
        assert (answer.status_code, gateway.seen) == (400, [])
