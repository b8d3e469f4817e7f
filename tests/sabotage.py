"""Exceptions that nobody foresaw, at any await and in any handler of the package.

A :class:`Saboteur` is patched into the package, and does nothing until it is armed.
Then it raises once, at the so-many-th place that is passed from there on.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import unittest.mock
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

from inngest_connect_asgi import ends
from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.isolation.moving import MovingHost
from inngest_connect_asgi.isolation.supervisor import Supervisor
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.parts import Parts
from inngest_connect_asgi.runtime.gateway_socket import Connection, GatewaySocket
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.runtime.timer import Timer
from inngest_connect_asgi.worker.attempts import Attempts
from inngest_connect_asgi.worker.runner import FunctionRunner
from inngest_connect_asgi.worker.runs import Runs
from inngest_connect_asgi.worker.service import Worker

__all__ = ["Sabotage", "Saboteur"]

HANDLERS: dict[type, tuple[str, ...]] = {
    Attempts: ("answered", "begin", "delivered", "end", "join"),
    Connection: (
        "connection_lost",
        "data_received",
        "pause_writing",
        "process_event",
        "resume_writing",
    ),
    Core: (
        "adopt",
        "drain",
        "flush_answered",
        "late",
        "leave",
        "lost",
        "next_tick",
        "opened",
        "pong",
        "received",
        "result",
        "sent",
        "start",
        "start_answered",
        "tick",
    ),
    FunctionRunner: ("run",),
    GatewaySocket: ("close", "received", "send", "write"),
    Health: ("update",),
    Runtime: ("_acknowledge", "_do", "_receive", "_send"),
    MovingHost: ("_hand_over", "_hear_new", "_hear_old"),
    Parts: ("wants",),
    Timer: ("set",),
    Supervisor: ("_note", "send"),
    Runs: ("_finish", "_start", "_start_some"),
    Worker: ("_answer", "_handle", "_make_start", "_tell"),
}


class Sabotage(Exception):
    """What is raised."""


class Saboteur:
    """May be armed from any thread."""

    def __init__(self) -> None:
        self.struck: Counter[str] = Counter()
        """Where it raised, and how often."""
        self._lock = threading.Lock()
        self._countdown = 0

    def arm(self, countdown: int) -> None:
        """Raise at the place that comes after so many others."""
        with self._lock:
            self._countdown = countdown

    def disarm(self) -> None:
        self.arm(0)

    def pass_by(self, place: str) -> None:
        """A place is passed; raises :class:`Sabotage` where it is the one."""
        if not self._countdown:
            return
        with self._lock:
            if not self._countdown:
                return
            self._countdown -= 1
            if self._countdown:
                return
            self.struck[place] += 1
        raise Sabotage(place)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Be in all of the package while the block lasts."""
        spawn = ends.spawn

        def sabotaged(
            coroutine: Coroutine[Any, Any, None], *args: Any, **options: Any
        ) -> Any:
            return spawn(self._await(coroutine), *args, **options)

        with contextlib.ExitStack() as stack:
            stack.enter_context(unittest.mock.patch.object(ends, "spawn", sabotaged))
            for owner, names in HANDLERS.items():
                for name in names:
                    patched = self._handler(owner, name)
                    stack.enter_context(
                        unittest.mock.patch.object(owner, name, patched)
                    )
            yield

    async def _await(self, coroutine: Coroutine[Any, Any, None]) -> None:
        await _Awaits(self, coroutine)

    def _handler(self, owner: type, name: str) -> Callable[..., Any]:
        handler = getattr(owner, name)
        place = f"{owner.__name__}.{name}"

        @functools.wraps(handler)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(place)
            return handler(*args, **kwargs)

        return call


class _Awaits:
    """A coroutine into which an exception may be thrown wherever it waits."""

    def __init__(
        self, saboteur: Saboteur, coroutine: Coroutine[Any, Any, None]
    ) -> None:
        self._saboteur = saboteur
        self._coroutine = coroutine
        self._place = f"an await in {coroutine}".partition(" at ")[0]

    def __await__(self) -> Generator[Any, Any, None]:
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    if error is None:
                        waited_for = self._coroutine.send(value)
                    else:
                        waited_for = self._coroutine.throw(error)
                except StopIteration:
                    return
                value = error = None
                try:
                    value = yield waited_for
                    self._saboteur.pass_by(self._place)
                except BaseException as raised:
                    error = raised
        finally:
            self._coroutine.close()
