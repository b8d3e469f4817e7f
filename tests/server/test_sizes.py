"""What is large: events, outputs, and all that a run remembers."""

from __future__ import annotations

from collections import Counter

import inngest

from inngest_connect_asgi.worker.outcomes import MAX_BODY_SIZE

from .suite import Suite

MEGABYTE = 1024 * 1024


def test_large_outputs_arrive_whole(suite: Suite) -> None:
    @suite.function()
    async def large(ctx: inngest.Context) -> str:
        async def output() -> str:
            return "s" * 3 * MEGABYTE

        kept = await ctx.step.run("large", output)
        return kept.replace("s", "f")

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.status == "Completed"
        assert outcome.output == "f" * 3 * MEGABYTE

    suite.run(main)


def test_a_large_event_is_fetched_over_http(suite: Suite) -> None:
    """It would be in the request twice, and so the request is too large."""

    @suite.function()
    async def weighs(ctx: inngest.Context) -> list[int]:
        return [len(str(event.data["text"])) for event in (ctx.event, *ctx.events)]

    @suite.function()
    def weighs_sync(ctx: inngest.ContextSync) -> list[int]:
        return [len(str(event.data["text"])) for event in (ctx.event, *ctx.events)]

    size = 5 * MEGABYTE // 2

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send(text="e" * size)):
            assert outcome.status == "Completed"
            assert outcome.output == [size, size]

    suite.run(main)


def test_large_steps_are_fetched_over_http(suite: Suite) -> None:
    ran: Counter[str] = Counter()

    @suite.function()
    async def remembers(ctx: inngest.Context) -> list[int]:
        async def output(name: str) -> str:
            ran[name] += 1
            return name * MEGABYTE

        names = ["ab", "cd", "ef"]
        return [len(await ctx.step.run(name, output, name)) for name in names]

    @suite.function()
    def remembers_sync(ctx: inngest.ContextSync) -> list[int]:
        def output(name: str) -> str:
            ran[f"{name} sync"] += 1
            return name * MEGABYTE

        names = ["ab", "cd", "ef"]
        return [len(ctx.step.run(name, output, name)) for name in names]

    async def main() -> None:
        for outcome in await suite.outcomes(await suite.send()):
            assert outcome.status == "Completed"
            assert outcome.output == [2 * MEGABYTE] * 3

    suite.run(main)
    assert len(ran) == 6
    assert set(ran.values()) == {1}


def test_an_output_that_is_too_large_fails_the_run(suite: Suite) -> None:
    attempts: list[int] = []

    @suite.function()
    async def too_large(ctx: inngest.Context) -> str:
        attempts.append(ctx.attempt)
        return "x" * MAX_BODY_SIZE

    async def main() -> None:
        outcome = await suite.outcome(await suite.send())
        assert outcome.status == "Failed"
        assert outcome.output["name"] == "OutputTooLargeError"

    suite.run(main)
    assert attempts == [0]
