"""What the app's other libraries want of a worker.

Nothing is imported that the app has not imported: a library that is only
installed costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from .messages import Configuration
from .surroundings import Surroundings, nested

__all__ = ["OBSERVERS", "Observer", "observers", "surroundings"]


class Observer(Protocol):
    """Is told, from any thread, what crosses between app and runtime."""

    def observe(self, message: object) -> None: ...
    def close(self) -> None: ...


OBSERVERS: list[Callable[[Configuration], Observer]] = []
"""Make one for every worker that starts."""


def observers(configuration: Configuration) -> tuple[Observer, ...]:
    """Who observes a worker that starts now."""
    makers = list(OBSERVERS)
    if "opentelemetry.metrics" in sys.modules:
        from . import opentelemetry

        makers += opentelemetry.observers()
    return tuple(make(configuration) for make in makers)


def surroundings() -> Surroundings:
    """What is to be around every run, as things are now."""
    layers: list[Surroundings] = []
    if "opentelemetry.trace" in sys.modules:
        from . import opentelemetry

        layers += opentelemetry.surroundings()
    if "sentry_sdk" in sys.modules:
        from . import sentry

        layers += sentry.surroundings()
    django = sys.modules.get("django.apps")
    if django is not None and django.apps.ready:
        from .django.connections import SURROUNDINGS

        layers.append(SURROUNDINGS)
    return nested(layers)
