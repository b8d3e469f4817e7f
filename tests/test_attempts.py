from __future__ import annotations

import gc
import json
import threading
from typing import Any

import pytest

from inngest_connect_asgi.messages import Outcome, Request
from inngest_connect_asgi.worker.attempts import (
    KEPT,
    OVERHEAD,
    Attempt,
    Attempts,
    identify,
)

from .simulation import lease

DONE = Outcome(200, b'"done"')


def payload(**changes: Any) -> dict[str, Any]:
    context = {
        "attempt": 0,
        "stack": {"stack": ["a"], "current": 1},
        "request_id": "one",
        "generation_id": 1,
    }
    steps = {"a": {"data": 1}}
    return {"ctx": context | changes.pop("ctx", {}), "steps": steps, **changes}


def request(
    request_id: str, number: int = 0, *, job: str = "job", event: str = ""
) -> Request:
    body = json.dumps(payload(ctx={"attempt": number}, event=event)).encode()
    return Request(lease(request_id), "app", job, body)


def run(attempts: Attempts, asked: Request, outcome: Outcome = DONE) -> Attempt:
    """Run it to its end, and have the outcome delivered."""
    attempt = attempts.join(asked)
    assert attempts.begin(attempt, asked)
    attempts.answered(attempt, outcome)
    assert attempts.end(attempt, asked) == []
    attempts.delivered(asked.lease.delivery)
    return attempt


def remembered(attempts: Attempts, asked: Request) -> Outcome | None:
    """The outcome that a request gets, which is as if it had not been asked for."""
    attempt = attempts.join(asked)
    attempts.delivered(asked.lease.delivery)
    return attempt.outcome


def test_a_run_takes_along_who_asks_for_the_same_attempt() -> None:
    attempts = Attempts(0)
    first, second, third = map(request, ("first", "second", "third"))
    retry = request("retry", 1)
    attempt = attempts.join(first)
    assert attempts.begin(attempt, first)
    for each in (second, third):
        assert attempts.join(each) is attempt
        assert not attempts.begin(attempt, each)
    other = attempts.join(retry)
    assert other is not attempt
    assert attempts.begin(other, retry)
    attempts.answered(attempt, DONE)
    # The server may have it before those that wait are told.
    attempts.delivered(first.lease.delivery)
    assert attempts.end(attempt, first) == [second, third]
    assert attempts.join(request("fourth")).outcome is DONE
    assert other.outcome is None


def test_an_attempt_that_ended_without_an_outcome_runs_again() -> None:
    attempts = Attempts(0)
    first, second, third = map(request, ("first", "second", "third"))
    attempt = attempts.join(first)
    assert attempts.begin(attempt, first)
    assert attempts.join(second) is attempt
    assert not attempts.begin(attempt, second)
    assert attempts.end(attempt, first) == [second]
    again = attempts.join(third)
    assert attempts.begin(again, third)


def test_an_outcome_is_there_until_it_is_delivered_whatever_the_capacity() -> None:
    attempts = Attempts(0)
    one, other = request("one"), request("other")
    attempt = attempts.join(one)
    assert attempts.begin(attempt, one)
    attempts.answered(attempt, DONE)
    assert attempts.end(attempt, one) == []
    assert attempts.join(other).outcome is DONE
    attempts.delivered(one.lease.delivery)
    assert remembered(attempts, request("third")) is DONE
    attempts.delivered(other.lease.delivery)
    assert attempts.join(request("fourth")).outcome is None
    attempts.delivered(other.lease.delivery)


def test_the_oldest_outcomes_are_forgotten() -> None:
    size = OVERHEAD + len(request("r").payload) + 100
    attempts = Attempts(2 * size)
    for number in range(5):
        asked = request(f"r{number}", job=f"job{number}")
        run(attempts, asked, Outcome(200, bytes(100)))
    known = [number for number in range(5) if f"job{number}" in attempts._delivered]
    assert known == [3, 4]
    again = request("again", job="job4")
    assert remembered(attempts, again) == Outcome(200, bytes(100))
    # A larger one than there is room for.
    run(attempts, request("large", job="large"), Outcome(200, bytes(10_000)))
    assert remembered(attempts, request("again", job="large")) is None
    assert attempts._size <= 2 * size


def test_several_attempts_of_a_job_are_remembered_and_forgotten() -> None:
    attempts = Attempts(10**6)
    outcomes = [Outcome(500, b"%d" % number) for number in range(4)]
    for number, outcome in enumerate(outcomes):
        run(attempts, request(f"r{number}", number), outcome)
    for _ in range(2):
        for number in (1, 3, 0, 2):
            again = request("again", number)
            assert remembered(attempts, again) == outcomes[number]
    assert remembered(attempts, request("r4", 4)) is None
    size = OVERHEAD + len(request("r").payload) + 1
    assert attempts._size == 4 * size
    attempts._capacity = size
    run(attempts, request("r", job="other"), outcomes[0])
    assert list(attempts._delivered) == ["other"]
    assert attempts._size == size


def test_attempts_of_a_job_that_run_at_once_are_told_apart() -> None:
    attempts = Attempts(10**6)
    asked = [request(f"r{number}", number) for number in range(3)]
    running = [attempts.join(each) for each in asked]
    for number in (1, 2, 0):
        assert attempts.begin(running[number], asked[number])
        attempts.answered(running[number], Outcome(200, b"%d" % number))
        assert attempts.end(running[number], asked[number]) == []
        attempts.delivered(asked[number].lease.delivery)
        found = [remembered(attempts, request("x", each)) for each in range(3)]
        assert found[number] == Outcome(200, b"%d" % number)
    assert None not in found
    assert not attempts._known
    assert not attempts._of


def test_an_outcome_that_is_given_again_is_counted_once() -> None:
    attempts = Attempts(10_000)
    run(attempts, request("first"))
    for number in range(20):
        assert remembered(attempts, request(f"r{number}")) == DONE
    body = request("r").payload
    assert attempts._size == OVERHEAD + len(body) + len(DONE.body)


def test_a_large_payload_is_not_kept_with_its_outcome() -> None:
    attempts = Attempts(10**6)
    large = "x" * KEPT
    run(attempts, request("first", event=large))
    assert attempts._size == OVERHEAD + len(DONE.body)
    assert remembered(attempts, request("again", event=large)) == DONE
    assert remembered(attempts, request("retry", 1, event=large)) is None


def test_what_is_remembered_is_no_matter_of_the_garbage_collector() -> None:
    attempts = Attempts(10**9)
    for number in range(100):
        asked = request(f"r{number}", number, job=f"job{number % 50}")
        run(attempts, asked, Outcome(200, b"x", True, "1"))
    # The first time it looks at a tuple, it finds nothing in there; an older one it
    # may see after the newer that leads to it.
    gc.collect()
    gc.collect()
    for key, kept in attempts._delivered.items():
        assert not gc.is_tracked(key)
        assert not gc.is_tracked(kept)


def test_outcomes_may_be_delivered_while_requests_come() -> None:
    attempts = Attempts(10**6)
    started: list[Request] = []
    done = threading.Event()

    def deliver() -> None:
        at = 0
        while not done.is_set() or at < len(started):
            if at < len(started):
                attempts.delivered(started[at].lease.delivery)
                at += 1

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        for number in range(2000):
            asked = request(f"r{number}", job=f"job{number % 10}")
            attempt = attempts.join(asked)
            if attempt.outcome is None:
                assert attempts.begin(attempt, asked)
                attempts.answered(attempt, DONE)
                assert attempts.end(attempt, asked) == []
            started.append(asked)
    finally:
        done.set()
        thread.join()
    assert not attempts._known
    assert not attempts._of
    assert len(attempts._delivered) == 10


# Which attempt a request is for


def of(body: Any, job_id: str = "job", step_id: str | None = "step") -> bytes:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return identify("app-f", "run", job_id, step_id, body)


def test_the_same_attempt_may_be_written_otherwise() -> None:
    first = of(payload())
    assert first
    again = payload(ctx={"request_id": "two", "generation_id": 2})
    assert of(again) == first
    assert of(json.dumps(again, indent=1, sort_keys=True).encode()) == first


@pytest.mark.parametrize(
    "other",
    [
        payload(ctx={"attempt": 1}),
        payload(ctx={"stack": {"stack": ["a", "b"], "current": 2}}),
        payload(steps={}),
        payload(steps={"a": {"data": 2}}),
    ],
)
def test_another_attempt_or_state_is_another(other: dict[str, Any]) -> None:
    assert of(other) != of(payload())


def test_another_job_or_step_is_another() -> None:
    assert of(payload(), "other") != of(payload())
    assert of(payload(), step_id="other") != of(payload())
    assert of(payload(), step_id=None) == of(payload(), step_id="")


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
def test_what_is_no_call_request_runs_every_time(body: bytes) -> None:
    attempts = Attempts(10**6)
    first, second = (Request(lease(r), "app", "job", body) for r in "12")
    known = bool(of(body))
    assert attempts.begin(attempts.join(first), first)
    assert attempts.begin(attempts.join(second), second) != known


def test_without_a_job_every_request_runs() -> None:
    attempts = Attempts(10**6)
    for request_id in ("first", "second"):
        asked = request(request_id, job="")
        attempt = run(attempts, asked)
        assert attempt.outcome is DONE
    assert not attempts._delivered
