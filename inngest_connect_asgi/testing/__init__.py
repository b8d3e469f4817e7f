"""A small Inngest on loopback, for tests and demos."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection, Seen
    from .deliveries import Delivery
    from .executor import Function, Run, Step
    from .faults import Faults
    from .gateway import LocalGateway

__all__ = [
    "Connection",
    "Delivery",
    "Faults",
    "Function",
    "LocalGateway",
    "Run",
    "Seen",
    "Step",
]

MODULES = {
    "Connection": "connection",
    "Delivery": "deliveries",
    "Faults": "faults",
    "Function": "executor",
    "LocalGateway": "gateway",
    "Run": "executor",
    "Seen": "connection",
    "Step": "executor",
}


def __getattr__(name: str) -> object:
    # pytest loads the plugin in here whether or not a test needs the rest.
    if name in MODULES:
        module = importlib.import_module(f".{MODULES[name]}", __name__)
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
