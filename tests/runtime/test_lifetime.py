from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from inngest_connect_asgi.messages import Start
from inngest_connect_asgi.runtime.lifetime import Lifetime

from ..harness import run
from ..simulation import configuration


class Runtime:
    def __init__(self, life: Callable[[], Awaitable[object]]) -> None:
        self._life = life
        self.was_cancelled = False

    async def run(self, start: Start) -> None:
        try:
            await self._life()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


def lifetime(life: Callable[[], Awaitable[object]]) -> tuple[Lifetime, Runtime]:
    runtime = Runtime(life)
    return Lifetime(runtime), runtime  # type: ignore[arg-type]


START = Start(configuration())


def test_it_ends_with_its_runtime() -> None:
    async def main() -> None:
        lived, _ = lifetime(lambda: asyncio.sleep(0))
        await lived.run(START)
        # It is over.
        lived.crash(RuntimeError("late"))

    run(main)


@pytest.mark.parametrize("error", [ValueError, SystemExit, MemoryError])
def test_whatever_its_runtime_raises_it_raises(error: type[BaseException]) -> None:
    async def fail() -> None:
        raise error("of the runtime")

    async def main() -> None:
        lived, _ = lifetime(fail)
        with pytest.raises(error, match="of the runtime"):
            await lived.run(START)

    run(main)


def test_a_crash_ends_what_waits_for_something_else() -> None:
    async def main() -> None:
        lived, runtime = lifetime(asyncio.Event().wait)
        boom = RuntimeError("boom")
        loop = asyncio.get_running_loop()
        loop.call_soon(lived.crash, boom)
        loop.call_soon(lived.crash, RuntimeError("later"))
        with pytest.raises(RuntimeError, match="boom"):
            await lived.run(START)
        assert runtime.was_cancelled

    run(main)


def test_whoever_is_cancelled_takes_the_runtime_along() -> None:
    async def main() -> None:
        lived, runtime = lifetime(asyncio.Event().wait)
        task = asyncio.ensure_future(lived.run(START))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runtime.was_cancelled

    run(main)
