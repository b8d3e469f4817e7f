"""What fails, what is tried again, and who hears of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import inngest

from .suite import SOON, Suite


class Refused(Exception):
    pass


def test_a_function_that_fails_is_tried_again(suite: Suite) -> None:
    attempts: list[int] = []

    @suite.function(retries=1)
    async def flaky(ctx: inngest.Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 0:
            raise Refused("not yet")
        return "at last"

    @suite.function(retries=1)
    def flaky_sync(ctx: inngest.ContextSync) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 0:
            raise Refused("not yet")
        return "at last"

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert (outcome.status, outcome.output) == ("Completed", "at last")

    suite.run(main)
    assert sorted(attempts) == [0, 0, 1, 1]


def test_a_function_without_retries_fails_once(suite: Suite) -> None:
    attempts: list[int] = []

    @suite.function(retries=0)
    async def fails(ctx: inngest.Context) -> None:
        attempts.append(ctx.attempt)
        raise Refused("no")

    @suite.function(retries=0)
    def fails_sync(ctx: inngest.ContextSync) -> None:
        attempts.append(ctx.attempt)
        raise Refused("no")

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert outcome.status == "Failed"
            assert outcome.output["name"] == "Refused"
            assert outcome.output["message"] == "no"
            assert "test_failures.py" in outcome.output["stack"]

    suite.run(main)
    assert attempts == [0, 0]


def test_a_non_retriable_error_ends_a_run(suite: Suite) -> None:
    attempts: list[int] = []

    @suite.function()
    async def refuses(ctx: inngest.Context) -> None:
        attempts.append(ctx.attempt)
        raise inngest.NonRetriableError("never")

    @suite.function()
    def refuses_in_a_step(ctx: inngest.ContextSync) -> None:
        def refuse() -> None:
            attempts.append(ctx.attempt)
            raise inngest.NonRetriableError("never")

        ctx.step.run("refuse", refuse)

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert outcome.status == "Failed"
            assert outcome.output["name"] == "NonRetriableError"
            assert outcome.output["message"] == "never"

    suite.run(main)
    assert attempts == [0, 0]


def test_an_error_says_when_to_retry(suite: Suite) -> None:
    attempts: Counter[str] = Counter()

    @suite.function()
    async def later(ctx: inngest.Context) -> int:
        attempts["function"] += 1
        if ctx.attempt == 0:
            raise inngest.RetryAfterError("later", SOON)
        return ctx.attempt

    @suite.function()
    def later_in_a_step(ctx: inngest.ContextSync) -> int:
        def attempt() -> int:
            attempts["step"] += 1
            if ctx.attempt == 0:
                raise inngest.RetryAfterError("later", SOON)
            return ctx.attempt

        return ctx.step.run("attempt", attempt)

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert (outcome.status, outcome.output) == ("Completed", 1)

    suite.run(main)
    assert attempts == {"function": 2, "step": 2}


def test_a_step_that_fails_is_tried_again_by_itself(suite: Suite) -> None:
    ran: Counter[str] = Counter()
    attempts: list[int] = []

    @suite.function(retries=1)
    async def flaky_step(ctx: inngest.Context) -> list[object]:
        async def done() -> int:
            ran["done"] += 1
            return ran["done"]

        async def flaky() -> str:
            attempts.append(ctx.attempt)
            if ctx.attempt == 0:
                raise Refused("not yet")
            return "at last"

        first = await ctx.step.run("done", done)
        second = await ctx.step.run("flaky", flaky)
        # Attempts are counted for each step anew.
        return [first, second, await ctx.step.run("done again", done), ctx.attempt]

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert (outcome.status, outcome.output) == (
            "Completed",
            [1, "at last", 2, 0],
        )

    suite.run(main)
    assert attempts == [0, 1]


def test_one_of_parallel_steps_is_tried_again(suite: Suite) -> None:
    ran: Counter[str] = Counter()

    @suite.function()
    async def parallel(ctx: inngest.Context) -> object:
        async def steady() -> str:
            ran["steady"] += 1
            return "steady"

        async def flaky() -> str:
            ran["flaky"] += 1
            if ctx.attempt == 0:
                raise inngest.RetryAfterError("later", SOON)
            return "at last"

        return await ctx.group.parallel(
            (
                lambda: ctx.step.run("steady", steady),
                lambda: ctx.step.run("flaky", flaky),
            )
        )

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert (outcome.status, outcome.output) == (
            "Completed",
            ["steady", "at last"],
        )

    suite.run(main)
    assert ran == {"steady": 1, "flaky": 2}


def test_a_step_error_is_caught(suite: Suite) -> None:
    @suite.function(retries=0)
    async def catches(ctx: inngest.Context) -> list[str]:
        async def refuse() -> None:
            raise Refused("no")

        try:
            await ctx.step.run("refuse", refuse)
        except inngest.StepError as error:
            return [error.name, error.message]
        return []

    @suite.function(retries=0)
    def catches_sync(ctx: inngest.ContextSync) -> list[str]:
        def refuse() -> None:
            raise Refused("no")

        try:
            ctx.step.run("refuse", refuse)
        except inngest.StepError as error:
            return [error.name, error.message]
        return []

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert (outcome.status, outcome.output) == ("Completed", ["Refused", "no"])

    suite.run(main)


def test_a_step_error_that_nobody_catches_fails_the_run(suite: Suite) -> None:
    ran: Counter[str] = Counter()

    @suite.function(retries=0)
    async def passes_on(ctx: inngest.Context) -> None:
        async def refuse() -> None:
            ran["refuse"] += 1
            raise Refused("no")

        await ctx.step.run("refuse", refuse)

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.status == "Failed"
        assert outcome.output["message"] == "no"

    suite.run(main)
    assert ran == {"refuse": 1}


def test_output_that_is_no_json_fails_the_run(suite: Suite) -> None:
    @suite.function(retries=0)
    async def unserialisable(ctx: inngest.Context) -> Any:
        return {1, 2}

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.status == "Failed"
        assert outcome.output["name"] == "OutputUnserializableError"

    suite.run(main)


def test_a_failure_handler_hears_what_failed(suite: Suite) -> None:
    heard: list[Any] = []

    async def handler(ctx: inngest.Context) -> None:
        heard.append(ctx.event)

    def handler_sync(ctx: inngest.ContextSync) -> None:
        heard.append(ctx.event)

    @suite.function(retries=0, on_failure=handler)
    async def fails(ctx: inngest.Context) -> None:
        raise Refused("no")

    @suite.function(retries=0, on_failure=handler_sync)
    def fails_sync(ctx: inngest.ContextSync) -> None:
        raise Refused("no")

    async def main() -> None:
        event_id = await suite.send(number=7)
        outcomes = await suite.outcomes(event_id)
        await suite.until(lambda: len(heard) == 2)
        told = {event.data["run_id"]: event for event in heard}
        assert set(told) == {outcome.run_id for outcome in outcomes}
        for event in heard:
            assert event.name == "inngest/function.failed"
            assert event.data["error"]["name"] == "Refused"
            assert event.data["error"]["message"] == "no"
            assert event.data["event"]["data"] == {"number": 7}
            assert event.data["function_id"] in (
                f"{suite.id}-fails",
                f"{suite.id}-fails-sync",
            )

    suite.run(main)
