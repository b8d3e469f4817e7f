"""Interpreters leave before the process forks, and before it ends.

CPython ends a fork of a process that has several at once, by a segmentation fault
(python/cpython#139759). At the end of the process it tears down those that are left
while they run.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .. import logs

__all__ = ["Tenant", "arrive", "depart"]

FORK_TIMEOUT = 10.0
"""Seconds that a fork waits for an interpreter to leave."""

EXIT_TIMEOUT = 2.0
"""Seconds that the process's end waits."""


class Tenant(Protocol):
    """Whoever has an interpreter."""

    def give_way(self) -> None:
        """Have it closed as soon as possible, and say so by :func:`depart`."""


_gate = threading.Lock()
"""Is held while nobody may come."""
_changed = threading.Condition()
_here: set[Tenant] = set()
_registered = False


def arrive(tenant: Tenant, start: Callable[[], object]) -> None:
    """Start a tenant, which is told when it has to leave."""
    global _registered
    with _gate:
        if not _registered:
            _registered = True
            atexit.register(_at_exit)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(
                    before=_before_fork,
                    after_in_parent=_after_fork,
                    after_in_child=_in_fork,
                )
        # Before it starts: it may be gone at once.
        with _changed:
            _here.add(tenant)
        try:
            start()
        except BaseException:
            depart(tenant)
            raise


def depart(tenant: Tenant) -> None:
    """Its interpreter is closed."""
    with _changed:
        _here.discard(tenant)
        _changed.notify_all()


def _evict(timeout: float) -> bool:
    """Have everybody leave; returns whether they did in time."""
    with _changed:
        tenants = list(_here)
    for tenant in tenants:
        tenant.give_way()
    deadline = time.monotonic() + timeout
    with _changed:
        return _changed.wait_for(lambda: not _here, deadline - time.monotonic())


def _before_fork() -> None:
    _gate.acquire()
    if not _evict(FORK_TIMEOUT):
        logs.emit(
            logging.ERROR,
            "The app forks, and an interpreter of the Connect runtime is not closed "
            f"after {FORK_TIMEOUT:g} s: the fork will crash (python/cpython#139759). "
            'With isolation="process" none can',
        )


def _after_fork() -> None:
    _gate.release()


def _in_fork() -> None:
    global _gate, _changed
    _gate, _changed = threading.Lock(), threading.Condition()
    _here.clear()


def _at_exit() -> None:
    # Nobody comes any more.
    _gate.acquire(timeout=EXIT_TIMEOUT)
    if _evict(EXIT_TIMEOUT):
        return
    # It hangs, as a thread of it may that looks a name up. Python would wait for that,
    # or crash. What was registered for the exit after this has been done; before it,
    # what matters.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(1 if hasattr(sys, "last_exc") else 0)
