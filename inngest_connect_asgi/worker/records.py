"""What is logged for the runtime: without a handler's way into its thread."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from .. import logs
from ..errors import describe
from ..messages import Lease, Log, Moved, Stalled, Starved
from ..state import OWN_LOCK
from . import whereabouts
from .config import Isolation
from .threads import THREAD_NAME

__all__ = ["Records", "level"]

LOGGERS = ("inngest_connect_asgi", "asyncio", "httpcore", "httpx", "websockets")
"""Whoever logs in the runtime."""

TIMEOUT = 1.0
"""Seconds that the last records get to be written at shutdown."""


def level() -> int:
    """The lowest level that anybody wants of what is logged in the runtime."""
    return min(map(logs.level, LOGGERS))


class Records:
    """Writes the records of a runtime, which it may be handed from any thread.

    Made and closed on the app's event loop.

    Args:
        loop_thread: The thread of that loop.
        isolation: Where the runtime lives.
    """

    def __init__(self, loop_thread: int, isolation: Isolation) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = loop_thread
        self._isolation: str = isolation
        """The option; once the runtime has moved, where to."""
        self._written = asyncio.Event()
        self._writer = logs.Writer(self._ended)

    async def close(self) -> None:
        """Have the last records written, if that takes no more than a second."""
        # A handler may be slow, or hang.
        self._writer.close()
        try:
            await asyncio.wait_for(self._written.wait(), TIMEOUT)
        except asyncio.TimeoutError:
            logs.emit_aside(
                logging.WARNING, "Some log records were not written in time"
            )

    def _ended(self) -> None:
        # Unless the loop is closed, which then has nobody who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._written.set)

    def log(self, message: Log) -> None:
        # Not logged here: a handler may block, and with it the heartbeats.
        if logs.is_enabled(message.name, message.level):
            self._writer.put(
                logs.record(
                    message.level,
                    message.message,
                    extra=message.extra,
                    name=message.name,
                    at=message.at,
                )
            )

    def left(self, lease: Lease) -> None:
        """A request of which nobody is left to tell the server."""
        text = "No runtime is left to tell the server how a run ends"
        self.log(Log.of(lease, logging.ERROR, text))

    def stalled(self, message: Stalled) -> None:
        try:
            what = whereabouts.of_event_loop(self._loop_thread, THREAD_NAME)
        except Exception as error:
            # It reads the frames of threads that go on.
            what = f"where it is could not be seen: {describe(error)}"
        text = f"The app's event loop has not answered for {message.lag:.1f} s; {what}"
        self.log(Log(logging.WARNING, text))

    def starved(self, message: Starved) -> None:
        text = (
            f"The Connect runtime got no time to run for {message.lag:.1f} s, and sent "
            "no heartbeats: "
        )
        if self._isolation in OWN_LOCK:
            text += "the machine is overloaded, or was suspended"
        else:
            # From in here they look the same.
            text += (
                "native code held the interpreter's lock, or the process was "
                'suspended, or the machine is overloaded. isolation="process" keeps '
                "the connection out of reach of the first"
            )
        if self._isolation == "auto":
            text += ", and that is where it moves now"
        self.log(Log(logging.WARNING, text))

    def moved(self, message: Moved) -> None:
        self._isolation = message.to
        text = (
            f'The Connect runtime has moved, in {message.took:.1f} s: isolation="'
            f'{message.to}", which would have it there from the start'
        )
        self.log(Log(logging.WARNING, text))
