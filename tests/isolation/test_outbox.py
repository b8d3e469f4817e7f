"""What waits for a child's pipe: no wake-up and no message is lost."""

from __future__ import annotations

import os
import select
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inngest_connect_asgi import ends
from inngest_connect_asgi.isolation import pipe
from inngest_connect_asgi.isolation.outbox import Outbox
from inngest_connect_asgi.messages import Result

from ..hosts import large_result, start

MB = 1024 * 1024
PRELUDE = pipe.frame(b"prelude")


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.errors: list[BaseException] = []
        self.failed = threading.Event()
        self.outbox = Outbox(self.fail)

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)
        self.failed.set()

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def read(self, messages: int) -> list[Any]:
        """The prelude, the start message, and so many more."""
        got: list[Any] = []
        data = b""
        while len(data) < len(PRELUDE):
            data += os.read(self.reader, pipe.PIPE_SIZE)
        assert data.startswith(PRELUDE)
        decoder = pipe.Decoder()
        got += decoder.feed(data[len(PRELUDE) :])
        while len(got) < messages + 1:
            got += decoder.feed(os.read(self.reader, pipe.PIPE_SIZE))
        return got


@pytest.fixture
def ours() -> Iterator[Pipe]:
    ours = Pipe()
    yield ours
    assert returns(ours.outbox.close)
    for fd in (ours.reader, ours.writer):
        if fd >= 0:
            os.close(fd)


def returns(call: Callable[[], object], timeout: float = 10.0) -> bool:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()


class Gate:
    """A poll that ends when it is let."""

    entered = threading.Event()
    leave = threading.Event()

    def register(self, fd: int, events: int) -> None: ...

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        self.entered.set()
        self.leave.wait()
        return [(0, select.POLLERR)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> type[Gate]:
    class Fresh(Gate):
        entered = threading.Event()
        leave = threading.Event()

    monkeypatch.setattr(select, "poll", Fresh)
    return Fresh


def test_what_was_sent_before_there_was_a_child_comes_after_the_start(
    ours: Pipe,
) -> None:
    early, late = large_result(1, 10), large_result(2, 10)
    ours.outbox.send(early)
    ours.outbox.open(ours.writer, PRELUDE)
    first = start()
    ours.outbox.begin(first)
    ours.outbox.send(late)
    assert ours.read(2) == [first, early, late]


def test_what_the_pipe_does_not_take_is_written_later(ours: Pipe) -> None:
    results = [large_result(number, 2 * MB) for number in range(4)]
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    for result in results:
        ours.outbox.send(result)
    assert ours.read(4)[1:] == results
    assert not ours.errors


@pytest.mark.parametrize("wakes", ["before", "after"])
def test_it_closes_however_its_thread_and_the_childs_death_meet(
    ours: Pipe, gate: type[Gate], wakes: str
) -> None:
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    ours.outbox.send(large_result(1, 3 * MB))
    assert gate.entered.wait(10)
    # The thread sees that the child is gone, and wants the lock, which somebody has.
    closing = threading.Thread(target=ours.outbox.close, daemon=True)
    with ours.outbox._changed:
        ours.close_reader()
        if wakes == "before":
            gate.leave.set()
        closing.start()
    if wakes == "after":
        with ours.outbox._changed:
            # Whether it got to say so yet or not.
            gate.leave.set()
    closing.join(10)
    assert not closing.is_alive()
    assert not ours.errors


def test_it_closes_while_somebody_else_holds_a_full_pipe(ours: Pipe) -> None:
    """As a fork of the app may: then the pipe does not tell of the child's death."""
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    ours.outbox.send(large_result(1, 3 * MB))
    assert returns(ours.outbox.close)


def test_it_closes_without_ever_having_been_opened(ours: Pipe) -> None:
    ours.outbox.send(large_result(1, 10))
    assert returns(ours.outbox.close)


@pytest.mark.parametrize("error", [MemoryError, ValueError, SystemExit])
def test_a_fault_in_its_thread_is_told(
    ours: Pipe, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    class Broken(Gate):
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            raise error

    monkeypatch.setattr(select, "poll", Broken)
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    ours.outbox.send(large_result(1, 3 * MB))
    assert ours.failed.wait(10)
    assert isinstance(ours.errors[0], error)


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("waits", [False, True])
def test_a_message_that_can_not_be_encoded_is_told_of(
    ours: Pipe, monkeypatch: pytest.MonkeyPatch, error: type[Exception], waits: bool
) -> None:
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    poison = large_result(1, 10)
    encode = pipe.encode

    def fail(message: object) -> memoryview:
        if message is poison:
            raise error
        return encode(message)

    monkeypatch.setattr(pipe, "encode", fail)
    if waits:
        ours.outbox.send(large_result(0, 3 * MB))
    ours.outbox.send(poison)
    ours.outbox.send(large_result(2, 10))
    if waits:
        # Its turn comes once there is room, in the other thread.
        assert ours.read(1)
    assert ours.failed.wait(10)
    assert [type(each) for each in ours.errors] == [error]


def test_that_the_child_is_gone_is_nobodys_fault(ours: Pipe) -> None:
    ours.outbox.open(ours.writer, PRELUDE)
    ours.close_reader()
    ours.outbox.begin(start())
    ours.outbox.send(large_result(1, 10))
    assert returns(ours.outbox.close)
    assert not ours.errors


def test_it_raises_without_a_thread(
    ours: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ends, "start_thread", refuse)
    with pytest.raises(RuntimeError, match="thread"):
        ours.outbox.open(ours.writer, PRELUDE)


def test_no_more_than_one_message_is_held_twice(ours: Pipe) -> None:
    size, count = 8 * MB, 30
    results: list[Result] = [large_result(number, size) for number in range(count)]
    ours.outbox.open(ours.writer, PRELUDE)
    tracemalloc.start()
    try:
        ours.outbox.begin(start())
        for result in results:
            ours.outbox.send(result)
        held, _ = tracemalloc.get_traced_memory()
        assert held < 2 * size
        assert ours.read(count)[1:] == results
    finally:
        tracemalloc.stop()


class Interrupted:
    def __reduce__(self) -> str:
        raise KeyboardInterrupt


def test_an_interrupt_of_whoever_sends_is_theirs(ours: Pipe) -> None:
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    with pytest.raises(KeyboardInterrupt):
        ours.outbox.send(Interrupted())  # type: ignore[arg-type]
    assert isinstance(ours.errors[0], KeyboardInterrupt)


def test_it_waits_for_a_pipe_that_stays_full(
    ours: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Event()
    real = select.poll

    class Poll:
        def __init__(self) -> None:
            self._poll = real()
            self.register = self._poll.register

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            found = self._poll.poll(1)
            if not found:
                looks.set()
            return found

    monkeypatch.setattr(select, "poll", Poll)
    ours.outbox.open(ours.writer, PRELUDE)
    ours.outbox.begin(start())
    ours.outbox.send(large_result(1, 3 * pipe.PIPE_SIZE))
    assert looks.wait(10)
    assert ours.read(1)[1].lease.request_id == "r1"
