from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from inngest_connect_asgi.isolation import plain
from inngest_connect_asgi.messages import (
    Accepted,
    Delivered,
    Delivery,
    Lease,
    Outcome,
    Ping,
    Request,
    Result,
)

from ..simulation import lease

NUMBERS = itertools.count(1)


def distinct(kind: type[Any], **given: Any) -> Any:
    """One of that class, with another value in every field."""
    makers: dict[str, Callable[[int], object]] = {
        "str": str,
        "str | None": str,
        "bytes": lambda number: b"%d" % number,
        "int": int,
    }
    values = {
        each.name: makers[str(each.type)](next(NUMBERS))
        for each in fields(kind)
        if each.name not in given and each.type != "bool"
    }
    return kind(**values, **given)


LEASE = distinct(Lease, delivery=Delivery("request", "first"))
REQUEST = distinct(Request, lease=LEASE)
MESSAGES = [
    Accepted(LEASE.delivery),
    Delivered(LEASE.delivery),
    REQUEST,
    replace(REQUEST, lease=replace(LEASE, step_id=None)),
    *(
        Result(LEASE, distinct(Outcome, no_retry=flag, step_failed=not flag), flag)
        for flag in (True, False)
    ),
    Result(LEASE, Outcome(500, b"")),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: type(each).__name__)
def test_what_is_dumped_is_loaded(message: object) -> None:
    data = plain.dump(message)
    assert data is not None
    assert plain.is_plain(memoryview(data))
    assert plain.load(memoryview(data)) == message
    assert isinstance(getattr(message, "delivery", LEASE.delivery), Delivery)


def test_what_is_loaded_is_of_its_class() -> None:
    for message in (Accepted(LEASE.delivery), REQUEST):
        loaded: Any = plain.load(memoryview(plain.dump(message) or b""))
        about = loaded.lease if isinstance(loaded, Request) else loaded
        assert type(about.delivery) is Delivery


class Text(str):
    """No text to marshal."""


@pytest.mark.parametrize(
    "message",
    [
        Ping(1),
        "text",
        replace(REQUEST, job_id=Text("job")),
        replace(REQUEST, payload=bytes(plain.MAX_BODY_SIZE + 1)),
        Result(LEASE, Outcome(200, bytes(plain.MAX_BODY_SIZE + 1))),
    ],
    ids=["another", "none", "odd", "large request", "large result"],
)
def test_what_is_left_to_pickle(message: object) -> None:
    assert plain.dump(message) is None


@pytest.mark.parametrize("data", [b"", b"\x80\x05.", b"no message"])
def test_what_is_none_of_these(data: bytes) -> None:
    assert not plain.is_plain(memoryview(data))


def test_a_lease_of_a_simulation_is_plain() -> None:
    assert plain.dump(Accepted(lease("job").delivery)) is not None
