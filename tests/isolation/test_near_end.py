"""A runtime at the far end of two pipes, and whoever runs it there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from inngest_connect_asgi.isolation import launch, pipe
from inngest_connect_asgi.isolation.outbox import Outbox
from inngest_connect_asgi.isolation.process import ProcessHost
from inngest_connect_asgi.isolation.supervisor import Host
from inngest_connect_asgi.isolation.thread import ThreadHost
from inngest_connect_asgi.messages import Drain, Pong, Start
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.state import State

from ..hosts import (
    HOSTS,
    Running,
    child_of,
    inject,
    large_result,
    start,
    text_of,
)

# From outside


@HOSTS
def test_it_is_crashed_from_any_thread(host: Callable[[], Host]) -> None:
    running = Running(host())
    running.wait_for(State)
    boom = RuntimeError("boom")
    running.host.crash(boom)
    running.host.crash(ValueError("later"))
    error = running.end()
    if host is ThreadHost:
        assert error is boom
    else:
        assert "boom" in text_of(error)
        assert error is not None
        assert error.__cause__ is boom
    # That one is over: nobody is there to crash, or to be told.
    running.host.crash(boom)
    running.host.send(Pong(1))
    again = Running(running.host)
    again.wait_for(State)
    again.host.send(Drain(0.0))
    assert again.end() is None


def test_it_is_crashed_before_there_is_a_process() -> None:
    host = ProcessHost()

    def begin() -> Start:
        host.crash(RuntimeError("boom"))
        return start()

    assert "boom" in text_of(Running(host, begin).end())


@HOSTS
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, GeneratorExit])
@pytest.mark.parametrize("place", ["start", "tell"])
def test_what_its_callers_raise_ends_it(
    host: Callable[[], Host], error: type[BaseException], place: str
) -> None:
    def fail(*_: object) -> Any:
        raise error("of the caller")

    begin, tell = (fail, None) if place == "start" else (start, fail)
    assert isinstance(Running(host(), begin, tell).end(), error)


@HOSTS
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_is_raised_on_a_message_ends_it(
    host: Callable[[], Host],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    code = f"""
from inngest_connect_asgi.runtime.shell import Runtime
def fail(self, messages):
    raise {error.__name__}("of the runtime")
Runtime.receive = fail
"""
    if host is ThreadHost:

        def fail(self: Runtime, messages: object) -> None:
            raise error("of the runtime")

        monkeypatch.setattr(Runtime, "receive", fail)
    else:
        inject(monkeypatch, code)
    running = Running(host())
    running.host.send(Pong(1))
    ended = running.end()
    if host is ThreadHost:
        assert isinstance(ended, error)
    else:
        assert f"{error.__name__}: of the runtime" in text_of(ended)


# Messages that can't be sent


def test_a_message_that_can_not_be_encoded_ends_the_child() -> None:
    running = Running()
    running.wait_for(State)
    running.host.send(lambda: None)  # type: ignore[arg-type]
    assert "lambda" in text_of(running.end())


def test_one_that_can_not_be_encoded_when_its_turn_comes_does_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = Running()
    running.wait_for(State)
    os.kill(child_of(running), signal.SIGSTOP)
    running.host.send(large_result(1, 3 * pipe.PIPE_SIZE))

    def fail(message: object) -> memoryview:
        raise MemoryError

    monkeypatch.setattr(pipe, "encode", fail)
    running.host.send(Pong(1))
    os.kill(child_of(running), signal.SIGCONT)
    assert "MemoryError" in text_of(running.end())


def test_a_fault_where_messages_wait_ends_the_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(outbox: Outbox) -> bool:
        raise MemoryError

    monkeypatch.setattr(Outbox, "_wait", fail)
    assert "MemoryError" in text_of(Running().end())


def test_bytes_that_are_no_message_end_the_child() -> None:
    running = Running()
    running.wait_for(State)
    assert isinstance(running.host, ProcessHost)
    outbox = running.host._near_end._outbox
    assert outbox is not None
    assert outbox._writer is not None
    outbox._writer.write_frame(pipe.frame(b"no pickle"))
    text = text_of(running.end())
    assert "UnpicklingError" in text
    assert "data_received" in text


def test_a_child_that_is_gone_before_it_is_heard_of_is_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was crashed while it was being started."""
    host = ProcessHost()
    begun = launch.Child

    def begin() -> launch.Child:
        host.crash(RuntimeError("boom"))
        return begun()

    monkeypatch.setattr(launch, "Child", begin)
    assert "boom" in text_of(Running(host).end())
