"""What runs have to do with events, and with each other."""

from __future__ import annotations

import datetime
import threading
import time
from typing import Any

import inngest

from .suite import SOON, Gate, Server, Suite

MATCH = "event.data.id == async.data.id"
LONG = datetime.timedelta(hours=1)


def triggered_by(event: str, suite: Suite, fn_id: str) -> inngest.TriggerEvent:
    """An event of Inngest's own that is about a run of this function."""
    expression = f"event.data.function_id == '{suite.id}-{fn_id}'"
    return inngest.TriggerEvent(event=event, expression=expression)


# Waiting


def test_it_waits_for_the_event_that_matches(suite: Suite) -> None:
    @suite.function()
    async def waits(ctx: inngest.Context) -> object:
        event = await ctx.step.wait_for_event(
            "wait", event=suite.event_name("reply"), if_exp=MATCH, timeout=LONG
        )
        assert event is not None
        return [event.name, event.data]

    @suite.function()
    def waits_sync(ctx: inngest.ContextSync) -> object:
        event = ctx.step.wait_for_event(
            "wait", event=suite.event_name("reply"), if_exp=MATCH, timeout=LONG
        )
        assert event is not None
        return [event.name, event.data]

    async def main() -> None:
        ended = suite.outcomes(await suite.send(id="a"))
        replies = {"id": "b"}, {"id": "a"}
        for outcome in await suite.repeat("reply", *replies, until=ended):
            assert outcome.status == "Completed"
            assert outcome.output == [suite.event_name("reply"), {"id": "a"}]

    suite.run(main)


def test_it_waits_for_an_event_no_longer_than_it_says(suite: Suite) -> None:
    @suite.function()
    async def waits(ctx: inngest.Context) -> object:
        event = await ctx.step.wait_for_event(
            "wait", event=suite.event_name("never"), timeout=SOON
        )
        return ["nothing" if event is None else "something"]

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert (outcome.status, outcome.output) == ("Completed", ["nothing"])

    suite.run(main)


# Invoking


def test_a_function_invokes_others(suite: Suite) -> None:
    other = suite.other_app()

    @suite.function("never")
    async def double(ctx: inngest.Context) -> int:
        number = ctx.event.data["number"]
        assert isinstance(number, int)
        return number * 2

    @other.function("never")
    def triple(ctx: inngest.ContextSync) -> int:
        number = ctx.event.data["number"]
        assert isinstance(number, int)
        return number * 3

    @suite.function()
    async def invokes(ctx: inngest.Context) -> list[object]:
        data = {"number": 7}
        return [
            await ctx.step.invoke("function", function=double, data=data),
            await ctx.step.invoke_by_id("id", function_id="double", data=data),
            await ctx.step.invoke_by_id(
                "another app's", app_id=other.id, function_id="triple", data=data
            ),
        ]

    @suite.function()
    def invokes_sync(ctx: inngest.ContextSync) -> list[object]:
        data = {"number": 7}
        return [
            ctx.step.invoke("function", function=double, data=data),
            ctx.step.invoke_by_id("id", function_id="double", data=data),
            ctx.step.invoke_by_id(
                "another app's", app_id=other.id, function_id="triple", data=data
            ),
        ]

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert (outcome.status, outcome.output) == ("Completed", [14, 14, 21])

    suite.run(main)


def test_an_invoked_function_fails_or_does_not_exist(suite: Suite) -> None:
    @suite.function("never", retries=0)
    async def fails(ctx: inngest.Context) -> None:
        raise ValueError("no")

    @suite.function()
    async def invokes(ctx: inngest.Context) -> list[str]:
        messages = []
        for function_id in ("fails", "unknown"):
            try:
                await ctx.step.invoke_by_id(function_id, function_id=function_id)
            except inngest.StepError as error:
                messages += [error.name, error.message]
        return messages

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.status == "Completed"
        assert outcome.output[:2] == ["ValueError", "no"]
        assert outcome.output[2] == "Error"
        assert f"{suite.id}-unknown" in outcome.output[3]

    suite.run(main)


def test_an_invoked_function_takes_too_long(suite: Suite) -> None:
    @suite.function("never")
    async def sleeps(ctx: inngest.Context) -> None:
        if ctx.run_id not in suite.unfinished:
            suite.unfinished.append(ctx.run_id)
        await ctx.step.sleep("long", LONG)

    @suite.function()
    async def invokes(ctx: inngest.Context) -> str:
        try:
            await ctx.step.invoke("sleeps", function=sleeps, timeout=SOON)
        except inngest.StepError as error:
            return error.name
        return "no error"

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.output == "InngestInvokeTimeoutError"

    suite.run(main)


# Cancelling


def test_an_event_cancels_the_run_that_it_matches(suite: Suite) -> None:
    asleep: dict[str, str] = {}
    went_on: list[object] = []
    cancelled: list[object] = []

    @suite.function(
        cancel=[inngest.Cancel(event=suite.event_name("stop"), if_exp=MATCH)]
    )
    async def sleeps(ctx: inngest.Context) -> None:
        identity = ctx.event.data["id"]

        async def note() -> None:
            asleep[str(identity)] = ctx.run_id

        await ctx.step.run("note", note)
        await ctx.step.wait_for_event(
            "wake", event=suite.event_name("wake"), timeout=LONG
        )
        went_on.append(identity)

    @suite.function(triggered_by("inngest/function.cancelled", suite, "sleeps"))
    async def hears(ctx: inngest.Context) -> None:
        cancelled.append(ctx.event.data["run_id"])

    async def main() -> None:
        stopped = await suite.send(id="a")
        goes_on = await suite.send(id="b")
        await suite.until(lambda: len(asleep) == 2)
        await suite.send("stop", id="a")
        outcome = await suite.outcome(stopped)
        assert (outcome.status, outcome.run_id) == ("Cancelled", asleep["a"])
        ended = suite.outcome(goes_on)
        assert (await suite.repeat("wake", until=ended)).status == "Completed"
        await suite.until(lambda: cancelled)

    suite.run(main)
    assert went_on == ["b"]
    assert cancelled == [asleep["a"]]


def test_what_runs_when_its_run_is_cancelled_comes_to_nothing(suite: Suite) -> None:
    gate = Gate()
    went_on: list[str] = []

    @suite.function(cancel=[inngest.Cancel(event=suite.event_name("stop"))])
    def works(ctx: inngest.ContextSync) -> None:
        ctx.step.run("work", gate.enter_sync)
        went_on.append("function")
        ctx.step.run("go on", lambda: went_on.append("step"))

    @suite.function("next")
    async def runs_after(ctx: inngest.Context) -> str:
        return "done"

    async def main() -> None:
        event_id = await suite.send()
        await gate.entered()
        await suite.send("stop")
        assert (await suite.outcome(event_id)).status == "Cancelled"
        gate.open()
        # The worker is none the worse for it.
        assert (await suite.outcome(await suite.send("next"))).output == "done"

    suite.run(main)
    assert went_on == []


def test_a_run_is_cancelled_over_http(suite: Suite) -> None:
    run_ids: list[str] = []

    @suite.function()
    async def sleeps(ctx: inngest.Context) -> None:
        async def note() -> None:
            run_ids.append(ctx.run_id)

        await ctx.step.run("note", note)
        await ctx.step.sleep("long", LONG)

    async def main() -> None:
        event_id = await suite.send()
        await suite.until(lambda: run_ids)
        await suite.cancel(run_ids[0])
        assert (await suite.outcome(event_id)).status == "Cancelled"

    suite.run(main)


def test_a_run_that_takes_too_long_is_cancelled(suite: Suite) -> None:
    went_on: list[str] = []

    @suite.function(timeouts=inngest.Timeouts(finish=SOON))
    async def sleeps(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", datetime.timedelta(seconds=3))
        went_on.append("function")

    async def main() -> None:
        assert (await suite.outcome(await suite.send())).status == "Cancelled"

    suite.run(main)
    assert went_on == []


# The ends of runs


def test_the_end_of_a_run_is_an_event(suite: Suite) -> None:
    heard: list[Any] = []

    @suite.function()
    async def works(ctx: inngest.Context) -> dict[str, str]:
        return {"made": "a teapot"}

    @suite.function(triggered_by("inngest/function.finished", suite, "works"))
    async def hears(ctx: inngest.Context) -> None:
        heard.append(ctx.event.data)

    async def main() -> None:
        outcome = await suite.outcome(await suite.send(number=7))
        await suite.until(lambda: heard)
        assert heard[0]["run_id"] == outcome.run_id
        assert heard[0]["result"] == {"made": "a teapot"}
        assert heard[0]["event"]["data"] == {"number": 7}

    suite.run(main)
    assert len(heard) == 1


# Many events


def test_events_come_in_batches(suite: Suite) -> None:
    batches: list[list[str]] = []

    def note(ctx: inngest.Context) -> None:
        batches.append(sorted(str(event.data["n"]) for event in ctx.events))

    @suite.function("full", batch_events=inngest.Batch(max_size=3, timeout=LONG / 60))
    async def full(ctx: inngest.Context) -> None:
        note(ctx)

    @suite.function("late", batch_events=inngest.Batch(max_size=3, timeout=SOON))
    async def late(ctx: inngest.Context) -> None:
        note(ctx)

    async def main() -> None:
        await suite.send_all("full", [{"n": n} for n in (1, 2, 3)])
        await suite.until(lambda: batches)
        await suite.send_all("late", [{"n": n} for n in (4, 5)])
        await suite.until(lambda: len(batches) == 2)

    suite.run(main)
    assert batches == [["1", "2", "3"], ["4", "5"]]


def test_a_function_runs_no_more_often_at_once_than_it_says(
    server: Server, suite: Suite
) -> None:
    server.needs("concurrency limits")
    lock = threading.Lock()
    running, most = 0, 0

    @suite.function(concurrency=[inngest.Concurrency(limit=1)])
    def alone(ctx: inngest.ContextSync) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        # Long enough that they would meet.
        time.sleep(0.3)
        with lock:
            running -= 1

    async def main() -> None:
        event_ids = await suite.send_all("go", [{"n": n} for n in range(4)])
        for event_id in event_ids:
            assert (await suite.outcome(event_id)).status == "Completed"

    suite.run(main)
    assert most == 1
