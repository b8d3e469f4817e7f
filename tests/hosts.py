"""Hosts of a runtime alone, without a worker, and children with something wrong."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from inngest_connect_asgi.isolation import departures, launch, pipe
from inngest_connect_asgi.isolation.ear import RuntimeCrashed
from inngest_connect_asgi.isolation.interpreter import Interpreter, InterpreterHost
from inngest_connect_asgi.isolation.process import ProcessHost
from inngest_connect_asgi.isolation.supervisor import Host
from inngest_connect_asgi.isolation.thread import ThreadHost
from inngest_connect_asgi.messages import (
    Delivery,
    FromRuntime,
    Lease,
    Outcome,
    Result,
    Start,
)
from inngest_connect_asgi.state import State
from inngest_connect_asgi.worker.config import Isolation

from .simulation import configuration

__all__ = [
    "HOSTS",
    "ISOLATIONS",
    "Ends",
    "Running",
    "child_of",
    "inject",
    "interpreters",
    "large_result",
    "prepared",
    "start",
    "stranger",
    "text_of",
    "the_interpreter",
]

ISOLATIONS: tuple[Isolation, ...] = ("thread", "interpreter", "process")
"""Those that this Python has."""
if sys.version_info < (3, 14):
    ISOLATIONS = ("thread", "process")

_HOSTS: dict[Isolation, Callable[[], Host]] = {
    "thread": ThreadHost,
    "interpreter": InterpreterHost,
    "process": ProcessHost,
}

HOSTS = pytest.mark.parametrize("host", [_HOSTS[each] for each in ISOLATIONS])


def start() -> Start:
    """For a runtime that has nobody to connect to."""
    return Start(configuration(api_origin="http://127.0.0.1:1"))


def large_result(number: int, size: int) -> Result:
    lease = Lease(
        Delivery(f"r{number}", "l"), "l", "a", "e", "a", "f", None, "r", b"{}", b"{}"
    )
    return Result(lease, Outcome(200, bytes([number % 256]) * size))


def prepared(code: str) -> str:
    """What prepares a child that runs this before it becomes one."""
    last = "import_module(sys.argv[1]).main()"
    assert last in launch._PREPARE
    return launch._PREPARE.replace(last, f"{code}\n{last}")


def inject(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have every child run this before it becomes one."""
    monkeypatch.setattr(launch, "_PREPARE", prepared(code))


def stranger(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have this run in a child's place, with ``output`` for its pipe."""
    code = f"import os, sys, time\noutput = int(sys.argv[2])\n{code}"

    def command(*arguments: int) -> list[str]:
        return [sys.executable, "-c", code, *map(str, arguments)]

    monkeypatch.setattr(launch, "command", command)


class Ends:
    """A pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._decoder = pipe.Decoder()
        self._read: list[Any] = []

    def say(self, message: object) -> None:
        os.write(self.writer, pipe.encode(message))

    def hear(self) -> Any:
        while not self._read:
            self._read += self._decoder.feed(os.read(self.reader, pipe.PIPE_SIZE))
        return self._read.pop(0)

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                with suppress(OSError):  # its owner has closed it
                    os.close(fd)


class Running:
    """A host that runs in a thread, and how that ended."""

    def __init__(
        self,
        host: Host | None = None,
        begin: Callable[[], Start] = start,
        tell: Callable[[FromRuntime], object] | None = None,
    ) -> None:
        self.host = host or ProcessHost()
        self.told: queue.SimpleQueue[FromRuntime] = queue.SimpleQueue()
        self._begin = begin
        self._on_tell = tell
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.host.run(self._begin, self._tell)
        except BaseException as error:
            self._error = error

    def _tell(self, message: FromRuntime) -> None:
        self.told.put(message)
        if self._on_tell is not None:
            self._on_tell(message)

    def wait_for(self, kind: type[Any] = State, timeout: float = 20.0) -> Any:
        """The next message of that kind."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.told.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(message, kind):
                return message

    def end(self, timeout: float = 20.0) -> BaseException | None:
        """What it raised in the end."""
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        return self._error


def child_of(running: Running) -> int:
    assert isinstance(running.host, ProcessHost)
    child = running.host._near_end._home
    assert isinstance(child, launch.Child)
    return child._process.pid


def text_of(error: BaseException | None) -> str:
    assert isinstance(error, RuntimeCrashed)
    return str(error)


def interpreters() -> list[Interpreter]:
    """Those of this process, beside its own."""
    return [each for each in list(departures._here) if isinstance(each, Interpreter)]


def the_interpreter() -> Interpreter:
    (one,) = interpreters()
    return one
