"""Two places, and a runtime that moves from the first to the other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest

from inngest_connect_asgi import ends
from inngest_connect_asgi.configuration import Configuration
from inngest_connect_asgi.isolation.moving import MovingHost
from inngest_connect_asgi.messages import (
    Adopt,
    Delivered,
    Drain,
    FromApp,
    FromRuntime,
    Leave,
    Log,
    Moved,
    Outcome,
    Pong,
    Request,
    Result,
    Start,
    Starved,
    Undelivered,
    Withdrawn,
)
from inngest_connect_asgi.state import State

from ..simulation import lease

READY = State("ready")
OLD, NEW = lease("old"), lease("new")
DONE = Outcome(200, b"null")
BOOM, BANG = RuntimeError("boom"), RuntimeError("bang")


class Place:
    """Where a runtime does nothing but what the test says."""

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.sent: list[FromApp] = []
        self.crashes: list[BaseException] = []
        self._began: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.tell: Callable[[FromRuntime], None]

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        self.starts.append(start())
        self.tell = tell
        self._began.put(None)
        error = self._ends.get(timeout=5)
        if error is not None:
            raise error

    def send(self, message: FromApp) -> None:
        self.sent.append(message)

    def crash(self, error: BaseException) -> None:
        self.crashes.append(error)

    def wait(self) -> None:
        self._began.get(timeout=5)

    def end(self, error: BaseException | None = None) -> None:
        self._ends.put(error)


class Moving:
    """A host, in a thread of its own, and what the app is told."""

    def __init__(self) -> None:
        self.first, self.home = Place(), Place()
        self.host = MovingHost(self.first, self.home, "process")
        self.known = Start(Configuration((), "http://127.0.0.1", "instance", "0"))
        self.told: list[FromRuntime] = []
        self._changed = threading.Condition()
        self.begin()

    def begin(self) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.host.run(lambda: self.known, self._tell)
        except BaseException as error:
            self._error = error

    def _tell(self, message: FromRuntime) -> None:
        with self._changed:
            self.told.append(message)
            self._changed.notify_all()

    def wait_for(self, kind: type) -> None:
        def is_told() -> bool:
            return any(isinstance(each, kind) for each in self.told)

        with self._changed:
            assert self._changed.wait_for(is_told, 5)

    def end(self) -> BaseException | None:
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self._error

    def arrive(self) -> None:
        """Begin the move."""
        self.first.wait()
        self.first.tell(Starved(2.0))
        self.home.wait()

    def leave(self) -> None:
        """The new one is ready."""
        self.arrive()
        self.home.tell(READY)

    @property
    def adopted(self) -> list[Adopt]:
        return [each for each in self.home.sent if isinstance(each, Adopt)]

    @property
    def logs(self) -> list[str]:
        return [each.message for each in self.told if isinstance(each, Log)]


def test_without_starvation_it_is_the_first_place() -> None:
    moving = Moving()
    moving.first.wait()
    moving.first.tell(READY)
    moving.host.send(Pong(1))
    moving.host.crash(BOOM)
    moving.first.end()
    assert moving.end() is None
    assert moving.told == [READY]
    assert moving.first.sent == [Pong(1)]
    assert (moving.first.crashes, moving.home.crashes) == ([BOOM], [BOOM])
    assert not moving.home.starts


def test_a_crash_before_it_moves_is_what_it_raises() -> None:
    moving = Moving()
    moving.first.wait()
    moving.first.end(BOOM)
    assert moving.end() is BOOM


def test_it_moves() -> None:
    moving = Moving()
    known = moving.known
    moving.known = Start(
        known.configuration,
        requests=(OLD,),
        undelivered=(Undelivered(OLD, 4),),
        state=READY,
    )
    moving.arrive()
    (start,) = moving.home.starts
    assert start.beside
    assert (start.requests, start.undelivered, start.state) == ((), (), None)
    assert start.configuration.isolation == "process"

    # The app sees the old one as long as that is the one which counts.
    moving.home.tell(State("connecting"))
    moving.first.tell(READY)
    assert moving.told == [Starved(2.0), READY]
    assert not moving.first.sent
    moving.home.tell(READY)
    assert moving.first.sent == [Leave()]
    moving.home.tell(READY)
    stopping = State("stopping", requests_done=7)
    moving.first.tell(stopping)
    assert moving.told == [Starved(2.0), READY]

    # Each has its requests.
    request = Request(NEW, "app", "job", b"{}")
    for taken in (lease("a"), lease("b")):
        moving.home.tell(Request(taken, "app", "job", b"{}"))
    moving.home.tell(Withdrawn(lease("a").delivery))
    moving.home.tell(Delivered(lease("b").delivery))
    moving.home.tell(request)
    connected = Log(20, "Connected to Inngest")
    moving.home.tell(connected)
    assert moving.told[-2:] == [request, connected]
    of_old, of_new = Result(OLD, DONE), Result(NEW, DONE)
    for message in (of_old, of_new, Pong(3)):
        moving.host.send(message)
    assert moving.first.sent == [Leave(), of_old, Pong(3)]
    assert moving.home.sent == [of_new, Pong(3)]

    moving.known = Start(
        known.configuration,
        requests=(OLD, NEW),
        offered=(lease("c"), NEW),
        undelivered=(Undelivered(OLD, 4), Undelivered(NEW, 4)),
        settled=(lease("b").delivery,),
    )
    moving.first.end()
    moving.wait_for(Moved)
    (adopted,) = moving.adopted
    assert adopted == Adopt(
        requests=(OLD,),
        offered=(lease("c"),),
        undelivered=(Undelivered(OLD, 4),),
        settled=(lease("b").delivery,),
        state=stopping,
    )
    moving.home.tell(State("ready", requests_done=8))
    assert moving.told[-1] == State("ready", requests_done=8)
    moving.host.send(of_old)
    assert moving.home.sent[-1] is of_old
    moving.home.end()
    assert moving.end() is None

    # The next one begins where this one has lived.
    moving.begin()
    moving.home.wait()
    assert len(moving.first.starts) == 1
    assert moving.home.starts[-1].settled == moving.known.settled
    moving.home.end(BOOM)
    assert moving.end() is BOOM
    moving.begin()
    moving.home.wait()
    moving.home.end()
    assert moving.end() is None


def test_where_it_can_not_move_it_stays_and_tries_again() -> None:
    moving = Moving()
    moving.arrive()
    moving.home.end(BOOM)
    moving.wait_for(Log)
    (text,) = moving.logs
    assert "could not move" in text
    assert "RuntimeError: boom" in text
    moving.first.tell(Starved(2.0))
    moving.home.wait()
    # Nobody looks twice while one is on its way.
    moving.first.tell(Starved(2.0))
    moving.home.tell(READY)
    moving.first.end()
    moving.wait_for(Moved)
    moving.home.end()
    assert moving.end() is None
    assert len(moving.home.starts) == 2


def test_without_another_thread_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ends, "start_thread", refuse)
    moving = Moving()
    moving.first.wait()
    moving.first.tell(Starved(2.0))
    assert "can't start new thread" in moving.logs[0]
    moving.first.end()
    assert moving.end() is None


def test_it_does_not_move_when_it_is_to_stop() -> None:
    moving = Moving()
    moving.first.wait()
    moving.host.send(Drain(5.0))
    assert moving.first.sent == [Drain(5.0)]
    moving.first.tell(Starved(2.0))
    moving.first.end()
    assert moving.end() is None
    assert not moving.home.starts


def test_a_shutdown_while_the_new_one_connects_leaves_all_to_the_old_one() -> None:
    moving = Moving()
    moving.arrive()
    moving.host.send(Drain(5.0))
    assert moving.first.sent == moving.home.sent == [Drain(5.0)]
    moving.home.tell(READY)
    assert Leave() not in moving.first.sent
    moving.home.end()
    assert moving.host._home_ended.wait(5)
    moving.first.end()
    assert moving.end() is None
    assert not moving.logs


def test_a_shutdown_while_the_old_one_leaves_comes_behind_what_it_leaves() -> None:
    moving = Moving()
    moving.leave()
    moving.host.send(Drain(5.0))
    assert moving.first.sent == [Leave(), Drain(5.0)]
    assert not moving.home.sent
    known = moving.known
    moving.known = Start(known.configuration, drain=Drain(4.0))
    moving.first.end()
    moving.wait_for(Moved)
    assert [type(each) for each in moving.home.sent] == [Adopt, Drain]
    assert moving.home.sent[-1] == Drain(4.0)
    moving.home.end()
    assert moving.end() is None


def test_one_that_crashes_as_it_moves_is_followed_by_the_other() -> None:
    moving = Moving()
    moving.arrive()
    moving.first.end(BOOM)
    moving.wait_for(Moved)
    assert len(moving.adopted) == 1
    assert "crashed as it moved: RuntimeError: boom" in moving.logs[0]
    moving.home.end()
    assert moving.end() is None


def test_where_both_crash_the_new_ones_end_is_told() -> None:
    moving = Moving()
    moving.leave()
    moving.home.end(BANG)
    moving.first.end(BOOM)
    assert moving.end() is BANG


def test_an_end_of_the_new_one_does_not_hide_the_crash_of_the_old() -> None:
    moving = Moving()
    moving.leave()
    moving.home.end()
    assert moving.host._home_ended.wait(5)
    moving.first.end(BOOM)
    assert moving.end() is BOOM


def test_where_what_is_left_can_not_be_told_both_end() -> None:
    def fail() -> Start:
        raise BANG

    moving = Moving()
    moving.leave()
    moving.host._start = fail
    moving.first.end()
    while not moving.home.crashes:
        time.sleep(0.01)
    assert moving.home.crashes == [BANG]
    moving.home.end(BOOM)
    assert moving.end() is BANG
