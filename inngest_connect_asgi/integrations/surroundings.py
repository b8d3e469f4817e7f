"""What surrounds every run of a function.

Nothing in here changes an outcome: a layer that fails is left out, and what the
function returns or raises passes through all the others as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..context import Run
from ..libraries import Library, is_the_callers

__all__ = ["Layer", "Surroundings", "nested"]


@dataclass(frozen=True)
class Layer:
    """What one library wants around every run."""

    library: Library
    sync_run: Callable[[Run], AbstractContextManager[object]]
    """Entered in the thread that a synchronous function runs in."""
    async_run: Callable[[Run], AbstractAsyncContextManager[object]] | None = None
    """Entered in the task that an asynchronous function runs in; by default
    ``sync_run`` is."""


@dataclass(frozen=True)
class Surroundings:
    """What all of them make of it."""

    sync_run: Callable[[Run], AbstractContextManager[object]] = nullcontext
    async_run: Callable[[Run], AbstractAsyncContextManager[object]] = nullcontext


def nested(layers: Sequence[Layer]) -> Surroundings:
    """All of them around every run, the first one outermost."""
    if not layers:
        return Surroundings()
    around = partial(_Around, tuple(layers))
    return Surroundings(around, around)


class _Around:
    """One run's layers, entered and left in one place.

    ``contextlib.ExitStack`` would let any of them fail the run, or swallow what the
    function raised.
    """

    __slots__ = ("_entered", "_layers", "_run")

    def __init__(self, layers: tuple[Layer, ...], run: Run) -> None:
        self._layers = layers
        self._run = run
        self._entered: list[tuple[Layer, Any]] = []

    def __enter__(self) -> None:
        for layer in self._layers:
            try:
                manager = layer.sync_run(self._run)
                manager.__enter__()
            except BaseException as error:
                if is_the_callers(error):
                    self.__exit__(type(error), error, error.__traceback__)
                    raise
                layer.library.failed(error)
            else:
                self._entered.append((layer, manager))

    def __exit__(self, *raised: Any) -> None:
        ours: BaseException | None = None
        while self._entered:
            layer, manager = self._entered.pop()
            try:
                manager.__exit__(*raised)
            except BaseException as error:
                if is_the_callers(error) and error is not raised[1]:
                    ours, raised = error, (type(error), error, error.__traceback__)
                elif error is not raised[1]:
                    layer.library.failed(error)
        if ours is not None:
            raise ours

    async def __aenter__(self) -> None:
        for layer in self._layers:
            try:
                if layer.async_run is None:
                    manager: Any = layer.sync_run(self._run)
                    manager.__enter__()
                else:
                    manager = layer.async_run(self._run)
                    await manager.__aenter__()
            except BaseException as error:
                if is_the_callers(error, awaited=layer.async_run is not None):
                    await self.__aexit__(type(error), error, error.__traceback__)
                    raise
                layer.library.failed(error)
            else:
                self._entered.append((layer, manager))

    async def __aexit__(self, *raised: Any) -> None:
        ours: BaseException | None = None
        while self._entered:
            layer, manager = self._entered.pop()
            try:
                if layer.async_run is None:
                    manager.__exit__(*raised)
                elif isinstance(raised[1], GeneratorExit):
                    _without_waiting(manager.__aexit__(*raised))
                else:
                    await manager.__aexit__(*raised)
            except BaseException as error:
                if error is raised[1]:
                    continue
                if is_the_callers(error, awaited=layer.async_run is not None):
                    ours, raised = error, (type(error), error, error.__traceback__)
                else:
                    layer.library.failed(error)
        if ours is not None:
            raise ours


def _without_waiting(awaitable: Awaitable[object]) -> None:
    """As far as it goes: a coroutine that is being closed may await nothing."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration:
        return
    close = getattr(steps, "close", None)
    if close is not None:
        close()
