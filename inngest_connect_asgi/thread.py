"""The runtime in the calling thread, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .mailbox import Mailbox
from .messages import FromApp, FromRuntime, Start
from .runtime import Runtime

__all__ = ["ThreadHost"]


class ThreadHost:
    """Isolation from whatever holds the app's event loop.

    Not from native code that keeps the GIL: that stops this thread as well.
    """

    def __init__(self) -> None:
        self._mailbox: Mailbox[FromApp] | None = None
        self._crash: Callable[[BaseException], object] = lambda _: None

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a runtime in the calling thread, until it ends.

        Args:
            start: Makes the start message. Called once messages are taken, so
                that none falls between it and them.
            tell: Takes the runtime's messages, in this thread.

        Raises:
            Exception: The runtime crashed.
        """
        # Not the policy's loop: the app may have put uvloop there.
        loop = asyncio.SelectorEventLoop()
        runtime = Runtime(tell)
        self._mailbox = Mailbox(loop, runtime.receive)
        self._crash = lambda error: loop.call_soon_threadsafe(runtime.crash, error)
        try:
            loop.run_until_complete(runtime.run(start()))
        finally:
            self._mailbox = None
            loop.run_until_complete(_cancel_rest())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime, if there is one; from any thread."""
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.post(message)

    def crash(self, error: BaseException) -> None:
        with suppress(RuntimeError):
            self._crash(error)


async def _cancel_rest() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
