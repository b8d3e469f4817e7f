"""Calls from any thread into one event loop, with few wake-ups."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Deliver messages to ``deliver`` on ``loop``, in order, some at a time.

    However many messages are posted before the loop gets to them, it is woken
    once: a wake-up is a system call, and takes the GIL from whoever posts.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[T]], None]
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._messages: deque[T] = deque()
        self._woken = False

    def post(self, message: T) -> bool:
        """Post a message, from any thread; it never blocks.

        Returns:
            ``False`` once the loop is closed: then messages go nowhere.
        """
        self._messages.append(message)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except BaseException as error:
                # Or nobody would wake it any more.
                self._woken = False
                if isinstance(error, RuntimeError) and self._loop.is_closed():
                    self._messages.clear()
                    return False
                # Whoever is told that it failed may post it again.
                with suppress(ValueError):
                    self._messages.remove(message)
                raise
        return True

    def _empty(self) -> None:
        # Before looking: a message posted from now on wakes the loop again.
        self._woken = False
        messages = []
        while self._messages:
            messages.append(self._messages.popleft())
        self._deliver(messages)
