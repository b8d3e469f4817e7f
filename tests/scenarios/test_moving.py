"""``isolation="auto"``: a runtime that is starved in its thread moves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import inngest
import pytest

from inngest_connect_asgi import connect_worker
from inngest_connect_asgi.isolation.moving import MovingHost
from inngest_connect_asgi.messages import Starved
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.service import Worker

from ..harness import (
    close_http,
    make_client,
    make_function,
    off_loop,
    run,
    until,
)
from ..processes import children, the_child, wait_gone
from ..servers import Metronome, Uvicorn, silence

IN_FLIGHT = 200


@contextlib.asynccontextmanager
async def auto(gateway: LocalGateway, handler: Any) -> AsyncIterator[Worker]:
    client = make_client(gateway)
    functions = [make_function(client, handler, fn_id=handler.__name__)]
    async with connect_worker(client, functions, isolation="auto") as worker:
        await worker.ready()
        yield worker
    await close_http(client)


def starve(worker: Worker) -> None:
    """As the runtime says when it is over."""
    host = worker._supervisor._host
    assert isinstance(host, MovingHost)
    host._hear_old(Starved(2.0))


def lives_in(worker: Worker) -> str:
    check = worker.health()["checks"]["runtime:isolation"][0]
    value: str = check["observedValue"]
    return value


def test_the_second_call_that_keeps_the_gil_silences_nothing() -> None:
    with (
        LocalGateway(
            heartbeat_interval="1s", extend_lease_interval="1s", lease_duration=20.0
        ) as gateway,
        Uvicorn(gateway.environ, isolation="auto") as server,
        Metronome() as metronome,
    ):
        first = gateway.wait_for_worker()
        held = gateway.request("app-hold")
        held.wait_for_ack()
        gateway.wait_for_run(gateway.send("seize", {"seconds": 2}), 30)
        server.wait_for_log("and that is where it moves now")
        server.wait_for_log("The Connect runtime has moved")
        gateway.wait_until(lambda: first.phase == "closed")
        assert first.disconnect_reason == "WORKER_SHUTDOWN"
        (second,) = gateway.ready_connections
        gateway.wait_until(
            lambda: any(
                each.connection is second
                for each in gateway.received("WORKER_HEARTBEAT")
            )
        )
        since = time.monotonic()
        ended = gateway.wait_for_run(gateway.send("seize", {"seconds": 8}), 50)
        beats = [
            each
            for each in gateway.received("WORKER_HEARTBEAT")
            if each.connection is second
        ]
        assert silence(beats, since, time.monotonic()) < 1.2 + metronome.lateness
        assert (ended.status, ended.attempts) == ("completed", 1)
        # Its lease has moved as well.
        assert held.nacks == 0
        checks = server.get("/healthz").json()["checks"]
        assert checks["runtime:isolation"][0]["observedValue"] == "process"
        server.post("/release?count=1")
        held.wait_for_reply()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_done_twice_in_a_move_under_load(seed: int) -> None:
    calls: list[str] = []

    async def main(gateway: LocalGateway) -> None:
        leave = asyncio.Event()

        async def work(ctx: inngest.Context) -> None:
            calls.append(ctx.run_id)
            if len(calls) % 2:
                await leave.wait()

        async def load() -> None:
            while not done:
                sent.append(await off_loop(gateway.send, "test"))

        sent: list[str] = []
        done = False
        async with auto(gateway, work) as worker:
            sent += [gateway.send("test") for _ in range(IN_FLIGHT)]
            await until(lambda: len(calls) >= IN_FLIGHT)
            loading = asyncio.ensure_future(load())
            starve(worker)
            await until(lambda: lives_in(worker) == "process", 60)
            done = True
            await loading
            leave.set()
            for event_id in sent:
                ended = await off_loop(gateway.wait_for_run, event_id, 30)
                assert (ended.status, ended.attempts) == ("completed", 1)
            assert len(gateway.ready_connections) == 1
        assert sorted(calls) == sorted({run.id for run in gateway.runs})

    with LocalGateway(extend_lease_interval="500ms") as gateway:
        run(lambda: main(gateway))


def test_where_nothing_can_be_started_it_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def noop(ctx: inngest.Context) -> None:
        pass

    async def main(gateway: LocalGateway) -> None:
        async with auto(gateway, noop) as worker:
            monkeypatch.setattr("sys.executable", "/nowhere/python")
            starve(worker)
            await until(lambda: "and stays in its thread" in caplog.text)
            ended = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert ended.status == "completed"
            assert lives_in(worker) == "thread"

    with LocalGateway() as gateway:
        run(lambda: main(gateway))


def test_a_shutdown_in_a_move_ends_in_order() -> None:
    async def hold(ctx: inngest.Context) -> None:
        await leave.wait()

    leave = asyncio.Event()

    async def main(gateway: LocalGateway) -> None:
        async with auto(gateway, hold) as worker:
            event_id = gateway.send("test")
            await off_loop(gateway.wait_until, lambda: gateway.executions)
            starve(worker)
            asyncio.get_running_loop().call_later(0.1, leave.set)
        ended = await off_loop(gateway.wait_for_run, event_id)
        assert (ended.status, ended.attempts) == ("completed", 1)
        await until(lambda: not children(os.getpid()))

    with LocalGateway() as gateway:
        run(lambda: main(gateway))


def test_one_that_dies_where_it_has_moved_is_replaced_there() -> None:
    async def noop(ctx: inngest.Context) -> None:
        pass

    async def main(gateway: LocalGateway) -> None:
        async with auto(gateway, noop) as worker:
            starve(worker)
            await until(lambda: lives_in(worker) == "process", 30)
            child = the_child()
            os.kill(child, signal.SIGKILL)
            await off_loop(wait_gone, child, 5)
            await off_loop(
                gateway.wait_until, lambda: len(gateway.connections) == 3, 30
            )
            ended = await off_loop(gateway.wait_for_run, gateway.send("test"), 30)
            assert ended.status == "completed"
            assert the_child() != child

    with LocalGateway() as gateway:
        run(lambda: main(gateway))
