"""What surrounds every run of a function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass

from .context import Run

__all__ = ["Surroundings", "nested"]


@dataclass(frozen=True)
class Surroundings:
    sync_run: Callable[[Run], AbstractContextManager[object]] = nullcontext
    """Entered in the thread that a synchronous function runs in."""
    async_run: Callable[[Run], AbstractAsyncContextManager[object]] = nullcontext
    """Entered in the task that an asynchronous function runs in."""


def nested(layers: Sequence[Surroundings]) -> Surroundings:
    """All of them around every run, the first one outermost."""
    if len(layers) < 2:
        return layers[0] if layers else Surroundings()

    @contextmanager
    def sync_run(run: Run) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(layer.sync_run(run))
            yield

    @asynccontextmanager
    async def async_run(run: Run) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for layer in layers:
                await stack.enter_async_context(layer.async_run(run))
            yield

    return Surroundings(sync_run, async_run)
