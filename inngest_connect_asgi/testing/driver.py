"""How a run gets from its first request to its end."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..protocol.wire import connect as wire
from . import ulid
from .calls import operations, parse_body, step_memo
from .durations import seconds_until
from .functions import JSON
from .runs import Over, Run, Status

__all__ = ["Driver", "Engine"]

INVOKE_TIMED_OUT = {
    "error": "InngestInvokeTimeoutError: "
    "Timed out waiting for invoked function to complete",
    "name": "InngestInvokeTimeoutError",
    "message": "Timed out waiting for invoked function to complete",
}
"""What an invocation fails with in time (pkg/execution/execution.go)."""


class Engine(Protocol):
    """What a driver needs of the executor."""

    retry_delay: float

    async def call(
        self, run: Run, step_id: str, attempt: int, job_id: str
    ) -> wire.SDKResponse:
        """Have a worker go on with a run."""
        ...

    async def wait_for_event(
        self, run: Run, name: str, expression: str | None, timeout: float | None
    ) -> dict[str, JSON] | None:
        """Return the event, or ``None`` where none came in time."""
        ...

    async def invoke(
        self,
        run: Run,
        step_id: str,
        function_id: str,
        data: dict[str, JSON],
        timeout: float | None,
    ) -> JSON:
        """Run a function, and return what to memoize of it.

        Raises:
            TimeoutError: It did not end within ``timeout`` seconds.
        """
        ...

    def end(
        self, run: Run, status: Status, *, output: JSON = None, error: JSON = None
    ) -> None:
        """End a run that has not ended yet, and tell of it."""
        ...

    def progressed(self) -> None:
        """Have everyone who waits for a run look again."""
        ...


class Driver:
    """Drives one run. Lives on the gateway's event loop."""

    def __init__(self, engine: Engine, run: Run) -> None:
        self.engine = engine
        self.run = run

    async def drive(self) -> None:
        try:
            await self._discover()
        except Over:
            pass
        except Exception as exc:
            # Whoever waits for the run is to see what it was that did not work.
            message = f"LocalGateway could not run it: {type(exc).__name__}: {exc}"
            error = {"name": "Error", "message": message}
            self.engine.end(self.run, "failed", error=error)

    async def _discover(self) -> None:
        """Call the function until it ends or waits for parallel steps."""
        run = self.run
        attempt, job_id = 0, ulid.new()
        while True:
            reply = await self.engine.call(run, "step", attempt, job_id)
            if reply.status == wire.SDKResponseStatus.DONE:
                self.engine.end(run, "completed", output=parse_body(reply.body))
                return
            if reply.status == wire.SDKResponseStatus.ERROR:
                attempt = await self._fail(reply, attempt)
                continue
            ops = operations(reply)
            if len(ops) > 1:
                run.parallel = True
            # A step that another branch has begun comes up again; it is theirs.
            new = [op for op in ops if not run.begun(op)]
            if not new:
                return
            if len(new) == 1 and new[0]["op"] in ("StepRun", "StepError", "StepFailed"):
                attempt = await self._finish_attempt(new[0], reply, attempt)
            else:
                await asyncio.gather(*(self._run_branch(op) for op in new))
                attempt = 0
            if attempt == 0:
                # Every retry is the same job, and whatever comes next a new one.
                job_id = ulid.new()

    async def _run_branch(self, op: dict[str, JSON]) -> None:
        await self._run_step(op)
        if (op.get("opts") or {}).get("parallelMode") == "race":
            await self._discover()

    async def _run_step(self, op: dict[str, JSON]) -> None:
        run = self.run
        step = run.step(op)
        opts = op.get("opts") or {}
        kind = op["op"]
        try:
            if kind == "Sleep":
                duration = str(opts.get("duration") or op.get("name"))
                await run.sleep(seconds_until(duration))
                memo: JSON = None
            elif kind == "WaitForEvent":
                memo = await self.engine.wait_for_event(
                    run,
                    str(opts.get("event") or op.get("name")),
                    opts.get("if"),
                    _timeout(opts),
                )
            elif kind == "InvokeFunction":
                memo = await self._invoke(op["id"], opts)
            elif kind == "StepPlanned":
                await self._run_planned(op)
                return
            elif kind in ("StepRun", "StepError", "StepFailed"):
                memo = step_memo(op)
            else:
                raise ValueError(f"LocalGateway has no {kind}")
        except ValueError as exc:
            memo = {"error": {"name": "Error", "message": str(exc)}}
        run.memoize(step, memo)
        self.engine.progressed()

    async def _run_planned(self, planned: dict[str, JSON]) -> None:
        step = self.run.step(planned)
        attempt, job_id = 0, ulid.new()
        while not step.done:
            reply = await self.engine.call(self.run, step.id, attempt, job_id)
            ops = [op for op in operations(reply) if op["id"] == step.id]
            if ops:
                attempt = await self._finish_attempt(ops[0], reply, attempt)
            else:
                # An error outside of the step, or one that must not be retried.
                attempt = await self._fail(reply, attempt)

    async def _finish_attempt(
        self, op: dict[str, JSON], reply: wire.SDKResponse, attempt: int
    ) -> int:
        """Memoize how a step ended, or wait for its retry.

        Returns:
            The attempt that the next request is.
        """
        step = self.run.step(op)
        step.attempts = attempt + 1
        if op["op"] != "StepError" or self._was_last(reply, attempt):
            self.run.memoize(step, step_memo(op))
            self.engine.progressed()
            return 0
        return await self._retry(reply, attempt)

    async def _fail(self, reply: wire.SDKResponse, attempt: int) -> int:
        """Fail the run, or wait for its retry."""
        self.run.attempts = attempt + 1
        if self._was_last(reply, attempt):
            self.engine.end(self.run, "failed", error=parse_body(reply.body))
            raise Over
        return await self._retry(reply, attempt)

    def _was_last(self, reply: wire.SDKResponse, attempt: int) -> bool:
        return reply.no_retry or attempt + 1 >= self.run.function.max_attempts

    async def _retry(self, reply: wire.SDKResponse, attempt: int) -> int:
        self.engine.progressed()
        await self.run.sleep(self._delay(reply))
        return attempt + 1

    def _delay(self, reply: wire.SDKResponse) -> float:
        after = reply.retry_after or ""
        try:
            return float(after) if after.isdigit() else seconds_until(after)
        except ValueError:
            return self.engine.retry_delay

    async def _invoke(self, step_id: str, opts: dict[str, JSON]) -> JSON:
        data = dict((opts.get("payload") or {}).get("data") or {})
        function_id = str(opts.get("function_id"))
        try:
            return await self.engine.invoke(
                self.run, step_id, function_id, data, _timeout(opts)
            )
        except asyncio.TimeoutError:
            return {"error": INVOKE_TIMED_OUT}


def _timeout(opts: dict[str, JSON]) -> float | None:
    return seconds_until(opts["timeout"]) if opts.get("timeout") else None
