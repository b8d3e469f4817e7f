from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from inngest_connect_asgi import ends

RAISED = [ValueError("x"), SystemExit(3), GeneratorExit(), StopIteration("x"), None]


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_a_task_tells_what_ended_it(error: BaseException | None) -> None:
    async def work() -> None:
        if error is not None:
            raise error

    async def main() -> BaseException | None:
        told: asyncio.Future[BaseException | None]
        told = asyncio.get_running_loop().create_future()
        ends.spawn(work(), told.set_result)
        return await told

    ended = asyncio.run(main())
    if isinstance(error, StopIteration):
        # A coroutine can not raise it.
        assert isinstance(ended, RuntimeError)
    else:
        assert ended is error


@pytest.mark.parametrize("begun", [True, False])
def test_a_task_that_is_cancelled_tells_so(begun: bool) -> None:
    async def main() -> BaseException | None:
        told: asyncio.Future[BaseException | None]
        told = asyncio.get_running_loop().create_future()
        task = ends.spawn(asyncio.sleep(60), told.set_result)
        if begun:
            await asyncio.sleep(0)
        task.cancel()
        return await told

    assert isinstance(asyncio.run(main()), asyncio.CancelledError)


@pytest.mark.filterwarnings("error")
def test_a_task_that_is_not_made_leaves_nothing_behind() -> None:
    told: list[BaseException | None] = []

    def factory(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        work = asyncio.sleep(0)
        with pytest.raises(MemoryError):
            ends.spawn(work, told.append)
        loop.set_task_factory(None)
        # It is closed: there is no warning of one that nobody awaited.
        assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED

    asyncio.run(main())
    assert told == []


def test_a_keyboard_interrupt_is_told_and_ends_the_loop() -> None:
    told: list[BaseException | None] = []

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        ends.spawn(interrupted(), told.append)
        await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert isinstance(told[0], KeyboardInterrupt)


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_a_thread_tells_what_ended_it(error: BaseException | None) -> None:
    told: list[tuple[BaseException | None, str]] = []

    def work() -> None:
        if error is not None:
            raise error

    def ended(error: BaseException | None) -> None:
        told.append((error, threading.current_thread().name))

    ends.start_thread(work, ended, name="worker").join()
    assert told == [(error, "worker")]


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_a_callback_tells_what_it_raises(error: BaseException | None) -> None:
    told: list[BaseException] = []

    def callback(value: int) -> None:
        assert value == 1
        if error is not None:
            raise error

    ends.guarded(callback, told.append)(1)
    assert told == ([] if error is None else [error])
