"""Functions and their runs."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ..wire import connect_pb2
from . import ulid
from .connection import Connection
from .durations import seconds_until
from .expressions import matches
from .log import Log, Seen
from .router import ExecutorRestarted, Router

__all__ = ["Executor", "Function", "Run", "Step"]

JSON = Any
"""Whatever ``json.loads`` returns."""

DEFAULT_RETRIES = 3
FAILED_EVENT = "inngest/function.failed"
INVOKED_EVENT = "inngest/function.invoked"
ACCOUNT_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "account.inngest.test"))
ENV_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "env.inngest.test"))


@dataclass(frozen=True)
class Function:
    """A function that a worker declared."""

    id: str
    """With the app in front, as ``shop-charge``: the slug."""
    app: str
    name: str
    events: tuple[tuple[str, str | None], ...]
    """The events that trigger it, each with its expression."""
    crons: tuple[str, ...]
    """Listed, but LocalGateway runs nothing by the clock."""
    max_attempts: int


@dataclass
class Step:
    """A step of a run."""

    id: str
    """The hashed id."""
    name: str
    op: str
    attempts: int = 1
    done: bool = False
    data: JSON = None
    error: JSON = None


@dataclass(eq=False)
class Run:
    """A run of a function, kept up to date until it ends."""

    id: str
    function: Function
    events: list[dict[str, JSON]]
    status: Literal["running", "completed", "failed"] = "running"
    output: JSON = None
    error: JSON = None
    """What the function failed with: ``name``, ``message`` and perhaps more."""
    attempts: int = 1
    """How often the function was tried; attempts at steps count in the step."""
    steps: dict[str, Step] = field(default_factory=dict)
    """By the name that the function gave them, ``name:1`` where one repeats."""
    request_ids: list[str] = field(default_factory=list)
    memos: dict[str, JSON] = field(default_factory=dict, repr=False)
    stack: list[str] = field(default_factory=list, repr=False)
    parallel: bool = field(default=False, repr=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def event(self) -> dict[str, JSON]:
        return self.events[0]


class Executor:
    """Starts runs and drives them. Lives on the gateway's event loop."""

    def __init__(
        self, *, log: Log, router: Router, retry_delay: float, use_api: bool
    ) -> None:
        self.log = log
        self.router = router
        self.retry_delay = retry_delay
        self.use_api = use_api
        self.functions: dict[str, Function] = {}
        self.runs: list[Run] = []
        self.events: list[dict[str, JSON]] = []
        self._event_waiters: list[
            tuple[Callable[[dict[str, JSON]], bool], asyncio.Future[dict[str, JSON]]]
        ] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, connection: Connection) -> None:
        """Take over the functions that a worker declares.

        Raises:
            ValueError: they are not the JSON that an HTTP sync would send.
        """
        declared = [
            parse_function(app.app_name, configuration)
            for app in connection.hello.apps
            for configuration in _load_functions(app.functions)
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
        self.events.clear()

    # Events

    def receive(self, event: dict[str, JSON]) -> str:
        """Take an event, start what it triggers and return its id."""
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
        for function in list(self.functions.values()):
            if any(
                name == event["name"] and matches(expression, {"event": event})
                for name, expression in function.events
            ):
                self.start(function, event)
        return str(event["id"])

    def start(self, function: Function, event: dict[str, JSON]) -> Run:
        run = Run(ulid.new(), function, [event])
        self.runs.append(run)
        self._note(run)
        self._spawn(self._drive(run))
        return run

    def find(self, run_id: str) -> Run | None:
        return next((run for run in self.runs if run.id == run_id), None)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

    # Runs

    async def _drive(self, run: Run) -> None:
        try:
            await self._discover(run)
        except Exception as exc:
            # Whoever waits for the run is to see what it was that did not work.
            message = f"LocalGateway could not run it: {type(exc).__name__}: {exc}"
            self._end(run, "failed", error={"name": "Error", "message": message})

    async def _discover(self, run: Run) -> None:
        """Call the function until it ends or waits for parallel steps."""
        attempt, job_id = 0, ""
        while run.status == "running":
            job_id = job_id if attempt else ulid.new()
            reply = await self._request(run, "step", attempt, job_id)
            if reply.status == connect_pb2.SDKResponseStatus.DONE:
                self._end(run, "completed", output=_loads(reply.body))
                return
            if reply.status == connect_pb2.SDKResponseStatus.ERROR:
                attempt = await self._fail(run, reply, attempt)
                continue
            ops = _operations(reply)
            if len(ops) > 1:
                run.parallel = True
            # A step that another branch has begun comes up again; it is theirs.
            new = [op for op in ops if not self._begun(run, op)]
            if not new:
                return
            if len(new) == 1 and new[0]["op"] in ("StepRun", "StepError", "StepFailed"):
                attempt = await self._finish_attempt(run, new[0], reply, attempt)
                continue
            await self._run_steps(run, new)
            attempt = 0

    async def _run_steps(self, run: Run, ops: list[dict[str, JSON]]) -> None:
        """Do the steps, side by side where there are several."""
        await asyncio.gather(*(self._run_branch(run, op) for op in ops))

    async def _run_branch(self, run: Run, op: dict[str, JSON]) -> None:
        await self._run_step(run, op)
        if (op.get("opts") or {}).get("parallelMode") == "race":
            await self._discover(run)

    async def _run_step(self, run: Run, op: dict[str, JSON]) -> None:
        step = self._step(run, op)
        opts = op.get("opts") or {}
        kind = op["op"]
        try:
            if kind == "Sleep":
                duration = str(opts.get("duration") or op.get("name"))
                await asyncio.sleep(seconds_until(duration))
                self._memoize(run, step, None)
            elif kind == "WaitForEvent":
                self._memoize(run, step, await self._wait_for_event(run, op))
            elif kind == "InvokeFunction":
                self._memoize(run, step, await self._invoke(run, opts))
            elif kind == "StepPlanned":
                await self._run_planned(run, step)
            elif kind in ("StepRun", "StepError", "StepFailed"):
                self._memoize(run, step, _result(op))
            else:
                raise ValueError(f"LocalGateway has no {kind}")
        except ValueError as exc:
            error = {"name": "Error", "message": str(exc)}
            self._memoize(run, step, {"error": error})

    async def _run_planned(self, run: Run, step: Step) -> None:
        attempt, job_id = 0, ulid.new()
        while run.status == "running" and not step.done:
            reply = await self._request(run, step.id, attempt, job_id)
            ops = [op for op in _operations(reply) if op["id"] == step.id]
            if ops:
                attempt = await self._finish_attempt(run, ops[0], reply, attempt)
            else:
                # An error outside of the step, or one that must not be retried.
                attempt = await self._fail(run, reply, attempt)

    async def _finish_attempt(
        self,
        run: Run,
        op: dict[str, JSON],
        reply: connect_pb2.SDKResponse,
        attempt: int,
    ) -> int:
        """Memoize how a step ended, or wait for its retry.

        Returns:
            The attempt that the next request is.
        """
        step = self._step(run, op)
        step.attempts = attempt + 1
        final = (
            op["op"] != "StepError"
            or reply.no_retry
            or attempt + 1 >= run.function.max_attempts
        )
        if final:
            self._memoize(run, step, _result(op))
            return 0
        self.log.touch()
        await asyncio.sleep(self._delay(reply))
        return attempt + 1

    async def _fail(
        self, run: Run, reply: connect_pb2.SDKResponse, attempt: int
    ) -> int:
        """Fail the run, or wait for its retry."""
        run.attempts = attempt + 1
        if reply.no_retry or attempt + 1 >= run.function.max_attempts:
            self._end(run, "failed", error=_loads(reply.body))
            return attempt
        self.log.touch()
        await asyncio.sleep(self._delay(reply))
        return attempt + 1

    def _delay(self, reply: connect_pb2.SDKResponse) -> float:
        try:
            if reply.retry_after.isdigit():
                return float(reply.retry_after)
            return seconds_until(reply.retry_after)
        except ValueError:
            return self.retry_delay

    def _end(
        self,
        run: Run,
        status: Literal["completed", "failed"],
        *,
        output: JSON = None,
        error: JSON = None,
    ) -> None:
        if run.status != "running":
            return
        run.status, run.output, run.error = status, output, error
        run.ended.set()
        self._note(run)
        # The handler of a failed handler would go on for ever.
        if status == "failed" and run.event["name"] != FAILED_EVENT:
            self.receive(
                {
                    "name": FAILED_EVENT,
                    "data": {
                        "function_id": run.function.id,
                        "run_id": run.id,
                        "error": error,
                        "event": run.event,
                        "events": run.events,
                    },
                }
            )

    # Steps

    def _begun(self, run: Run, op: dict[str, JSON]) -> bool:
        if op["id"] in run.memos:
            return True
        # A step that was tried and is to be tried again is in no one's hands.
        return any(
            step.id == op["id"] and step.op not in ("StepRun", "StepError")
            for step in run.steps.values()
        )

    def _step(self, run: Run, op: dict[str, JSON]) -> Step:
        userland = op.get("userland") or {}
        name = str(userland.get("id") or op.get("displayName") or op["id"])
        if userland.get("index"):
            name = f"{name}:{userland['index']}"
        return run.steps.setdefault(name, Step(op["id"], name, op["op"]))

    def _memoize(self, run: Run, step: Step, memo: JSON) -> None:
        step.done = True
        if isinstance(memo, Mapping) and "error" in memo:
            step.error = memo["error"]
        elif isinstance(memo, Mapping) and set(memo) == {"data"}:
            step.data = memo["data"]
        else:
            step.data = memo
        run.memos[step.id] = memo
        run.stack.append(step.id)
        self.log.touch()

    async def _wait_for_event(self, run: Run, op: dict[str, JSON]) -> JSON:
        opts = op.get("opts") or {}
        name = opts.get("event") or op.get("name")

        def wanted(event: dict[str, JSON]) -> bool:
            return event["name"] == name and matches(
                opts.get("if"), {"event": run.event, "async": event}
            )

        timeout = seconds_until(opts["timeout"]) if opts.get("timeout") else None
        waiter: asyncio.Future[dict[str, JSON]] = (
            asyncio.get_running_loop().create_future()
        )
        self._event_waiters.append((wanted, waiter))
        try:
            return await asyncio.wait_for(waiter, timeout)
        except asyncio.TimeoutError:
            return None
        finally:
            self._event_waiters.remove((wanted, waiter))

    async def _invoke(self, run: Run, opts: dict[str, JSON]) -> JSON:
        function = self.functions.get(str(opts.get("function_id")))
        if function is None:
            message = f"could not find function {opts.get('function_id')!r}"
            return {"error": {"name": "Error", "message": message}}
        payload = opts.get("payload") or {}
        invoked = self.start(
            function,
            {
                "name": INVOKED_EVENT,
                "id": ulid.new(),
                "ts": int(time.time() * 1000),
                "data": payload.get("data") or {},
            },
        )
        timeout = seconds_until(opts["timeout"]) if opts.get("timeout") else None
        try:
            await asyncio.wait_for(invoked.ended.wait(), timeout)
        except asyncio.TimeoutError:
            message = f"{function.id} took longer than {opts['timeout']}"
            return {"error": {"name": "Error", "message": message}}
        if invoked.status == "failed":
            return {"error": _error(invoked.error)}
        return {"data": invoked.output}

    # Requests

    async def _request(
        self, run: Run, step_id: str, attempt: int, job_id: str
    ) -> connect_pb2.SDKResponse:
        """Have an attempt executed, once more where the executor forgot about it."""
        while True:
            request = build_request(
                app=run.function.app,
                function=run.function.id,
                payload=b"",
                run_id=run.id,
                request_id=job_id if self.router.one_id_per_job else None,
                job_id=job_id,
                step_id=step_id,
            )
            request.request_payload = json.dumps(
                self._payload(run, request, attempt)
            ).encode()
            run.request_ids.append(request.request_id)
            with suppress(ExecutorRestarted):
                return await self.router.execute(request)

    def _payload(
        self, run: Run, request: connect_pb2.GatewayExecutorRequestData, attempt: int
    ) -> dict[str, JSON]:
        """The body of a call request (SDK_SPEC.md, 4.4.1 and 4.4.2)."""
        return {
            "ctx": {
                "attempt": attempt,
                "disable_immediate_execution": run.parallel,
                "env": "local",
                "fn_id": request.function_id,
                "job_id": request.job_id,
                "max_attempts": run.function.max_attempts,
                "request_id": request.request_id,
                "run_id": run.id,
                "stack": {"stack": run.stack, "current": len(run.stack)},
                "step_id": request.step_id,
                "use_api": self.use_api,
            },
            "event": run.event,
            "events": [] if self.use_api else run.events,
            "steps": {} if self.use_api else run.memos,
            "use_api": self.use_api,
            "version": 1,
        }


def build_request(
    *,
    app: str,
    function: str,
    payload: bytes,
    run_id: str | None = None,
    request_id: str | None = None,
    job_id: str | None = None,
    step_id: str = "step",
) -> connect_pb2.GatewayExecutorRequestData:
    return connect_pb2.GatewayExecutorRequestData(
        request_id=request_id or ulid.new(),
        account_id=ACCOUNT_ID,
        env_id=ENV_ID,
        app_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, app)),
        app_name=app,
        function_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, function)),
        function_slug=function,
        step_id=step_id,
        request_payload=payload,
        system_trace_ctx=_trace_context(),
        user_trace_ctx=_trace_context(),
        run_id=run_id or ulid.new(),
        job_id=job_id or ulid.new(),
    )


def _trace_context() -> bytes:
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return json.dumps({"traceparent": traceparent, "tracestate": ""}).encode()


def parse_function(app: str, configuration: dict[str, JSON]) -> Function:
    triggers = _dictionaries(configuration.get("triggers"))
    try:
        steps = configuration["steps"].values()
        retries = next(iter(steps))["retries"]["attempts"]
    except (AttributeError, KeyError, StopIteration, TypeError):
        retries = None
    return Function(
        id=configuration["id"],
        app=app,
        name=str(configuration.get("name") or configuration["id"]),
        events=tuple(
            (str(trigger["event"]), trigger.get("expression"))
            for trigger in triggers
            if trigger.get("event")
        ),
        crons=tuple(
            str(trigger["cron"]) for trigger in triggers if trigger.get("cron")
        ),
        max_attempts=1 + (retries if isinstance(retries, int) else DEFAULT_RETRIES),
    )


def _load_functions(data: bytes) -> list[dict[str, JSON]]:
    functions = json.loads(data or b"[]")
    if not isinstance(functions, list):
        raise ValueError("the functions are not an array")
    for function in functions:
        if not isinstance(function, dict) or not isinstance(function.get("id"), str):
            raise ValueError("a function has no id")
    return functions


def _dictionaries(value: JSON) -> list[dict[str, JSON]]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []


def _loads(body: bytes) -> JSON:
    """The body as JSON or, since a worker may send anything, as text."""
    try:
        return json.loads(body or b"null")
    except ValueError:
        return body.decode(errors="replace")


def _operations(reply: connect_pb2.SDKResponse) -> list[dict[str, JSON]]:
    if reply.status != connect_pb2.SDKResponseStatus.NOT_COMPLETED:
        return []
    return [
        op
        for op in _dictionaries(_loads(reply.body))
        if isinstance(op.get("id"), str) and isinstance(op.get("op"), str)
    ]


def _result(op: dict[str, JSON]) -> dict[str, JSON]:
    if op["op"] == "StepRun":
        return {"data": op.get("data")}
    return {"error": _error(op.get("error"))}


def _error(error: JSON) -> dict[str, JSON]:
    """An error as a memo holds it; the SDK wants a name and a message."""
    known = error if isinstance(error, Mapping) else {"message": str(error)}
    return {
        "name": str(known.get("name") or "Error"),
        "message": str(known.get("message") or ""),
        "stack": known.get("stack"),
    }
