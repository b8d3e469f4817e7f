"""An app with a function of every kind, for async and sync alike."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import threading
from typing import Any

import inngest

EVENT = inngest.TriggerEvent(event="app/event")
LATER = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)

context: contextvars.ContextVar[str] = contextvars.ContextVar("context", default="")


class UserError(Exception):
    pass


class ClientMiddleware(inngest.MiddlewareSync):
    def __init__(self, client: inngest.Inngest, raw_request: object) -> None:
        super().__init__(client, raw_request)
        self.raw_request = raw_request

    def transform_input(
        self,
        ctx: inngest.Context | inngest.ContextSync,
        function: inngest.Function[Any],
        steps: inngest.StepMemos,
    ) -> None:
        ctx.event.data = {**ctx.event.data, "seen_by_client": function.id}


class FunctionMiddleware(inngest.MiddlewareSync):
    def transform_output(self, result: inngest.TransformOutputResult) -> None:
        if isinstance(result.output, dict):
            result.output = {**result.output, "seen_by_function": True}


class FailingMiddleware(inngest.MiddlewareSync):
    def transform_input(self, *args: Any) -> None:
        raise UserError("from middleware")


def client() -> inngest.Inngest:
    return inngest.Inngest(
        app_id="app",
        api_base_url="http://127.0.0.1:1",
        is_production=False,
        middleware=[ClientMiddleware],
    )


def boom() -> str:
    raise UserError("step failed")


def retry_after() -> str:
    raise inngest.RetryAfterError("later", LATER)


def give_up() -> str:
    raise inngest.NonRetriableError("never")


def async_functions(client: inngest.Inngest) -> list[inngest.Function[Any]]:
    functions: list[inngest.Function[Any]] = []

    def add(handler: Any, **options: Any) -> None:
        name = handler.__name__.replace("_", "-")
        functions.append(
            client.create_function(fn_id=name, trigger=EVENT, **options)(handler)
        )

    async def returns(ctx: inngest.Context) -> object:
        return {"event": ctx.event.data, "attempt": ctx.attempt, "run": ctx.run_id}

    async def returns_none(ctx: inngest.Context) -> None:
        pass

    async def batch(ctx: inngest.Context) -> object:
        return [event.name for event in ctx.events]

    async def raises(ctx: inngest.Context) -> None:
        try:
            raise UserError("inner")
        except UserError as error:
            raise ValueError("outer") from error

    async def non_retriable(ctx: inngest.Context) -> None:
        give_up()

    async def retries_later(ctx: inngest.Context) -> None:
        retry_after()

    async def unserialisable(ctx: inngest.Context) -> Any:
        return {"set": {1}}

    async def step(ctx: inngest.Context) -> object:
        async def two() -> int:
            return 2

        one = await ctx.step.run("one", lambda: asyncio.sleep(0, 1))
        return one + await ctx.step.run("two", two)

    async def step_fails(ctx: inngest.Context) -> object:
        async def fail() -> str:
            return boom()

        try:
            return await ctx.step.run("fail", fail)
        except inngest.StepError as error:
            return f"handled {error.name}: {error.message}"

    async def step_gives_up(ctx: inngest.Context) -> object:
        async def fail() -> str:
            return give_up()

        return await ctx.step.run("fail", fail)

    async def step_retries_later(ctx: inngest.Context) -> object:
        async def fail() -> str:
            return retry_after()

        return await ctx.step.run("fail", fail)

    async def step_unserialisable(ctx: inngest.Context) -> object:
        async def output() -> Any:
            return {1}

        return await ctx.step.run("output", output)

    async def sleeps(ctx: inngest.Context) -> None:
        await ctx.step.sleep_until("nap", LATER)

    async def waits(ctx: inngest.Context) -> object:
        event = await ctx.step.wait_for_event(
            "wait", event="app/other", timeout=datetime.timedelta(hours=1)
        )
        return event and event.name

    async def parallel(ctx: inngest.Context) -> object:
        async def output(value: int) -> int:
            return value

        return await ctx.group.parallel(
            (
                lambda: ctx.step.run("one", output, 1),
                lambda: ctx.step.run("two", output, 2),
            )
        )

    async def fails_finally(ctx: inngest.Context) -> None:
        raise UserError("main")

    async def on_failure(ctx: inngest.Context) -> object:
        return {"failed": ctx.event.name}

    async def middleware(ctx: inngest.Context) -> object:
        return {"data": ctx.event.data}

    async def failing_middleware(ctx: inngest.Context) -> object:
        return {}

    for handler in (
        returns,
        returns_none,
        batch,
        raises,
        non_retriable,
        retries_later,
        unserialisable,
        step,
        step_fails,
        step_gives_up,
        step_retries_later,
        step_unserialisable,
        sleeps,
        waits,
        parallel,
    ):
        add(handler)
    add(
        fails_finally,
        on_failure=on_failure,
        retries=0,
        concurrency=[inngest.Concurrency(limit=2, key="event.data.key")],
        cancel=[inngest.Cancel(event="app/cancel", if_exp="true")],
        timeouts=inngest.Timeouts(finish=datetime.timedelta(minutes=5)),
    )
    add(middleware, middleware=[FunctionMiddleware])
    add(failing_middleware, middleware=[FailingMiddleware])
    return functions


def sync_functions(client: inngest.Inngest) -> list[inngest.Function[Any]]:
    functions: list[inngest.Function[Any]] = []

    def add(handler: Any, **options: Any) -> None:
        name = "sync-" + handler.__name__.replace("_", "-")
        functions.append(
            client.create_function(fn_id=name, trigger=EVENT, **options)(handler)
        )

    def returns(ctx: inngest.ContextSync) -> object:
        return {"event": ctx.event.data, "attempt": ctx.attempt, "run": ctx.run_id}

    def returns_none(ctx: inngest.ContextSync) -> None:
        pass

    def batch(ctx: inngest.ContextSync) -> object:
        return [event.name for event in ctx.events]

    def raises(ctx: inngest.ContextSync) -> None:
        try:
            raise UserError("inner")
        except UserError as error:
            raise ValueError("outer") from error

    def non_retriable(ctx: inngest.ContextSync) -> None:
        give_up()

    def retries_later(ctx: inngest.ContextSync) -> None:
        retry_after()

    def unserialisable(ctx: inngest.ContextSync) -> Any:
        return {"set": {1}}

    def step(ctx: inngest.ContextSync) -> object:
        return ctx.step.run("one", lambda: 1) + ctx.step.run("two", lambda: 2)

    def step_fails(ctx: inngest.ContextSync) -> object:
        try:
            return ctx.step.run("fail", boom)
        except inngest.StepError as error:
            return f"handled {error.name}: {error.message}"

    def step_gives_up(ctx: inngest.ContextSync) -> object:
        return ctx.step.run("fail", give_up)

    def step_retries_later(ctx: inngest.ContextSync) -> object:
        return ctx.step.run("fail", retry_after)

    def step_unserialisable(ctx: inngest.ContextSync) -> object:
        def output() -> Any:
            return {1}

        return ctx.step.run("output", output)

    def sleeps(ctx: inngest.ContextSync) -> None:
        ctx.step.sleep_until("nap", LATER)

    def waits(ctx: inngest.ContextSync) -> object:
        event = ctx.step.wait_for_event(
            "wait", event="app/other", timeout=datetime.timedelta(hours=1)
        )
        return event and event.name

    def parallel(ctx: inngest.ContextSync) -> object:
        return ctx.group.parallel(
            (
                lambda: ctx.step.run("one", lambda: 1),
                lambda: ctx.step.run("two", lambda: 2),
            )
        )

    def fails_finally(ctx: inngest.ContextSync) -> None:
        raise UserError("main")

    def on_failure(ctx: inngest.ContextSync) -> object:
        return {"failed": ctx.event.name}

    def middleware(ctx: inngest.ContextSync) -> object:
        return {"data": ctx.event.data}

    def failing_middleware(ctx: inngest.ContextSync) -> object:
        return {}

    for handler in (
        returns,
        returns_none,
        batch,
        raises,
        non_retriable,
        retries_later,
        unserialisable,
        step,
        step_fails,
        step_gives_up,
        step_retries_later,
        step_unserialisable,
        sleeps,
        waits,
        parallel,
    ):
        add(handler)
    add(fails_finally, on_failure=on_failure, retries=0)
    add(middleware, middleware=[FunctionMiddleware])
    add(failing_middleware, middleware=[FailingMiddleware])
    return functions


def functions(client: inngest.Inngest) -> list[inngest.Function[Any]]:
    return [*async_functions(client), *sync_functions(client)]


def thread_name() -> str:
    return threading.current_thread().name
