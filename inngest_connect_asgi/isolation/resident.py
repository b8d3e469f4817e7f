"""The runtime in an interpreter of its own.

Not for people: :mod:`inngest_connect_asgi.isolation.interpreter` starts it, and speaks
to it over two pipes. The process is the app's: its signals, its standard streams, its
environment and its end are nothing to touch from here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from contextlib import suppress
from io import FileIO

from .. import event_loop
from ..event_loop import EventLoop
from ..messages import VERSION
from . import far_end, pipe

__all__ = ["main"]

AGAIN = 0.5
"""Seconds until what did not end is told to once more."""


def main() -> None:
    from_app, to_app, life = map(int, sys.argv[2:])
    # `os.environ` is this interpreter's own, but what is set in it goes on to C's,
    # which is everybody's, and is handed to whatever the app starts.
    os.putenv = lambda *_: None
    os.unsetenv = lambda *_: None
    # As a child does: the app's standard output is the app's.
    sys.stdout = sys.stderr
    loop = EventLoop()

    def leave() -> None:
        loop.remove_reader(life)
        # What is left undone by that is no news.
        warnings.simplefilter("ignore")
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_later(AGAIN, leave)

    # Nobody can kill it: it leaves when the other end of this is closed.
    loop.add_reader(life, leave)
    os.write(to_app, pipe.greeting(VERSION))
    # Cancelled is what it is when it leaves.
    with suppress(asyncio.CancelledError):
        try:
            # Whoever has made the pipes closes them.
            far_end.speak(
                loop,
                FileIO(from_app, closefd=False),
                FileIO(to_app, "w", closefd=False),
                leave,
            )
        finally:
            event_loop.close(loop)
