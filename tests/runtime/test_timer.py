from __future__ import annotations

from collections.abc import Callable

from inngest_connect_asgi.runtime.timer import Timer


class Handle:
    def __init__(self, due: float) -> None:
        self.due = due
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop whose time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        handle = Handle(when)
        self.handles.append(handle)
        return handle


def waiting(loop: Loop) -> list[float]:
    return [handle.due for handle in loop.handles if not handle.cancelled]


def timer(loop: Loop) -> tuple[Timer, list[float]]:
    called: list[float] = []
    return Timer(loop, lambda: called.append(loop.now)), called  # type: ignore[arg-type]


def test_the_time_that_was_set_last_counts() -> None:
    loop = Loop()
    one, _ = timer(loop)
    one.set(5.0)
    one.set(3.0)
    one.set(3.0)
    assert (waiting(loop), len(loop.handles), one.due) == ([3.0], 2, 3.0)
    one.set(9.0)
    assert waiting(loop) == [9.0]
    one.set(None)
    assert (waiting(loop), one.due) == ([], None)
    one.set(None)
    one.cancel()
    assert waiting(loop) == []


def test_what_is_due_by_now_is_not_late() -> None:
    loop = Loop()
    loop.now = 10.0
    one, _ = timer(loop)
    one.set(3.0)
    assert (waiting(loop), one.due) == ([10.0], 10.0)


def test_one_that_is_due_has_its_turn_whatever_is_set_meanwhile() -> None:
    loop = Loop()
    one, called = timer(loop)
    one.set(5.0)
    loop.now = 6.0
    for due in (6.0, 7.0):
        one.set(due)
        assert waiting(loop) == [5.0]
    one._call()
    assert called == [6.0]
    one.set(9.0)
    assert waiting(loop)[-1] == 9.0


def test_where_nothing_is_due_any_more_nobody_is_called() -> None:
    loop = Loop()
    one, _ = timer(loop)
    one.set(5.0)
    loop.now = 6.0
    one.set(None)
    assert (waiting(loop), one.due) == ([], None)


def test_a_timer_that_is_cancelled_calls_nobody() -> None:
    loop = Loop()
    one, _ = timer(loop)
    one.set(5.0)
    one.cancel()
    assert waiting(loop) == []
