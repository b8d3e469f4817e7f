"""What a fork of the app must not keep: connections, ports and pipes of ours.

A process that the app forks has every descriptor of the app's. It would hold the
gateway's connection open after the app was killed, and the gateway would send requests
to nobody. So in a fork they become ``/dev/null``. They are not closed: whoever has one
there may still close it, and by then the number could be somebody else's.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

__all__ = ["hold", "hold_selector"]


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


_held: WeakSet[HasDescriptor] = WeakSet()
_selectors: WeakSet[selectors.BaseSelector] = WeakSet()
_registered = False


def hold(thing: HasDescriptor) -> None:
    """Keep a socket or a file from any fork, for as long as it is open.

    Where it is closed its ``fileno()`` says so, and the number is left alone.
    """
    global _registered
    _held.add(thing)
    if not _registered:
        _registered = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_let_go)


def hold_selector(selector: selectors.BaseSelector) -> None:
    """Keep whatever is registered with an event loop's selector from any fork."""
    _selectors.add(selector)
    if hasattr(selector, "fileno"):
        hold(selector)


def _let_go() -> None:
    """In a fork: have nothing of ours, without a word to what the parent has.

    The selector is asked for its numbers alone. To take one off it would take it off
    the parent's, which is the same.
    """
    with suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in set(_numbers()):
            with suppress(OSError):
                os.dup2(null, number, inheritable=False)
        os.close(null)


def _numbers() -> Iterator[int]:
    for selector in list(_selectors):
        # None where it is closed.
        yield from [key.fd for key in (selector.get_map() or {}).values()]
    for thing in list(_held):
        with suppress(OSError, ValueError):
            if (number := thing.fileno()) >= 0:
                yield number
