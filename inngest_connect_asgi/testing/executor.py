"""Events, and the runs that they start, cancel and wake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ..protocol.wire import connect as wire
from . import ulid
from .calls import build_request, payload
from .connection import Connection, Seen
from .driver import Driver
from .ending import FINISHED_EVENT, METADATA, cancels, events_of_end
from .expressions import matches
from .functions import JSON, Batch, Function, load_functions
from .log import Log
from .router import ExecutorRestarted, Router
from .runs import Run, Status, Step

__all__ = ["Executor", "Function", "Run", "Step", "build_request"]

T = TypeVar("T")

INVOKED_EVENT = "inngest/function.invoked"


class Executor:
    """Starts runs and ends them. Lives on the gateway's event loop."""

    def __init__(
        self, *, log: Log[Seen], router: Router, retry_delay: float, use_api: bool
    ) -> None:
        self.log = log
        self.router = router
        self.retry_delay = retry_delay
        self.use_api = use_api
        self.functions: dict[str, Function] = {}
        self.runs: list[Run] = []
        self.started_by: dict[str, list[Run]] = {}
        """By the id of the first event."""
        self.events: list[dict[str, JSON]] = []
        self._event_waiters: list[
            tuple[Callable[[dict[str, JSON]], bool], asyncio.Future[dict[str, JSON]]]
        ] = []
        self._batches: dict[str, list[dict[str, JSON]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def register(self, connection: Connection) -> None:
        """Take over the functions that a worker declares.

        Raises:
            ValueError: they are not the JSON that an HTTP sync would send.
        """
        declared = [
            function
            for app in connection.hello.apps
            for function in load_functions(app.app_name, app.functions)
        ]
        self.functions.update({function.id: function for function in declared})
        for function in declared:
            connection.functions.setdefault(function.app, set()).add(function.id)

    async def reset(self) -> None:
        """Forget everything, and end what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.functions.clear()
        self.runs.clear()
        self.started_by.clear()
        self.events.clear()
        self._batches.clear()

    # Events

    def receive(self, event: dict[str, JSON]) -> str:
        """Take an event, start what it triggers and return its id."""
        return str(self._take(event)["id"])

    def _take(self, event: dict[str, JSON]) -> dict[str, JSON]:
        event = {**event, "data": event.get("data") or {}}
        event["id"] = event.get("id") or ulid.new()
        event["ts"] = event.get("ts") or int(time.time() * 1000)
        self.events.append(event)
        self.log.append(
            Seen(time.monotonic(), "event", str(event["name"]), id=event["id"])
        )
        for wanted, waiter in self._event_waiters:
            if not waiter.done() and wanted(event):
                waiter.set_result(event)
        for run in list(self.runs):
            if cancels(run, event):
                self.cancel(run)
        for function in list(self.functions.values()):
            if any(
                name == event["name"] and matches(expression, {"event": event})
                for name, expression in function.events
            ):
                self._trigger(function, event)
        return event

    def _trigger(self, function: Function, event: dict[str, JSON]) -> None:
        if function.batch is None:
            self.start(function, [event])
            return
        events = self._batches.setdefault(function.id, [])
        events.append(event)
        if len(events) >= function.batch.max_size:
            self._start_batch(function, events)
        elif len(events) == 1:
            self._spawn(self._fill(function, function.batch, events))

    async def _fill(
        self, function: Function, batch: Batch, events: list[dict[str, JSON]]
    ) -> None:
        await asyncio.sleep(batch.timeout)
        if self._batches.get(function.id) is events:
            self._start_batch(function, events)

    def _start_batch(self, function: Function, events: list[dict[str, JSON]]) -> None:
        del self._batches[function.id]
        self.start(function, events)

    # Runs

    def start(self, function: Function, events: list[dict[str, JSON]]) -> Run:
        run = Run(ulid.new(), function, events)
        self.runs.append(run)
        self.started_by.setdefault(run.event["id"], []).append(run)
        self._note(run)
        self._spawn(Driver(self, run).drive())
        if function.start_timeout is not None:
            self._spawn(self._expire(run, function.start_timeout, begun=False))
        return run

    async def _expire(self, run: Run, timeout: float, *, begun: bool) -> None:
        await asyncio.sleep(timeout)
        if begun or not any(map(self._sent, run.request_ids)):
            self.cancel(run)

    def find(self, run_id: str) -> Run | None:
        return next((run for run in self.runs if run.id == run_id), None)

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _note(self, run: Run) -> None:
        self.log.append(
            Seen(
                time.monotonic(),
                "run",
                run.status,
                id=run.id,
                reason=run.function.id,
            )
        )

    def progressed(self) -> None:
        self.log.touch()

    def cancel(self, run: Run) -> None:
        """Do no more for a run; what a worker does now comes to nothing."""
        self.end(run, "cancelled")

    def end(
        self, run: Run, status: Status, *, output: JSON = None, error: JSON = None
    ) -> None:
        if run.status != "running":
            return
        run.end(status, output=output, error=error)
        self._note(run)
        for event in events_of_end(run):
            self.receive(event)

    # What runs wait for

    async def wait_for_event(
        self, run: Run, name: str, expression: str | None, timeout: float | None
    ) -> dict[str, JSON] | None:
        def wanted(event: dict[str, JSON]) -> bool:
            return event["name"] == name and matches(
                expression, {"event": run.event, "async": event}
            )

        try:
            return await self._wait(run, wanted, timeout)
        except asyncio.TimeoutError:
            return None

    async def invoke(
        self,
        run: Run,
        step_id: str,
        function_id: str,
        data: dict[str, JSON],
        timeout: float | None,
    ) -> JSON:
        function = self.functions.get(function_id)
        if function is None:
            message = f"could not find function with ID: {function_id}"
            return {"error": {"name": "Error", "message": message}}
        correlation_id = f"{run.id}.{step_id}"
        metadata = {"fn_id": function_id, "correlation_id": correlation_id}

        def wanted(event: dict[str, JSON]) -> bool:
            told = event["data"].get("correlation_id")
            return event["name"] == FINISHED_EVENT and bool(told == correlation_id)

        event = {"name": INVOKED_EVENT, "data": {**data, METADATA: metadata}}
        # As every event it may trigger others; this function runs in any case.
        self._trigger(function, self._take(event))
        finished = await self._wait(run, wanted, timeout)
        for key, memoized in (("error", "error"), ("result", "data")):
            if key in finished["data"]:
                return {memoized: finished["data"][key]}
        # One that was cancelled has neither, and is told of by the event itself.
        return finished

    async def _wait(
        self,
        run: Run,
        wanted: Callable[[dict[str, JSON]], bool],
        timeout: float | None,
    ) -> dict[str, JSON]:
        waiter = run.waiter()
        self._event_waiters.append((wanted, waiter))
        try:
            event: dict[str, JSON] = await run.wait(timeout, waiter)
        finally:
            self._event_waiters.remove((wanted, waiter))
        return event

    # Requests

    async def call(
        self, run: Run, step_id: str, attempt: int, job_id: str
    ) -> wire.SDKResponse:
        while True:
            with suppress(ExecutorRestarted):
                return await self._dispatch(run, step_id, attempt, job_id)

    async def _dispatch(
        self, run: Run, step_id: str, attempt: int, job_id: str
    ) -> wire.SDKResponse:
        run.check()
        request = build_request(
            app=run.function.app,
            function=run.function.id,
            payload=b"",
            run_id=run.id,
            request_id=job_id if self.router.one_id_per_job else None,
            step_id=step_id,
            job_id=job_id,
        )
        request.request_payload = payload(run, request, attempt, use_api=self.use_api)
        if not run.request_ids and run.function.finish_timeout is not None:
            self._spawn(self._expire(run, run.function.finish_timeout, begun=True))
        run.request_ids.append(request.request_id)
        execution = self._spawn(self.router.execute(request))
        try:
            await run.first([execution])
            if self._sent(request.request_id):
                # A worker that has it is left to finish, as by the server.
                await asyncio.wait([execution])
            run.check()
            return execution.result()
        finally:
            execution.cancel()

    def _sent(self, request_id: str) -> bool:
        delivery = self.router.requests.deliveries.get(request_id)
        return delivery is not None and bool(delivery.sent_to)
