"""The runtime as a process of its own.

Not for people: :mod:`inngest_connect_asgi.isolation.launch` starts it, and
:mod:`inngest_connect_asgi.isolation.process` speaks to it over two pipes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from functools import partial
from io import FileIO

from .. import ends
from ..event_loop import EventLoop
from ..messages import VERSION
from . import far_end, pipe

__all__ = ["main"]

PARENT_CHECK_INTERVAL = 0.5
"""Seconds. The pipe tells of the parent's death at once, unless another process
holds its other end, as a fork of the parent may."""


def main() -> None:
    # The app decides when to shut down, and says so over the pipe.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    from_parent, to_parent, stderr, parent = map(int, sys.argv[2:])
    ends.start_thread(partial(_watch_parent, parent), _leave, name="parent")
    os.write(to_parent, pipe.greeting(VERSION))
    # What is printed until here, the parent reads; from now on it is seen at once.
    for number in (1, 2):
        os.dup2(stderr, number)
    os.close(stderr)
    try:
        far_end.speak(EventLoop(), FileIO(from_parent), FileIO(to_parent, "w"), _leave)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Not by way of an interpreter shutdown, which has nothing left to do.
    os._exit(0)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL)


def _leave(error: BaseException | None = None) -> None:
    os._exit(1)
