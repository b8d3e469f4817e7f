from __future__ import annotations

import asyncio
import json
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, cast

from inngest_connect_asgi.integrations.surroundings import Surroundings
from inngest_connect_asgi.messages import Outcome, Request
from inngest_connect_asgi.worker.attempts import Attempt, Attempts
from inngest_connect_asgi.worker.runner import FunctionRunner
from inngest_connect_asgi.worker.runs import Runs

from .simulation import DONE, lease


class Runner:
    """Runs whatever it is given, at once."""

    async def run(
        self, request: Request, executor: Executor, surroundings: Surroundings
    ) -> Outcome:
        return DONE

    def failed(self, request: Request, error: BaseException) -> Outcome:
        return Outcome(500, str(error).encode())


def same(request_id: str) -> Request:
    """A request for the one attempt that there is."""
    body = json.dumps({"ctx": {"attempt": 0}}).encode()
    return Request(lease(request_id), "app", "job", body)


def test_an_attempt_that_could_not_be_started_keeps_nobody_waiting() -> None:
    attempts = Attempts(0)
    answers: list[tuple[str, bytes, bool]] = []

    def answer(
        request: Request, attempt: Attempt, outcome: Outcome, repeated: bool
    ) -> None:
        attempts.answered(attempt, outcome)
        answers.append((request.lease.request_id, outcome.body, repeated))

    def no_task(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("no task")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        runs = Runs(
            {"app": cast(FunctionRunner, Runner())},
            None,
            attempts,
            pool=ThreadPoolExecutor(1),
            surroundings=Surroundings(),
            answer=answer,
            failed=lambda error: None,
        )
        loop.set_task_factory(no_task)
        runs.add(same("first"))
        runs.go_on()
        loop.set_task_factory(None)
        runs.add(same("second"))
        runs.go_on()
        await runs.cancel()

    asyncio.run(main())
    assert answers == [("first", b"no task", False), ("second", b"no task", True)]
