"""The attempts of jobs that run here, and how those ended that did.

A server whose executor died sends the same attempt of a job again, under a new
request id (``pkg/execution/driver/request.go``), and has no answer to the first. It
is not run again: it gets the same outcome.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any, NewType

from ..messages import Delivery, Outcome, Request

__all__ = ["Attempt", "Attempts", "identify"]

OVERHEAD = 1024
"""Bytes that an outcome takes besides its body, so that small ones are bounded too."""

_VALUES = attrgetter(*(field.name for field in fields(Outcome)))


Attempt = NewType("Attempt", bytes)
"""What makes two requests the same attempt, as a digest: a retry has another number.

Neither this nor what is kept by it is anything that the garbage collector looks at, or
tens of thousands of them would slow down all that the app does.
"""


def identify(
    function: str, run_id: str, job_id: str, number: int, step_id: str, state: str
) -> Attempt:
    """Tell an attempt by all that makes it one; ``state`` is what is memoized."""
    parts = repr((function, run_id, job_id, number, step_id, state))
    return Attempt(blake2b(parts.encode(errors="replace"), digest_size=20).digest())


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
        self._joined: dict[Attempt, list[Request]] = {}
        """Requests that wait for the run of an attempt."""
        self._undelivered: dict[Attempt, Outcome] = {}
        self._owed: dict[Attempt, int] = {}
        """To how many deliveries an undelivered outcome goes."""
        self._attempts: dict[Delivery, Attempt] = {}
        """Of the undelivered."""
        self._delivered: OrderedDict[Attempt, tuple[Any, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def outcome(self, attempt: Attempt) -> Outcome | None:
        """How an attempt ended, if that is remembered."""
        # In the order in which it goes from one to the other: no lock is needed.
        undelivered = self._undelivered.get(attempt)
        if undelivered is not None:
            return undelivered
        delivered = self._delivered.get(attempt)
        return None if delivered is None else Outcome(*delivered)

    def begin(self, attempt: Attempt, request: Request) -> bool:
        """Begin a run; returns ``False``, and has the request wait, if one is begun."""
        waiting = self._joined.get(attempt)
        if waiting is None:
            self._joined[attempt] = []
            return True
        waiting.append(request)
        return False

    def end(self, attempt: Attempt) -> list[Request]:
        """End a run; returns the requests that have waited for it."""
        return self._joined.pop(attempt, [])

    def answered(self, attempt: Attempt, outcome: Outcome, delivery: Delivery) -> None:
        """A request got the outcome of an attempt: keep it until that is delivered."""
        with self._lock:
            if attempt not in self._undelivered:
                self._undelivered[attempt] = outcome
                self._owed[attempt] = 0
                self._forget(attempt)
            if delivery not in self._attempts:
                self._attempts[delivery] = attempt
                self._owed[attempt] += 1

    def delivered(self, delivery: Delivery) -> None:
        """The server has an outcome, or never will. May be called from any thread."""
        with self._lock:
            attempt = self._attempts.pop(delivery, None)
            if attempt is None:
                return
            self._owed[attempt] -= 1
            if self._owed[attempt]:
                return
            outcome = self._undelivered[attempt]
            self._delivered[attempt] = _VALUES(outcome)
            del self._undelivered[attempt], self._owed[attempt]
            self._size += OVERHEAD + len(outcome.body)
            while self._size > self._capacity:
                self._forget(next(iter(self._delivered)))

    def _forget(self, attempt: Attempt) -> None:
        delivered = self._delivered.pop(attempt, None)
        if delivered is not None:
            self._size -= OVERHEAD + len(Outcome(*delivered).body)
