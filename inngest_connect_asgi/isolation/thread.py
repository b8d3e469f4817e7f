"""The runtime in the calling thread, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .. import ends, event_loop
from ..messages import FromApp, FromRuntime, Start
from ..runtime.lifetime import Lifetime
from ..runtime.shell import Runtime
from .mailbox import Mailbox

__all__ = ["ThreadHost"]


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

        async def main(loop: asyncio.AbstractEventLoop) -> None:
            runtime = Runtime(tell)
            lifetime = Lifetime(runtime)
            self._crash = lambda error: loop.call_soon_threadsafe(lifetime.crash, error)
            self._mailbox = Mailbox(loop, ends.guarded(runtime.receive, lifetime.crash))
            try:
                await lifetime.run(start())
            finally:
                self._mailbox = self._crash = None

        event_loop.run(main)

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
