"""The messages of every run as plain tuples, which marshal takes.

They are most of what goes through a pipe, and to write a pickle of one takes about
three times as long.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any

from ..messages import Accepted, Delivered, Delivery, Lease, Outcome, Request, Result

__all__ = ["dump", "is_plain", "load"]

MAX_BODY_SIZE = 64 * 1024
"""Bytes. A larger one is better off in a pickle, which copies it once less."""


def dump(message: object) -> bytes | None:
    """A message as bytes; ``None`` for one that is none of these, or odd."""
    make = _FIELDS.get(type(message))
    if make is None:
        return None
    plain = make(message)
    if plain is None:
        return None
    try:
        return marshal.dumps(plain)
    except ValueError:
        # A text or bytes of a class of somebody's own.
        return None


def is_plain(data: memoryview) -> bool:
    """Whether it is one of these: a small tuple, with or without marshal's mark."""
    return bool(data) and data[0] in (0x29, 0xA9)


def load(data: memoryview) -> object:
    """The message that :func:`dump` has made bytes of.

    Raises:
        Exception: It is none.
    """
    kind, *values = marshal.loads(data)
    return _MESSAGES[kind](*values)


def _lease(lease: Lease) -> tuple[Any, ...]:
    return (
        *lease.delivery,
        lease.lease_id,
        lease.account_id,
        lease.env_id,
        lease.app_id,
        lease.function_slug,
        lease.step_id,
        lease.run_id,
        lease.system_trace_ctx,
        lease.user_trace_ctx,
    )


def _request(message: Request) -> tuple[Any, ...] | None:
    if len(message.payload) > MAX_BODY_SIZE:
        return None
    lease = _lease(message.lease)
    return "request", message.app_name, message.job_id, message.payload, *lease


def _result(message: Result) -> tuple[Any, ...] | None:
    outcome = message.outcome
    if len(outcome.body) > MAX_BODY_SIZE:
        return None
    return (
        "result",
        message.repeated,
        outcome.status,
        outcome.body,
        outcome.no_retry,
        outcome.retry_after,
        outcome.sdk_version,
        outcome.request_version,
        outcome.step_failed,
        *_lease(message.lease),
    )


_FIELDS: dict[type, Callable[[Any], tuple[Any, ...] | None]] = {
    Accepted: lambda message: ("accepted", *message.delivery),
    Delivered: lambda message: ("delivered", *message.delivery),
    Request: _request,
    Result: _result,
}


def _make_lease(request_id: str, first: str, *rest: Any) -> Lease:
    return Lease(Delivery(request_id, first), *rest)


def _make_request(app_name: str, job_id: str, payload: bytes, *lease: Any) -> Request:
    return Request(_make_lease(*lease), app_name, job_id, payload)


def _make_result(repeated: bool, *values: Any) -> Result:
    return Result(_make_lease(*values[7:]), Outcome(*values[:7]), repeated)


_MESSAGES: dict[str, Callable[..., object]] = {
    "accepted": lambda *delivery: Accepted(Delivery(*delivery)),
    "delivered": lambda *delivery: Delivered(Delivery(*delivery)),
    "request": _make_request,
    "result": _make_result,
}
