"""What the app's other libraries want of a worker.

Nothing is imported that the app has not imported: a library that is only
installed costs nothing. One that does not work, in whatever way, is named in the log
and left out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..configuration import Configuration
from ..libraries import Library, is_the_callers
from ..messages import Log
from .surroundings import Layer, Surroundings, nested

__all__ = [
    "OBSERVERS",
    "Guarded",
    "Maker",
    "Observer",
    "guarded",
    "observers",
    "set_up",
    "surroundings",
]

T = TypeVar("T")


class Observer(Protocol):
    """Is told, from any thread, what crosses between app and runtime."""

    def observe(self, message: object) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Maker:
    """Makes an observer with a library."""

    library: str
    """The distribution's name."""
    make: Callable[[Configuration], Observer]

    def __call__(self, configuration: Configuration) -> Observer:
        return self.make(configuration)


OBSERVERS: list[Callable[[Configuration], Observer]] = []
"""Make one for every worker that starts."""


class Guarded:
    """An observer that can't hurt: it is closed and forgotten when it fails."""

    def __init__(self, library: Library, observer: Observer) -> None:
        self._library = library
        self._observer: Observer | None = observer
        self._lock = threading.Lock()

    def observe(self, message: object) -> None:
        """Tell it. Raises nothing."""
        observer = self._observer
        if observer is not None:
            try:
                observer.observe(message)
            except BaseException as error:
                self._fail(error)

    def close(self) -> None:
        """Close it, once. Raises nothing."""
        observer = self._take()
        if observer is not None:
            try:
                observer.close()
            except BaseException as error:
                if is_the_callers(error):
                    raise
                self._library.left_out(error)

    def _fail(self, error: BaseException) -> None:
        if is_the_callers(error):
            raise error
        self._library.left_out(error)
        # What it has told so far would stay as if it were still so.
        self.close()

    def _take(self) -> Observer | None:
        with self._lock:
            observer, self._observer = self._observer, None
        return observer


def guarded(
    make: Callable[[Configuration], Observer],
    configuration: Configuration,
    log: Callable[[Log], object] | None = None,
) -> Guarded | None:
    """What ``make`` makes, behind a guard; ``None`` if that fails already.

    Args:
        log: Takes what is to be logged of it, from whichever thread it failed in; by
            default it is logged there.
    """
    if isinstance(make, Maker):
        name = make.library
    else:
        name = getattr(make, "__module__", type(make).__module__)
    library = Library(name, "metrics", log)
    observer = set_up(library, lambda: make(configuration))
    return None if observer is None else Guarded(library, observer)


def observers(
    configuration: Configuration, log: Callable[[Log], object] | None = None
) -> tuple[Guarded, ...]:
    """Who observes a worker that starts now. Raises nothing.

    Args:
        log: As for :func:`guarded`.
    """
    makers = list(OBSERVERS)
    if "opentelemetry.metrics" in sys.modules:
        library = Library("opentelemetry-api", "metrics")
        makers += set_up(library, _opentelemetry_metrics) or ()
    made = [guarded(make, configuration, log) for make in makers]
    return tuple(observer for observer in made if observer is not None)


def surroundings() -> Surroundings:
    """What is to be around every run, as things are now. Raises nothing."""
    layers: list[Layer] = []
    if "opentelemetry.trace" in sys.modules:
        layers += _layers(Library("opentelemetry-api", "traces"), _opentelemetry)
    if "sentry_sdk" in sys.modules:
        layers += _layers(Library("sentry-sdk", "error reports"), _sentry)
    if "django.apps" in sys.modules:
        layers += _layers(Library("django", "clean connections"), _django)
    return nested(layers)


def set_up(library: Library, make: Callable[[], T]) -> T | None:
    """What ``make`` returns; ``None`` if it fails, which is logged."""
    try:
        return make()
    except BaseException as error:
        if is_the_callers(error):
            raise
        library.left_out(error)
        return None


def _layers(
    library: Library, make: Callable[[Library], Sequence[Layer]]
) -> Sequence[Layer]:
    return set_up(library, lambda: make(library)) or ()


def _opentelemetry_metrics() -> Sequence[Maker]:
    from . import opentelemetry_metrics

    return opentelemetry_metrics.makers()


def _opentelemetry(library: Library) -> Sequence[Layer]:
    from . import opentelemetry

    return opentelemetry.layers(library)


def _sentry(library: Library) -> Sequence[Layer]:
    from . import sentry

    return sentry.layers(library)


def _django(library: Library) -> Sequence[Layer]:
    if not sys.modules["django.apps"].apps.ready:
        return ()
    from . import django as connections

    return connections.layers(library)
