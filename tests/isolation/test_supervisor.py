"""A runtime that crashes is started again, with backoff, up to a limit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

import pytest

from inngest_connect_asgi.configuration import Configuration
from inngest_connect_asgi.isolation.supervisor import MAX_CRASHES, STABLE, Supervisor
from inngest_connect_asgi.messages import (
    Accepted,
    FromApp,
    FromRuntime,
    Log,
    Ping,
    Pong,
    Request,
    Start,
    Stopped,
)
from inngest_connect_asgi.protocol.backoff import Backoff
from inngest_connect_asgi.state import State

from ..simulation import lease

START = Start(Configuration((), "http://127.0.0.1", "instance", "0"))


class FakeHost:
    """A host whose runtimes do what a script says, one after the other."""

    def __init__(self, *script: Callable[[Callable[[FromRuntime], None]], None]):
        self.script = iter(script)
        self.starts: list[Start] = []
        self.error: BaseException | None = None

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        self.starts.append(start())
        next(self.script)(tell)
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def send(self, message: FromApp) -> None: ...

    def crash(self, error: BaseException) -> None:
        self.error = error


def crash(tell: Callable[[FromRuntime], None]) -> None:
    raise RuntimeError("boom")


def crash_when_ready(tell: Callable[[FromRuntime], None]) -> None:
    tell(State("ready", at=1000.0, connected_at=1000.0 - STABLE + 0.1))
    raise RuntimeError("boom")


def crash_when_stable(tell: Callable[[FromRuntime], None]) -> None:
    tell(State("ready", at=1000.0, connected_at=1000.0 - STABLE))
    # Not when it is over.
    tell(State("reconnecting", at=1001.0))
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
    host: FakeHost,
    *,
    hurry: bool = False,
    delays: threading.Event | None = None,
    start: Callable[[], Start] = lambda: START,
    refuse: Callable[[FromRuntime], None] = lambda _: None,
) -> list[FromRuntime]:
    """Run a supervisor to its end, and return what it told and was not refused."""
    told: queue.Queue[FromRuntime] = queue.Queue()

    def tell(message: FromRuntime) -> None:
        refuse(message)
        told.put(message)

    supervisor = Supervisor(host, start, tell)
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
        assert state.last_error == "the runtime crashed: RuntimeError: boom"


def test_gives_up_after_a_row_of_crashes() -> None:
    host = FakeHost(*[crash] * 20)
    *_, log, stopped = run(host)
    assert len(host.starts) == MAX_CRASHES
    assert isinstance(log, Log)
    assert "will not be started again" in log.message
    assert isinstance(stopped, Stopped)
    assert "RuntimeError: boom" in str(stopped.error)


def test_a_stable_connection_ends_the_row() -> None:
    before, after = [crash] * (MAX_CRASHES - 1), [crash] * (MAX_CRASHES - 2)
    host = FakeHost(*before, crash_when_stable, *after, finish)
    delays = Delays()
    assert run(host, delays=delays)[-1] == Stopped()
    # Which is the first of a new row.
    check_delays(delays.seconds[: len(before)])
    check_delays(delays.seconds[len(before) :])


def test_one_that_is_ready_for_a_moment_does_not() -> None:
    """Or a runtime that dies of its first request would be started for ever."""
    host = FakeHost(*[crash_when_ready] * 20)
    *_, stopped = run(host)
    assert len(host.starts) == MAX_CRASHES
    assert isinstance(stopped, Stopped)
    assert stopped.error is not None


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_host_raises_is_a_crash(error: type[BaseException]) -> None:
    def leave(tell: Callable[[FromRuntime], None]) -> None:
        raise error("of the host")

    host = FakeHost(leave, finish)
    *told, stopped = run(host)
    assert stopped == Stopped()
    (log,) = [message for message in told if isinstance(message, Log)]
    assert f"{error.__name__}: of the host" in log.message


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_whatever_its_start_message_raises_is_a_crash(
    error: type[BaseException],
) -> None:
    def start() -> Start:
        raise error("of the start")

    host = FakeHost()
    *_, stopped = run(host, start=start)
    assert isinstance(stopped, Stopped)
    assert f"{error.__name__}: of the start" in str(stopped.error)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("kind", [Log, State])
def test_what_can_not_be_told_is_logged_and_ends_nothing(
    error: type[BaseException], kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(message: FromRuntime) -> None:
        if isinstance(message, kind):
            raise error("of the worker")

    host = FakeHost(crash, finish)
    *_, stopped = run(host, refuse=refuse)
    assert stopped == Stopped()
    assert len(host.starts) == 2
    assert f"Could not tell the worker of {kind.__name__}" in caplog.text
    assert f"{error.__name__}: of the worker" in caplog.text
    if kind is Log:
        # And not lost for that.
        assert "RuntimeError: boom" in caplog.text


def test_what_the_worker_raises_on_a_message_is_a_crash() -> None:
    refused = 0

    def refuse(message: FromRuntime) -> None:
        nonlocal refused
        if isinstance(message, Ping):
            refused += 1
            raise SystemExit("of the worker")

    def ping(tell: Callable[[FromRuntime], None]) -> None:
        tell(Ping(1))

    host = FakeHost(ping, finish)
    *told, stopped = run(host, refuse=refuse)
    assert (stopped, refused) == (Stopped(), 1)
    assert any(
        isinstance(each, Log) and "SystemExit: of the worker" in each.message
        for each in told
    )


def test_what_comes_behind_a_message_that_fails_is_told_as_well() -> None:
    """A runtime says more before it ends, and some of that is acknowledged by now."""
    held, other = lease("held"), lease("other")
    about: list[FromRuntime] = [
        Request(held, "app", "job", b""),
        Accepted(held.delivery),
        Request(other, "app", "job", b""),
        Accepted(other.delivery),
    ]
    failed: list[FromRuntime] = []

    def refuse(message: FromRuntime) -> None:
        if message in about[1:3] and message not in failed:
            failed.append(message)
            raise ValueError("of the worker")

    def script(tell: Callable[[FromRuntime], None]) -> None:
        for message in about:
            tell(message)

    *told, stopped = run(FakeHost(script, finish), refuse=refuse)
    assert stopped == Stopped()
    # What failed comes again, in its order.
    assert [each for each in told if each in about] == [about[0], about[3], *about[1:3]]


def test_what_can_not_be_told_of_a_request_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(message: FromRuntime) -> None:
        if isinstance(message, Request):
            raise ValueError("of the worker")

    def script(tell: Callable[[FromRuntime], None]) -> None:
        tell(Request(lease("held"), "app", "job", b""))

    run(FakeHost(script, finish), refuse=refuse)
    (record,) = [each for each in caplog.records if hasattr(each, "request_id")]
    assert record.request_id == "held"
    assert "Could not tell the worker of Request for the request held" in caplog.text


def test_a_fault_of_its_own_is_its_end_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: object) -> float:
        raise SystemExit("of the supervisor")

    monkeypatch.setattr(Backoff, "fail", fail)
    *_, log, stopped = run(FakeHost(crash, finish))
    assert isinstance(log, Log)
    assert isinstance(stopped, Stopped)
    assert "SystemExit: of the supervisor" in str(stopped.error)


def test_without_a_thread_its_start_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="thread"):
        Supervisor(FakeHost(), lambda: START, print).start()


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
    reason = "the runtime crashed: RuntimeError: boom"
    assert (last.connection, last.last_error) == (connection, reason)


@pytest.mark.timeout(10)
def test_a_crash_during_shutdown_costs_no_time() -> None:
    host = FakeHost(*[crash] * (MAX_CRASHES - 1), finish)
    *_, stopped = run(host, hurry=True, delays=threading.Event())
    assert len(host.starts) == MAX_CRASHES
    assert stopped == Stopped()


def test_a_row_of_crashes_ends_a_shutdown_too() -> None:
    *_, stopped = run(FakeHost(*[crash] * MAX_CRASHES), hurry=True)
    assert isinstance(stopped, Stopped)
    assert stopped.error is not None


def test_what_is_for_the_runtime_goes_to_its_host() -> None:
    sent: list[FromApp] = []

    class Host(FakeHost):
        def send(self, message: FromApp) -> None:
            sent.append(message)

    host = Host()
    supervisor = Supervisor(host, lambda: START, lambda _: None)
    supervisor.send(Pong(1))
    supervisor.crash(boom := RuntimeError("boom"))
    assert sent == [Pong(1)]
    assert host.error is boom
