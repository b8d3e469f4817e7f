"""Messages to a child, from any thread, without ever blocking it."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

from .. import ends
from ..messages import FromApp, Start
from . import pipe

__all__ = ["Outbox"]

LOOK_EVERY = 0.5
"""Seconds between two looks at whether it is closed, while a pipe stays full."""


class Outbox:
    """What the pipe takes at once is written at once; a thread waits with the rest.

    It takes messages before there is a child, so that none falls between the start
    message and the others.

    Args:
        failed: Is called from any thread with whatever keeps a message from the child,
            but that it is gone, which whoever reads from it sees. Nothing is written
            after that: the child has to go.
    """

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._early: list[FromApp] | None = []
        self._writer: pipe.Writer | None = None
        self._thread: threading.Thread | None = None
        # One lock for all of it: nobody clears what somebody else has just set.
        self._changed = threading.Condition()
        self._behind = False
        self._closed = False

    def open(self, fd: int, prelude: bytes) -> None:
        """Write ``prelude`` to ``fd``, and whatever :meth:`begin` says after it.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        self._thread = ends.start_thread(
            lambda: self._catch_up(fd), self._ended, name="inngest-connect-pipe"
        )
        with self._changed:
            self._writer = writer = pipe.Writer(fd)
            self._write(lambda: writer.write_frame(prelude))

    def begin(self, start: Start) -> None:
        """Write ``start``, then what was sent before, and from now on what is sent."""
        with self._changed:
            early, self._early = self._early or [], None
            for message in (start, *early):
                self.send(message)

    def send(self, message: FromApp) -> None:
        with self._changed:
            writer = self._writer
            if self._early is not None:
                self._early.append(message)
            elif writer is not None and not self._closed:
                self._write(lambda: writer.write(message))

    def close(self) -> None:
        """Write no more: the child is gone."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _write(self, write: Callable[[], bool]) -> None:
        try:
            self._behind = not write()
        except BrokenPipeError:
            self._closed = True
        except BaseException as error:
            self._closed = True
            self._failed(error)
            if not isinstance(error, Exception):
                raise  # a KeyboardInterrupt is the caller's
        if self._behind or self._closed:
            self._changed.notify_all()

    def _catch_up(self, fd: int) -> None:
        room = select.poll()
        room.register(fd, select.POLLOUT)
        while self._wait():
            # Returns when the child is gone, too.
            if room.poll(LOOK_EVERY * 1000):
                with self._changed:
                    if self._writer is not None and not self._closed:
                        self._write(self._writer.flush)

    def _wait(self) -> bool:
        """Wait until there is something to write; not so once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._behind or self._closed)
            return not self._closed

    def _ended(self, error: BaseException | None) -> None:
        with self._changed:
            was_closed, self._closed = self._closed, True
        if error is not None or not was_closed:
            self._failed(error or RuntimeError("the pipe's thread has ended"))
