"""LocalGateway, judged by the official worker, and by hand over the bare wire."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import inngest
import pytest

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway, sockets

from .bare_worker import opened, start
from .harness import close_http, make_client, make_function, off_loop, run, worker

KEY = "signkey-test-" + "ab" * 16

# The official worker


@contextlib.asynccontextmanager
async def official_worker(
    gateway: LocalGateway, handlers: list[Any]
) -> AsyncIterator[inngest.Inngest]:
    """The SDK's own Connect worker."""
    try:
        from inngest.connect import connect
    except ImportError as error:
        pytest.skip(f"the official worker is not installed: {error}")

    client = make_client(gateway)
    functions = [make_function(client, h, fn_id=h.__name__) for h in handlers]
    worker = connect([(client, functions)], shutdown_signals=[])
    running = asyncio.ensure_future(worker.start())
    try:
        await off_loop(gateway.wait_for_worker)
        yield client
    finally:
        await worker.close(wait=True)
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await close_http(client)


@pytest.mark.filterwarnings("ignore")
def test_the_official_worker_runs_its_functions_here() -> None:
    attempts = []

    async def steps(ctx: inngest.Context) -> list[object]:
        attempts.append(ctx.attempt)
        if ctx.attempt == 0:
            raise ValueError("once more")

        async def one() -> int:
            return 1

        async def two() -> int:
            return 2

        first = await ctx.step.run("one", one)
        both = await ctx.group.parallel(
            (lambda: ctx.step.run("p1", one), lambda: ctx.step.run("p2", two))
        )
        return [first, list(both)]

    async def main() -> None:
        with LocalGateway() as gateway:
            async with official_worker(gateway, [steps]) as client:
                (event_id,) = await client.send(inngest.Event(name="test"))
                result = await off_loop(gateway.wait_for_run, event_id)
                assert result.status == "completed", result.error
                assert result.output == [1, [1, 2]]
                assert set(result.steps) == {"one", "p1", "p2"}
                assert "app-steps" in gateway.functions
        assert attempts[:2] == [0, 1]

    asyncio.run(main())


# The bare wire


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"instance_id": ""}, "connect_worker_hello_invalid_payload"),
        ({"apps": []}, "connect_worker_hello_invalid_payload"),
        ({"auth_data": wire.AuthData()}, "connect_authentication_failed"),
        (
            {"apps": [wire.AppConfiguration(app_name="a", functions=b"[]")] * 11},
            "connect_too_many_apps_per_connection",
        ),
        (
            {"apps": [wire.AppConfiguration(app_name="a", functions=b"no JSON")]},
            "connect_invalid_function_config",
        ),
    ],
)
def test_a_hello_that_is_refused(fields: dict[str, Any], reason: str) -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with opened(gateway) as worker:
                await worker.receive(wire.GATEWAY_HELLO)
                await worker.send(wire.WORKER_CONNECT, worker.hello(**fields))
                assert await worker.closed() == (1008, reason)

    run(main)


def test_a_first_message_that_is_no_hello() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with opened(gateway) as worker:
                await worker.send(wire.WORKER_READY)
                assert await worker.closed() == (
                    1008,
                    "connect_worker_hello_invalid_msg",
                )

    run(main)


def test_a_report_of_steps_that_makes_no_sense_ends_the_run() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with opened(gateway) as worker:
                await worker.shake_hands()
                event_id = await off_loop(gateway.send, "test")
                request = await worker.take_and_ack()
                await worker.reply(
                    request,
                    status=wire.NOT_COMPLETED,
                    body=b'[{"id": "step", "op": "Sleep", "opts": ["1s"]}]',
                )
                ended = await off_loop(gateway.wait_for_run, event_id)
        assert ended.status == "failed"
        assert "LocalGateway could not run it" in str(ended.error)

    run(main)


def test_keys_are_checked_where_there_are_any() -> None:
    async def main() -> None:
        with LocalGateway(signing_keys=(KEY,)) as gateway:
            for key in (None, KEY, "wrong"):
                with pytest.raises(httpx.HTTPStatusError, match="401"):
                    await start(gateway, key)

    run(main)


def test_groups_that_are_excluded_are_not_handed_out() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            first = await start(gateway)
            body = wire.StartRequest(exclude_gateways=[first.gateway_group])
            async with httpx.AsyncClient() as http:
                answer = await http.post(
                    f"{gateway.origin}/v0/connect/start",
                    content=body.SerializeToString(),
                )
            second = wire.StartResponse.FromString(answer.content)
            assert second.gateway_group != first.gateway_group

    run(main)


@pytest.mark.parametrize(
    ("trace", "status"), [(b"{}", 200), (b"", 400), (b"not JSON", 400)]
)
def test_flush_wants_a_trace_context_that_is_json(trace: bytes, status: int) -> None:
    reply = wire.SDKResponse(request_id=str(uuid.uuid4()), system_trace_ctx=trace)
    with LocalGateway() as gateway:
        answer = httpx.post(
            f"{gateway.origin}/v0/connect/flush", content=reply.SerializeToString()
        )
        assert answer.status_code == status
        assert (reply.request_id in gateway.replies) == (status == 200)


def test_events_are_taken_as_inngest_takes_them() -> None:
    with LocalGateway() as gateway:
        answer = httpx.post(f"{gateway.origin}/e/key", json=[{"name": "a"}] * 2)
        assert (answer.status_code, len(answer.json()["ids"])) == (200, 2)
        answer = httpx.post(f"{gateway.origin}/e/key", content=b"{")
        assert answer.status_code == 400


def test_it_waits_with_a_limit_and_says_what_happened_instead() -> None:
    with LocalGateway() as gateway:
        gateway.send("something/else")
        with pytest.raises(TimeoutError, match="something/else"):
            gateway.wait_for_worker(timeout=0.05)


def test_it_is_as_new_after_a_reset(gateway: LocalGateway) -> None:
    """Whatever went on: a run that never ends, and an API that is down."""

    async def stuck(ctx: inngest.Context) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with worker(gateway, stuck, shutdown_timeout=0.1):
            address = gateway.origin
            gateway.send("test")
            await off_loop(gateway.wait_until, lambda: gateway.executions)
            gateway.faults.flush = 503
            gateway.api_down()
            await off_loop(gateway.reset)
            assert gateway.runs == []
            assert not gateway.executions
            assert gateway.faults.flush is None
            assert gateway.origin == address
            # The worker comes back, and is the first there ever was.
            connection = await off_loop(gateway.wait_for_worker)
            assert connection.number == 1
            assert list(gateway.functions) == ["app-stuck"]

    run(main)


def test_a_run_may_be_that_of_one_function(gateway: LocalGateway) -> None:
    async def quick(ctx: inngest.Context) -> str:
        return "quick"

    async def slow(ctx: inngest.Context) -> str:
        await ctx.step.sleep("a moment", 100)
        return "slow"

    async def main() -> None:
        async with worker(gateway, quick, slow):
            ended = await off_loop(lambda: gateway.run("test", function="app-slow"))
            assert ended.output == "slow"

    run(main)


def test_it_runs_by_itself() -> None:
    arguments = ("--api-port", "0", "--gateway-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "inngest_connect_asgi.testing", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        origin = process.stdout.readline().rpartition("INNGEST_DEV=")[2].strip()
        answer = httpx.post(f"{origin}/e/key", json={"name": "hello"})
        assert answer.status_code == 200
        assert "hello" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_goes_down_whatever_is_still_at_work(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*args: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(sockets.Sockets, "_shake_hands", hang)
    monkeypatch.setattr(sockets, "STOP_TIMEOUT", 0.1)

    async def main() -> None:
        async with opened(gateway):
            await asyncio.wait_for(off_loop(gateway.gateway_down), 20)
            await off_loop(gateway.gateway_up)

    run(main)
