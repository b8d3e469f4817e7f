"""The attempts of jobs that run here, and how those ended that did.

A server whose executor died sends the same attempt of a job again, under a new
request id (``pkg/execution/driver/request.go``), and has no answer to the first. It
is not run again: it gets the same outcome.

Hardly any job comes twice, so nothing of a request is looked at but its job id, until
another of that job is here.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from pydantic_core import from_json

from ..messages import Delivery, Lease, Outcome, Request

__all__ = ["Attempt", "Attempts", "identify"]

OVERHEAD = 1024
"""Bytes that an outcome takes besides its body, so that small ones are bounded too."""

KEPT = 2048
"""Bytes of a payload up to which it is kept beside an outcome, to be compared with
that of another request. A larger one is identified, and let go."""

_VALUES = attrgetter(*(field.name for field in fields(Outcome)))

_Record = tuple[Any, ...]
"""An attempt that is over, as ``(older, size, identity, payload, function, run, step,
*outcome)``, where ``older`` is another one of the same job: nothing that the garbage
collector looks at, or tens of thousands of them would slow down all that the app does.
"""


def identify(
    function: str, run_id: str, job_id: str, step_id: str | None, payload: bytes
) -> bytes:
    """Tell an attempt by all that makes it one, as a digest.

    That is its number, which a retry has another of, and what is memoized, besides the
    arguments. Empty where the payload is no call request: running it will say what is
    wrong with it.
    """
    try:
        # With large events several times as fast as the standard library.
        call = from_json(payload)
        context = call["ctx"]
        number = int(context["attempt"])
        # What there is by now: with use_api the steps are not in the payload.
        state = [call.get("steps"), (context.get("stack") or {}).get("stack")]
        memoized = json.dumps(state, sort_keys=True) if any(state) else ""
    except Exception:
        return b""
    parts = repr((function, run_id, job_id, number, step_id or "", memoized))
    return blake2b(parts.encode(errors="replace"), digest_size=20).digest()


class Attempt:
    """An attempt that runs here, or whose outcome is not delivered yet."""

    __slots__ = (
        "_identity",
        "_payload",
        "job_id",
        "lease",
        "older",
        "outcome",
        "owed",
        "runs",
        "waiting",
    )

    def __init__(self, lease: Lease, job_id: str, payload: bytes) -> None:
        self.lease = lease
        self.job_id = job_id
        self._payload = payload
        self._identity: bytes | None = None
        self.outcome: Outcome | None = None
        self.runs = False
        self.waiting: list[Request] | None = None
        """Requests that wait for the outcome."""
        self.owed = 0
        """To how many deliveries the outcome goes."""
        self.older: Attempt | None = None
        """Another of the same job."""

    def identity(self) -> bytes:
        if self._identity is None:
            lease = self.lease
            self._identity = identify(
                lease.function_slug,
                lease.run_id,
                self.job_id,
                lease.step_id,
                self._payload,
            )
        return self._identity

    def end(self, outcome: Outcome) -> None:
        if len(self._payload) > KEPT:
            self.identity()
            self._payload = b""
        self.outcome = outcome

    def record(self, older: _Record | None) -> _Record:
        lease, outcome = self.lease, self.outcome
        assert outcome is not None
        return (
            older,
            OVERHEAD + len(self._payload) + len(outcome.body),
            self._identity,
            self._payload,
            lease.function_slug,
            lease.run_id,
            lease.step_id,
            *_VALUES(outcome),
        )


class Attempts:
    """Of every attempt one run, and its outcome for a while.

    Belongs to the app's event loop, but for :meth:`delivered`.

    Args:
        capacity: Bytes of outcomes to remember once they are delivered; the oldest
            goes first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._known: dict[str, Attempt] = {}
        """By job, the newest attempt of each."""
        self._of: dict[Delivery, Attempt] = {}
        self._delivered: OrderedDict[str, _Record] = OrderedDict()
        """By job, the newest record of each."""
        self._lock = threading.Lock()

    def join(self, request: Request) -> Attempt:
        """The attempt that a request is for, new or known."""
        lease, job_id = request.lease, request.job_id
        if not job_id:
            return Attempt(lease, "", b"")
        with self._lock:
            attempt = None
            if job_id in self._known or job_id in self._delivered:
                attempt = self._find(request)
            if attempt is None:
                attempt = self._add(Attempt(lease, job_id, request.payload))
            attempt.owed += 1
            self._of[lease.delivery] = attempt
            return attempt

    def begin(self, attempt: Attempt, request: Request) -> bool:
        """Begin a run; returns ``False``, and has the request wait, if one is begun."""
        if not attempt.runs:
            attempt.runs = True
            return True
        attempt.waiting = [*(attempt.waiting or ()), request]
        return False

    def answered(self, attempt: Attempt, outcome: Outcome) -> None:
        """Keep an outcome until it is delivered."""
        if attempt.outcome is None:
            attempt.end(outcome)

    def end(self, attempt: Attempt, request: Request) -> list[Request]:
        """End a run; returns the requests that have waited for it."""
        waiting, attempt.waiting = attempt.waiting, None
        attempt.runs = False
        if attempt.outcome is None:
            # Nobody was answered: the next one runs.
            with self._lock:
                self._release(request.lease.delivery)
        return waiting or []

    def delivered(self, delivery: Delivery) -> None:
        """The server has an outcome, or never will. May be called from any thread."""
        with self._lock:
            self._release(delivery)

    def _release(self, delivery: Delivery) -> None:
        attempt = self._of.pop(delivery, None)
        if attempt is None:
            return
        attempt.owed -= 1
        if attempt.owed:
            return
        self._remove(attempt)
        if attempt.outcome is not None and self._capacity:
            record = attempt.record(self._delivered.pop(attempt.job_id, None))
            self._delivered[attempt.job_id] = record
            self._size += record[1]
            while self._size > self._capacity:
                _, oldest = self._delivered.popitem(last=False)
                self._size -= sum(size for _, size, *_ in _chain(oldest))

    def _add(self, attempt: Attempt) -> Attempt:
        attempt.older = self._known.get(attempt.job_id)
        self._known[attempt.job_id] = attempt
        return attempt

    def _remove(self, attempt: Attempt) -> None:
        if self._known[attempt.job_id] is attempt:
            if attempt.older is None:
                del self._known[attempt.job_id]
            else:
                self._known[attempt.job_id] = attempt.older
            return
        for newer in self._of_job(attempt.job_id):
            if newer.older is attempt:
                newer.older = attempt.older
                return

    def _of_job(self, job_id: str) -> Iterator[Attempt]:
        attempt = self._known.get(job_id)
        while attempt is not None:
            yield attempt
            attempt = attempt.older

    def _find(self, request: Request) -> Attempt | None:
        """The attempt that it is for, of those that are known of its job."""
        lease, job_id = request.lease, request.job_id
        new = Attempt(lease, job_id, request.payload)
        wanted = new.identity()
        if not wanted:
            return None
        for attempt in self._of_job(job_id):
            if attempt.identity() == wanted:
                return attempt
        for record in _chain(self._delivered.get(job_id)):
            _, _, identity, payload, function, run_id, step_id, *outcome = record
            if wanted == (
                identity or identify(function, run_id, job_id, step_id, payload)
            ):
                self._forget(job_id, record)
                new.end(Outcome(*outcome))
                return self._add(new)
        return None

    def _forget(self, job_id: str, forgotten: _Record) -> None:
        self._size -= forgotten[1]
        newest = None
        for record in reversed(list(_chain(self._delivered.pop(job_id)))):
            if record is not forgotten:
                newest = (newest, *record[1:])
        if newest is not None:
            self._delivered[job_id] = newest


def _chain(record: _Record | None) -> Iterator[_Record]:
    while record is not None:
        yield record
        record = record[0]
