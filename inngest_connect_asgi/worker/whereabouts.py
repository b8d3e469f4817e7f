"""What an event loop is busy with, as another thread sees it."""

from __future__ import annotations

import sys
import sysconfig
import threading
from types import FrameType

__all__ = ["of_event_loop"]

LIBRARIES = (
    "<",
    *{path for name, path in sysconfig.get_paths().items() if name.endswith("lib")},
)
"""Where files begin that are not the app's."""


def of_event_loop(thread_id: int, pool_name: str) -> str:
    """Say what keeps an event loop from its next turn.

    Args:
        thread_id: Of the thread that it runs in, which is not the calling one.
        pool_name: How the names of threads begin that may keep the interpreter's
            lock from it.
    """
    frames = sys._current_frames()
    # The own one refers to itself by way of these: the garbage collector alone would
    # free them, and with them whatever payloads the other threads are at.
    del frames[threading.get_ident()]
    frame = frames.get(thread_id)
    if frame is not None and not _is_event_loop(frame):
        return f"it is in {_where(frame)}"
    # Nothing runs there: the interpreter's lock is elsewhere.
    busy = [
        _where(frames[thread.ident])
        for thread in threading.enumerate()
        if thread.name.startswith(pool_name)
        and thread.ident in frames
        and not _is_idle(frames[thread.ident])
    ]
    what = "it waits for the interpreter's lock"
    if busy:
        what += f", which one of these may keep: {'; '.join(busy)}"
    return what


def _is_event_loop(frame: FrameType) -> bool:
    """Whether a thread is between two callbacks of its event loop.

    uvloop has no frames of its own: there it is where the loop was started.
    """
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in ("asyncio", "selectors", "uvloop")


def _is_idle(frame: FrameType) -> bool:
    """Whether a thread of a pool waits for work."""
    return frame.f_globals.get("__name__") == "concurrent.futures.thread"


def _where(frame: FrameType) -> str:
    """The function that runs, and the app's own one that called it."""
    caller: FrameType | None = frame
    while caller is not None and not _is_event_loop(caller):
        if not caller.f_code.co_filename.startswith(LIBRARIES):
            called_by = "" if caller is frame else f", called by {_name(caller)}"
            return _name(frame) + called_by
        caller = caller.f_back
    return _name(frame)


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_name} ({code.co_filename}:{frame.f_lineno})"
