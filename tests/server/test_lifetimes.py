"""Runs that outlive the worker or the connection that they began on."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections import Counter

import inngest
import pytest

from .suite import Gate, Server, Suite


class Steps:
    """A function with three steps, async and sync, the second of which waits."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.gate = Gate()
        self.ran: Counter[str] = Counter()
        wake = suite.event_name("wake")
        hour = datetime.timedelta(hours=1)

        @suite.function()
        async def steps(ctx: inngest.Context) -> str:
            await ctx.step.run("one", self._count, "one")
            await ctx.step.run("two", self._wait, "two")
            if ctx.event.data["pauses"]:
                await ctx.step.wait_for_event("wake", event=wake, timeout=hour)
            await ctx.step.run("three", self._count, "three")
            return "done"

        @suite.function()
        def steps_sync(ctx: inngest.ContextSync) -> str:
            ctx.step.run("one", self._count_sync, "one sync")
            ctx.step.run("two", self._wait_sync, "two sync")
            if ctx.event.data["pauses"]:
                ctx.step.wait_for_event("wake", event=wake, timeout=hour)
            ctx.step.run("three", self._count_sync, "three sync")
            return "done"

    async def _count(self, name: str) -> None:
        self.ran[name] += 1

    def _count_sync(self, name: str) -> None:
        self.ran[name] += 1

    async def _wait(self, name: str) -> None:
        await self._count(name)
        await self.gate.enter()

    def _wait_sync(self, name: str) -> None:
        self._count_sync(name)
        self.gate.enter_sync()

    async def begin(self, *, pauses: bool = False) -> str:
        """Start it, and return the event's id once the second steps run."""
        event_id = await self.suite.send(pauses=pauses)
        await self.suite.until(lambda: self.ran["two"] and self.ran["two sync"])
        return event_id

    async def end(self, event_id: str) -> None:
        """See that every step has run, and only once."""
        for outcome in await self.suite.outcomes(event_id):
            assert (outcome.status, outcome.output) == ("Completed", "done")
        assert len(self.ran) == 6
        assert set(self.ran.values()) == {1}


@pytest.mark.parametrize("reply_over", ["the old connection", "the new connection"])
def test_a_gateway_drains_in_the_middle_of_a_run(
    server: Server, suite: Suite, reply_over: str
) -> None:
    server.needs("draining a gateway on command")
    steps = Steps(suite)

    async def main() -> None:
        event_id = await steps.begin()
        if reply_over == "the old connection":
            steps.gate.open()
        await asyncio.to_thread(server.drain)
        steps.gate.open()
        await steps.end(event_id)

    suite.run(main)


def test_another_worker_takes_over_in_the_middle_of_a_run(suite: Suite) -> None:
    """As in a rolling deployment: the new one comes before the old one goes."""
    steps = Steps(suite)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as old:
            await old.enter_async_context(suite.worker(instance_id="old"))
            event_id = await steps.begin()
            async with suite.worker(instance_id="new"):
                stopped = asyncio.ensure_future(old.aclose())
                steps.gate.open()
                await stopped
                await steps.end(event_id)

    suite.run_alone(main)


def test_the_worker_is_restarted_in_the_middle_of_a_run(suite: Suite) -> None:
    """What runs may end, and the rest of the run waits for a worker."""
    steps = Steps(suite)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as old:
            await old.enter_async_context(suite.worker())
            event_id = await steps.begin(pauses=True)
            stopped = asyncio.ensure_future(old.aclose())
            steps.gate.open()
            await stopped
        async with suite.worker():
            await suite.repeat("wake", until=steps.end(event_id))

    suite.run_alone(main)


def test_apps_share_a_connection(suite: Suite) -> None:
    others = [suite.other_app() for _ in range(2)]
    served: list[str] = []

    for app in (suite, *others):

        @app.function(inngest.TriggerEvent(event=suite.event_name("go")))
        async def works(ctx: inngest.Context, app_id: str = app.id) -> str:
            async def note() -> str:
                served.append(app_id)
                return app_id

            return await ctx.step.run("note", note)

    async def main() -> None:
        outcomes = await suite.outcomes(await suite.send(), 3)
        ids = {app.id for app in (suite, *others)}
        assert {outcome.output for outcome in outcomes} == ids

    suite.run(main)
    assert len(served) == 3
