"""The runtime in the calling thread, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from . import ends
from .forks import EventLoop
from .lifetime import Lifetime
from .mailbox import Mailbox
from .messages import FromApp, FromRuntime, Start
from .runtime import Runtime

__all__ = ["ThreadHost"]

CANCEL_TIMEOUT = 5.0
"""Seconds for tasks that are left to end when they are cancelled."""


class ThreadHost:
    """Isolation from whatever holds the app's event loop.

    Not from native code that keeps the GIL: that stops this thread as well. Nor can a
    thread that hangs be replaced.
    """

    def __init__(self) -> None:
        self._mailbox: Mailbox[FromApp] | None = None
        self._crash: Callable[[BaseException], object] | None = None

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a runtime in the calling thread, until it ends.

        Args:
            start: Makes the start message. Called once messages are taken, so
                that none falls between it and them.
            tell: Takes the runtime's messages, in this thread.

        Raises:
            BaseException: The runtime crashed.
        """
        loop = EventLoop()
        try:
            loop.run_until_complete(self._run(loop, start, tell))
        finally:
            self._mailbox = self._crash = None
            try:
                loop.run_until_complete(_clean_up(loop))
            finally:
                loop.close()

    async def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[], Start],
        tell: Callable[[FromRuntime], None],
    ) -> None:
        runtime = Runtime(tell)
        lifetime = Lifetime(runtime)
        self._crash = lambda error: loop.call_soon_threadsafe(lifetime.crash, error)
        self._mailbox = Mailbox(loop, ends.guarded(runtime.receive, lifetime.crash))
        await lifetime.run(start())

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime, if there is one; from any thread."""
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.post(message)

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise ``error``, if there is a runtime; from any thread."""
        crash = self._crash
        if crash is not None:
            with suppress(RuntimeError):  # its loop is closed by now
                crash(error)


async def _clean_up(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
    await loop.shutdown_asyncgens()
