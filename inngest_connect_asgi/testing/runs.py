"""Runs, and the steps that they are made of."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .functions import JSON, Function

__all__ = ["Over", "Run", "Status", "Step", "size"]

Status = Literal["running", "completed", "failed", "cancelled"]


class Over(Exception):
    """The run has ended, and nobody waits for what it still waited for."""


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
    status: Status = "running"
    output: JSON = None
    error: JSON = None
    """What the function failed with: ``name``, ``message`` and perhaps more."""
    attempts: int = 1
    """How often the function was tried; attempts at steps count in the step."""
    steps: dict[str, Step] = field(default_factory=dict)
    """By the name that the function gave them, ``name:1`` where one repeats."""
    request_ids: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    """When, in Unix seconds."""
    ended_at: float | None = None
    memos: dict[str, JSON] = field(default_factory=dict, repr=False)
    stack: list[str] = field(default_factory=list, repr=False)
    state_size: int = field(default=0, repr=False)
    """Bytes of its events and its memos, as JSON."""
    parallel: bool = field(default=False, repr=False)
    _waiting: set[asyncio.Future[Any]] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.state_size = sum(size(event) for event in self.events)

    @property
    def event(self) -> dict[str, JSON]:
        return self.events[0]

    def step(self, op: dict[str, JSON]) -> Step:
        """The step that an operation is about."""
        userland = op.get("userland") or {}
        name = str(userland.get("id") or op.get("displayName") or op["id"])
        if userland.get("index"):
            name = f"{name}:{userland['index']}"
        return self.steps.setdefault(name, Step(op["id"], name, op["op"]))

    def begun(self, op: dict[str, JSON]) -> bool:
        """Whether somebody does, or has done, what an operation asks for."""
        if op["id"] in self.memos:
            return True
        # A step that was tried and is to be tried again is in no one's hands.
        return any(
            step.id == op["id"] and step.op not in ("StepRun", "StepError")
            for step in self.steps.values()
        )

    def memoize(self, step: Step, memo: JSON) -> None:
        step.done = True
        if isinstance(memo, Mapping) and "error" in memo:
            step.error = memo["error"]
        elif isinstance(memo, Mapping) and set(memo) == {"data"}:
            step.data = memo["data"]
        else:
            step.data = memo
        self.memos[step.id] = memo
        self.stack.append(step.id)
        self.state_size += size(memo)

    def end(self, status: Status, *, output: JSON = None, error: JSON = None) -> None:
        self.status, self.output, self.error = status, output, error
        self.ended_at = time.time()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def waiter(self) -> asyncio.Future[Any]:
        """A future that has a result at the latest when the run ends."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        waiter.add_done_callback(self._waiting.discard)
        if self.status != "running":
            waiter.set_result(None)
        return waiter

    async def wait(
        self, timeout: float | None, waiter: asyncio.Future[JSON] | None = None
    ) -> JSON:
        """Wait for a result, or for ``timeout`` seconds.

        Raises:
            TimeoutError: There was none.
            Over: The run has ended before.
        """
        result = await asyncio.wait_for(waiter or self.waiter(), timeout)
        self.check()
        return result

    async def sleep(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Over: The run has ended before.
        """
        try:
            await self.wait(seconds)
        except asyncio.TimeoutError:
            self.check()

    def check(self) -> None:
        """See that the run goes on.

        Raises:
            Over: It does not.
        """
        if self.status != "running":
            raise Over

    async def first(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Wait until one of them is done, or the run is over."""
        waiter = self.waiter()
        try:
            await asyncio.wait([waiter, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()


def size(value: JSON) -> int:
    """How many bytes it is as JSON."""
    return len(json.dumps(value, separators=(",", ":")).encode())
