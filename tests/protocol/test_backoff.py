from __future__ import annotations

import random

import pytest

from inngest_connect_asgi.protocol.backoff import Backoff


def backoff() -> Backoff:
    return Backoff(first=1.0, cap=30.0, rng=random.Random(1))


def test_delays_double_up_to_the_cap_and_half_of_each_is_chance() -> None:
    waits = backoff()
    for longest in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        assert longest / 2 <= waits.fail() <= longest
    assert waits.failures == 7
    waits.reset()
    assert waits.fail() <= 1.0


def test_a_hopeless_failure_waits_as_long_as_any() -> None:
    assert 15.0 <= backoff().fail(hopeless=True) <= 30.0


@pytest.mark.parametrize("failures", [33, 10**6])
def test_no_number_of_failures_is_too_many(failures: int) -> None:
    assert 15.0 <= backoff().delay(failures) <= 30.0
