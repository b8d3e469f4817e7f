"""A server that forgot what it had sent, and sends it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import inngest
import pytest

from inngest_connect_asgi import InngestConnectMiddleware, ends
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.testing.calls import call_request

from ..harness import deliveries_of, off_loop, run, until, worker

pytestmark = pytest.mark.usefixtures("isolation")


class Held:
    """Two steps, the second of which waits until it may go on."""

    def __init__(self) -> None:
        self.entered, self.leave = asyncio.Event(), asyncio.Event()
        self.calls: Counter[str] = Counter()

    async def steps(self, ctx: inngest.Context) -> str:
        async def first() -> str:
            self.calls["first"] += 1
            return "one"

        async def second() -> str:
            self.calls["second"] += 1
            self.entered.set()
            await self.leave.wait()
            return "two"

        return await ctx.step.run("first", first) + await ctx.step.run("second", second)


def repeated(app: InngestConnectMiddleware) -> int:
    value: int = app._health.report(details=True)["checks"]["requests:repeated"][0][
        "observedValue"
    ]
    return value


@pytest.mark.parametrize("request_ids", ["dispatch", "job"])
@pytest.mark.parametrize("leases", ["lost", "kept", "over"])
def test_what_runs_here_is_not_run_again(leases: Any, request_ids: Any) -> None:
    async def main(gateway: LocalGateway) -> None:
        held = Held()
        async with worker(gateway, held.steps) as app:
            event_id = gateway.send("test")
            await held.entered.wait()
            await off_loop(gateway.restart_executor, leases)
            if request_ids == "dispatch":
                # The dispatch of the executor that is there now may not be made yet.
                ids = gateway.runs[0].request_ids
                await until(lambda: ids[-1] in deliveries_of(gateway))
                job_id = deliveries_of(gateway)[ids[-1]].job_id
                await off_loop(
                    gateway.wait_until,
                    lambda: (
                        Counter(
                            each.job_id
                            for each in deliveries_of(gateway).values()
                            if each.acked_by
                        )[job_id]
                        == 2
                    ),
                    20,
                )
            held.leave.set()
            ended = await off_loop(gateway.wait_for_run, event_id, 20)
            assert (ended.status, ended.output) == ("completed", "onetwo")
            assert held.calls == {"first": 1, "second": 1}
            if request_ids == "dispatch":
                await until(lambda: repeated(app) == 1)

    # Where it waits for the lease to be over, the worker must not extend it.
    interval = "1m" if leases != "lost" else "1s"
    with LocalGateway(
        request_ids=request_ids, lease_duration=2.0, extend_lease_interval=interval
    ) as gateway:
        run(lambda: main(gateway))


def test_what_has_ended_here_is_told_again() -> None:
    async def main(gateway: LocalGateway) -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> int:
            nonlocal calls
            calls += 1
            return calls

        payload = call_request()
        async with worker(gateway, count) as app:
            first = gateway.request("app-count", payload, job_id="job", run_id="run")
            reply = await off_loop(first.wait_for_reply)
            again = gateway.request("app-count", payload, job_id="job", run_id="run")
            assert (await off_loop(again.wait_for_reply)).body == reply.body
            await until(lambda: repeated(app) == 1)
            assert calls == 1
            # By now there is no connection on which it was delivered.
            gateway.drop()
            await off_loop(
                gateway.wait_until,
                lambda: len(gateway.connections) == 2 and gateway.ready_connections,
            )
            again = gateway.request("app-count", payload, job_id="job", run_id="run")
            assert (await off_loop(again.wait_for_reply)).body == reply.body
            await until(lambda: repeated(app) == 2)
            assert calls == 1

    with LocalGateway() as gateway:
        run(lambda: main(gateway))


def test_one_that_could_not_be_started_has_ended() -> None:
    spawn = ends.spawn

    def fail(coroutine: Any, ended: Any, *, name: str | None = None) -> Any:
        if name != "app-count":
            return spawn(coroutine, ended, name=name)
        coroutine.close()
        raise MemoryError

    async def main(gateway: LocalGateway) -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> None:
            nonlocal calls
            calls += 1

        payload = call_request()
        async with worker(gateway, count):
            # Its reply stays here, so that the attempt is known.
            gateway.faults.mute = {"WORKER_REPLY_ACK"}
            gateway.faults.flush = 503
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ends, "spawn", fail)
                first = gateway.request("app-count", payload, job_id="j", run_id="r")
                reply = await off_loop(first.wait_for_reply)
            assert reply.status == wire.ERROR
            again = gateway.request("app-count", payload, job_id="j", run_id="r")
            assert (await off_loop(again.wait_for_reply)).body == reply.body
            assert calls == 0
            gateway.faults.reset()

    with LocalGateway() as gateway:
        run(lambda: main(gateway))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ctx: ctx.update(attempt=1), id="a retry"),
        pytest.param(
            lambda ctx: ctx["stack"].update(stack=["a"], current=1), id="another state"
        ),
    ],
)
def test_another_attempt_runs(change: Callable[[Any], object]) -> None:
    async def main(gateway: LocalGateway) -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> int:
            nonlocal calls
            calls += 1
            return calls

        async with worker(gateway, count) as app:
            payload = call_request()
            first = gateway.request("app-count", payload, job_id="job", run_id="run")
            await off_loop(first.wait_for_reply)
            change(payload["ctx"])
            second = gateway.request("app-count", payload, job_id="job", run_id="run")
            assert (await off_loop(second.wait_for_reply)).status == wire.DONE
            assert (calls, repeated(app)) == (2, 0)

    with LocalGateway() as gateway:
        run(lambda: main(gateway))


def test_without_memory_what_has_ended_runs_again() -> None:
    async def main(gateway: LocalGateway) -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> int:
            nonlocal calls
            calls += 1
            return calls

        payload = call_request()
        async with worker(gateway, count, outcome_buffer_size=0) as app:
            for _ in range(2):
                request = gateway.request(
                    "app-count", payload, job_id="job", run_id="run"
                )
                await off_loop(request.wait_for_reply)
                # Until its delivery is known, it is there for whoever asks.
                await until(lambda: _undelivered(app) == 0)
            assert (calls, repeated(app)) == (2, 0)

    with LocalGateway() as gateway:
        run(lambda: main(gateway))


def _undelivered(app: InngestConnectMiddleware) -> int:
    checks = app._health.report(details=True)["checks"]
    value: int = checks["replies:waiting"][0]["observedValue"]
    return value
