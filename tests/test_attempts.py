from __future__ import annotations

import gc
import json
from typing import Any

import inngest
import pytest

from inngest_connect_asgi.messages import Outcome, Request
from inngest_connect_asgi.worker.attempts import OVERHEAD, Attempt, Attempts, identify
from inngest_connect_asgi.worker.runner import FunctionRunner

from .simulation import lease

DONE = Outcome(200, b'"done"')


def attempt(number: int = 0) -> Attempt:
    return identify("app-f", "run", "job", number, "step", "state")


def request(request_id: str) -> Request:
    return Request(lease(request_id), "app", "job", b"{}")


def test_a_run_takes_along_who_asks_for_the_same_attempt() -> None:
    attempts = Attempts(0)
    first, second = request("first"), request("second")
    assert attempts.begin(attempt(), first)
    assert not attempts.begin(attempt(), second)
    assert attempts.begin(attempt(1), first)
    assert attempts.end(attempt()) == [second]
    assert attempts.begin(attempt(), first)


def test_an_outcome_is_there_until_it_is_delivered_whatever_the_capacity() -> None:
    attempts = Attempts(0)
    one, other = lease("one").delivery, lease("other").delivery
    assert attempts.outcome(attempt()) is None
    attempts.answered(attempt(), DONE, one)
    attempts.answered(attempt(), DONE, other)
    attempts.delivered(one)
    assert attempts.outcome(attempt()) is DONE
    attempts.delivered(other)
    assert attempts.outcome(attempt()) is None
    attempts.delivered(other)


def test_the_oldest_outcomes_are_forgotten() -> None:
    attempts = Attempts(2 * (OVERHEAD + 100))
    for number in range(5):
        delivery = lease(f"r{number}").delivery
        attempts.answered(attempt(number), Outcome(200, bytes(100)), delivery)
        attempts.delivered(delivery)
    known = [number for number in range(5) if attempts.outcome(attempt(number))]
    assert known == [3, 4]
    assert attempts.outcome(attempt(4)) == Outcome(200, bytes(100))
    # A larger one than there is room for takes nothing with it for nothing.
    delivery = lease("large").delivery
    attempts.answered(attempt(9), Outcome(200, bytes(10_000)), delivery)
    attempts.delivered(delivery)
    assert attempts.outcome(attempt(9)) is None
    assert attempts._size <= 2 * (OVERHEAD + 100)


def test_an_outcome_that_is_given_again_is_counted_once() -> None:
    attempts = Attempts(10_000)
    for number in range(20):
        delivery = lease(f"r{number}").delivery
        attempts.answered(attempt(), DONE, delivery)
        attempts.delivered(delivery)
        assert attempts.outcome(attempt()) == DONE
    assert attempts._size == OVERHEAD + len(DONE.body)


def test_what_is_remembered_is_no_matter_of_the_garbage_collector() -> None:
    attempts = Attempts(10**9)
    for number in range(100):
        delivery = lease(f"r{number}").delivery
        attempts.answered(attempt(number), Outcome(200, b"x", True, "1"), delivery)
        attempts.delivered(delivery)
    # The first time it looks at a tuple, it finds nothing in there.
    gc.collect()
    for key, kept in attempts._delivered.items():
        assert not gc.is_tracked(key)
        assert not gc.is_tracked(kept)


# Which attempt a request is for


@pytest.fixture(scope="module")
def runner() -> FunctionRunner:
    client = inngest.Inngest(app_id="app", is_production=False)

    @client.create_function(fn_id="f", trigger=inngest.TriggerEvent(event="test"))
    async def function(ctx: inngest.Context) -> None: ...

    return FunctionRunner(client, [function])


def payload(**changes: Any) -> dict[str, Any]:
    context = {
        "attempt": 0,
        "stack": {"stack": ["a"], "current": 1},
        "request_id": "one",
        "generation_id": 1,
    }
    steps = {"a": {"data": 1}}
    return {"ctx": context | changes.pop("ctx", {}), "steps": steps, **changes}


def of(runner: FunctionRunner, body: Any, job_id: str = "job") -> Attempt | None:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return runner.attempt(Request(lease("r"), "app", job_id, body))


def test_the_same_attempt_may_be_written_otherwise(runner: FunctionRunner) -> None:
    first = of(runner, payload())
    assert first is not None
    again = payload(ctx={"request_id": "two", "generation_id": 2})
    assert of(runner, again) == first
    assert of(runner, json.dumps(again, indent=1, sort_keys=True).encode()) == first


@pytest.mark.parametrize(
    "other",
    [
        payload(ctx={"attempt": 1}),
        payload(ctx={"stack": {"stack": ["a", "b"], "current": 2}}),
        payload(steps={}),
        payload(steps={"a": {"data": 2}}),
    ],
)
def test_another_attempt_or_state_is_another(
    runner: FunctionRunner, other: dict[str, Any]
) -> None:
    assert of(runner, other) != of(runner, payload())


def test_another_job_or_step_is_another(runner: FunctionRunner) -> None:
    assert of(runner, payload(), "other") != of(runner, payload())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"ctx": null}',
        b'{"ctx": {"attempt": "x"}}',
        b'{"ctx": {"attempt": 0, "stack": []}, "steps": 1}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_call_request_is_no_attempt(
    runner: FunctionRunner, body: bytes
) -> None:
    of(runner, body)


def test_without_a_job_there_is_no_attempt(runner: FunctionRunner) -> None:
    assert of(runner, payload(), job_id="") is None
