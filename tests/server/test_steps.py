"""Every kind of step, in async functions and in sync ones."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from typing import Any

import inngest

from .suite import SOON, Suite


def test_a_step_runs_once_and_its_result_stays(suite: Suite) -> None:
    ran: Counter[str] = Counter()

    @suite.function()
    async def steps(ctx: inngest.Context) -> object:
        async def count(name: str) -> dict[str, int]:
            ran[name] += 1
            return {name: ran[name]}

        first = await ctx.step.run("first", count, "first")
        return [first, await ctx.step.run("second", count, "second"), ctx.attempt]

    @suite.function()
    def steps_sync(ctx: inngest.ContextSync) -> object:
        def count(name: str) -> dict[str, int]:
            ran[name + " sync"] += 1
            return {name: ran[name + " sync"]}

        first = ctx.step.run("first", count, "first")
        return [first, ctx.step.run("second", count, "second"), ctx.attempt]

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert outcome.status == "Completed"
            assert outcome.output == [{"first": 1}, {"second": 1}, 0]

    suite.run(main)
    assert set(ran.values()) == {1}
    assert len(ran) == 4


def test_a_step_id_that_repeats_is_another_step(suite: Suite) -> None:
    @suite.function()
    async def loop(ctx: inngest.Context) -> list[int]:
        async def square(number: int) -> int:
            return number * number

        return [await ctx.step.run("square", square, number) for number in range(3)]

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.output == [0, 1, 4]

    suite.run(main)


def test_a_function_without_steps_gets_its_event_and_returns_nothing(
    suite: Suite,
) -> None:
    seen: list[Any] = []

    @suite.function()
    async def plain(ctx: inngest.Context) -> None:
        seen.append((ctx.event.name, ctx.event.data, len(ctx.events), ctx.attempt))

    @suite.function()
    def plain_sync(ctx: inngest.ContextSync) -> None:
        seen.append((ctx.event.name, ctx.event.data, len(ctx.events), ctx.attempt))

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send(word="ä€😀")):
            assert (outcome.status, outcome.output) == ("Completed", None)

    suite.run(main)
    assert seen == [(suite.event_name("go"), {"word": "ä€😀"}, 1, 0)] * 2


def test_it_sleeps_between_steps(suite: Suite) -> None:
    ran: list[str] = []
    times: list[float] = []

    @suite.function()
    async def sleeps(ctx: inngest.Context) -> str:
        async def note(name: str) -> None:
            ran.append(name)
            times.append(time.monotonic())

        await ctx.step.run("before", note, "before")
        await ctx.step.sleep("nap", SOON)
        await ctx.step.run("after", note, "after")
        return "awake"

    @suite.function()
    def sleeps_sync(ctx: inngest.ContextSync) -> str:
        # One that is over already is no sleep.
        ctx.step.sleep_until("past", datetime.datetime.now() - SOON)
        ctx.step.sleep_until("nap", datetime.datetime.now() + SOON)
        return "awake"

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert (outcome.status, outcome.output) == ("Completed", "awake")

    suite.run(main)
    assert ran == ["before", "after"]
    # The server rounds to whole seconds.
    assert times[1] - times[0] >= 0.5


def test_a_step_sends_events_once(suite: Suite) -> None:
    heard: list[object] = []
    sent: list[list[str]] = []

    @suite.function()
    async def sends(ctx: inngest.Context) -> list[str]:
        event = inngest.Event(name=suite.event_name("heard"), data={"by": "async"})
        ids = await ctx.step.send_event("send", event)
        await ctx.step.sleep("a moment", 0)
        sent.append(ids)
        return ids

    @suite.function()
    def sends_sync(ctx: inngest.ContextSync) -> list[str]:
        event = inngest.Event(name=suite.event_name("heard"), data={"by": "sync"})
        ids = ctx.step.send_event("send", event)
        ctx.step.sleep("a moment", 0)
        sent.append(ids)
        return ids

    @suite.function("heard")
    async def hears(ctx: inngest.Context) -> None:
        heard.append(ctx.event.data["by"])

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert outcome.output in sent
            (event_id,) = outcome.output
            assert (await suite.outcome(event_id)).status == "Completed"

    suite.run(main)
    assert sorted(map(str, heard)) == ["async", "sync"]


def test_parallel_steps_of_every_kind(suite: Suite) -> None:
    ran: Counter[str] = Counter()

    @suite.function("double")
    async def double(ctx: inngest.Context) -> int:
        number = ctx.event.data["number"]
        assert isinstance(number, int)
        return number * 2

    @suite.function()
    async def parallel(ctx: inngest.Context) -> object:
        async def count(name: str) -> int:
            ran[name] += 1
            return ran[name]

        before = await ctx.step.run("before", count, "before")
        together = await ctx.group.parallel(
            (
                lambda: ctx.step.run("one", count, "one"),
                lambda: ctx.step.sleep("nap", 1),
                lambda: ctx.step.invoke("double", function=double, data={"number": 4}),
                lambda: ctx.step.run("two", count, "two"),
            )
        )
        return [before, together, await ctx.step.run("after", count, "after")]

    @suite.function()
    def parallel_sync(ctx: inngest.ContextSync) -> object:
        def count(name: str) -> int:
            ran[name] += 1
            return ran[name]

        before = ctx.step.run("before", count, "before sync")
        together = ctx.group.parallel(
            (
                lambda: ctx.step.run("one", count, "one sync"),
                lambda: ctx.step.sleep("nap", 1),
                lambda: ctx.step.invoke("double", function=double, data={"number": 4}),
                lambda: ctx.step.run("two", count, "two sync"),
            )
        )
        return [before, together, ctx.step.run("after", count, "after sync")]

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert outcome.status == "Completed", outcome
            assert outcome.output == [1, [1, None, 8, 1], 1]

    suite.run(main)
    assert len(ran) == 8
    assert set(ran.values()) == {1}


def test_middleware_sees_every_request(suite: Suite) -> None:
    seen: list[str] = []

    class Middleware(inngest.MiddlewareSync):
        def transform_input(
            self,
            ctx: inngest.Context | inngest.ContextSync,
            function: inngest.Function[Any],
            steps: inngest.StepMemos,
        ) -> None:
            ctx.event.data = {**ctx.event.data, "added": True}

        def before_execution(self) -> None:
            seen.append("before")

        def after_execution(self) -> None:
            seen.append("after")

        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            if isinstance(result.output, str):
                result.output = result.output.upper()

    @suite.function(middleware=[Middleware])
    async def observed(ctx: inngest.Context) -> str:
        async def say() -> str:
            return "said"

        assert ctx.event.data["added"] is True
        return await ctx.step.run("say", say) + " and done"

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.output == "SAID AND DONE"

    suite.run(main)
    # A request for the step, and one for the rest.
    assert seen == ["before", "after"] * 2
