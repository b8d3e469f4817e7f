from __future__ import annotations

import pytest

from inngest_connect_asgi.isolation.thread import ThreadHost
from inngest_connect_asgi.messages import Drain, Pong
from inngest_connect_asgi.state import State

from ..hosts import Running


def test_it_runs_until_it_is_drained_and_then_nobody_is_there() -> None:
    host = ThreadHost()
    running = Running(host)
    running.wait_for(State)
    host.send(Pong(1))
    host.send(Drain(0.0))
    assert running.end() is None
    host.send(Pong(1))
    host.crash(RuntimeError("late"))


def test_a_crash_is_what_it_raises() -> None:
    host = ThreadHost()
    running = Running(host)
    running.wait_for(State)
    boom = RuntimeError("boom")
    host.crash(boom)
    assert running.end() is boom


def test_a_crash_of_one_whose_loop_is_closed_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(error: BaseException) -> None:
        raise RuntimeError("Event loop is closed")

    host = ThreadHost()
    monkeypatch.setattr(host, "_crash", closed)
    host.crash(RuntimeError("late"))
