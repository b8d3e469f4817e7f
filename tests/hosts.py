"""Hosts of a runtime alone, without a worker, and children with something wrong."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from inngest_connect_asgi.isolation import launch
from inngest_connect_asgi.isolation.process import ProcessHost
from inngest_connect_asgi.isolation.supervisor import Host
from inngest_connect_asgi.messages import (
    Delivery,
    FromRuntime,
    Lease,
    Outcome,
    Result,
    Start,
)
from inngest_connect_asgi.state import State

from .simulation import configuration

__all__ = ["Running", "inject", "large_result", "prepared", "start", "stranger"]


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
