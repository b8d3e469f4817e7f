"""A runtime that crashes is started again, with backoff, up to a limit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

import pytest

from inngest_connect_asgi.messages import (
    Configuration,
    FromApp,
    FromRuntime,
    Log,
    Start,
    State,
    Stopped,
)
from inngest_connect_asgi.supervisor import MAX_CRASHES, Supervisor

START = Start(Configuration((), "http://127.0.0.1", "instance", "0"))


class FakeHost:
    """A host whose runtimes do what a script says, one after the other."""

    def __init__(self, *script: Callable[[Callable[[FromRuntime], None]], None]):
        self.script = iter(script)
        self.starts: list[Start] = []

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        self.starts.append(start())
        next(self.script)(tell)

    def send(self, message: FromApp) -> None: ...

    def crash(self, error: BaseException) -> None: ...


def crash(tell: Callable[[FromRuntime], None]) -> None:
    raise RuntimeError("boom")


def crash_when_ready(tell: Callable[[FromRuntime], None]) -> None:
    tell(State("ready"))
    raise RuntimeError("boom")


def finish(tell: Callable[[FromRuntime], None]) -> None:
    return


class Delays(threading.Event):
    """Writes down for how long it was waited for, and lets nobody wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return self.is_set()


def run(
    host: FakeHost, *, hurry: bool = False, delays: Delays | None = None
) -> list[FromRuntime]:
    """Run a supervisor to its end, and return what it told."""
    told: queue.Queue[FromRuntime] = queue.Queue()
    supervisor = Supervisor(host, lambda: START, told.put)
    supervisor._hurry = delays or Delays()
    if hurry:
        supervisor.hurry()
    supervisor.start()
    messages = []
    while True:
        messages.append(told.get(timeout=10))
        if isinstance(messages[-1], Stopped):
            return messages


def test_an_end_is_told() -> None:
    assert run(FakeHost(finish)) == [Stopped()]


def test_a_crash_is_logged_with_its_traceback_and_the_runtime_started_again() -> None:
    host = FakeHost(crash, crash, finish)
    *told, stopped = run(host)
    assert len(host.starts) == 3
    assert stopped == Stopped()
    logs = [message for message in told if isinstance(message, Log)]
    states = [message for message in told if isinstance(message, State)]
    assert len(logs) == len(states) == 2
    for log in logs:
        assert "starting it again" in log.message
        assert "RuntimeError: boom" in log.message
    for state in states:
        # Or a probe would take the last one's for the truth.
        assert state.connection == "connecting"
        assert state.last_error == "the runtime crashed"


def test_gives_up_after_a_row_of_crashes() -> None:
    host = FakeHost(*[crash] * 20)
    *_, log, stopped = run(host)
    assert len(host.starts) == MAX_CRASHES
    assert isinstance(log, Log)
    assert "will not be started again" in log.message
    assert isinstance(stopped, Stopped)
    assert "RuntimeError: boom" in str(stopped.error)


def test_a_ready_connection_ends_the_row() -> None:
    before, after = [crash] * (MAX_CRASHES - 1), [crash] * (MAX_CRASHES - 2)
    host = FakeHost(*before, crash_when_ready, *after, finish)
    delays = Delays()
    assert run(host, delays=delays)[-1] == Stopped()
    # Which is the first of a new row.
    check_delays(delays.seconds[: len(before)])
    check_delays(delays.seconds[len(before) :])


def test_the_delay_doubles_from_half_a_second_to_thirty() -> None:
    delays = Delays()
    run(FakeHost(*[crash] * MAX_CRASHES), delays=delays)
    assert len(delays.seconds) == MAX_CRASHES - 1
    check_delays(delays.seconds)


def check_delays(seconds: Sequence[float | None]) -> None:
    """Half of a delay is random, and it only shortens."""
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert len(seconds) <= len(longest)
    for delay, limit in zip(seconds, longest, strict=False):
        assert delay is not None
        assert limit / 2 <= delay <= limit


@pytest.mark.parametrize(
    ("first", "connection"),
    [(crash, "connecting"), (crash_when_ready, "reconnecting")],
)
def test_a_crash_ends_the_connection_in_the_report_too(
    first: Callable[[Callable[[FromRuntime], None]], None], connection: str
) -> None:
    *told, stopped = run(FakeHost(first, finish))
    assert stopped == Stopped()
    last = [message for message in told if isinstance(message, State)][-1]
    assert (last.connection, last.last_error) == (connection, "the runtime crashed")


def test_a_crash_during_shutdown_is_the_last() -> None:
    host = FakeHost(crash, finish)
    *_, stopped = run(host, hurry=True)
    assert len(host.starts) == 1
    assert isinstance(stopped, Stopped)
    assert stopped.error is not None
