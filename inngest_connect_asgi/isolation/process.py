"""The runtime in a child process, at the other end of two pipes."""

from __future__ import annotations

from collections.abc import Callable

from ..messages import FromApp, FromRuntime, Start
from . import launch
from .near_end import NearEnd

__all__ = ["ProcessHost"]


class ProcessHost:
    """Isolation from everything that the app's process does, the GIL included.

    The child imports neither the app nor the SDK. It is told everything through
    a pipe, and ends when that does, however the parent died.
    """

    def __init__(self) -> None:
        self._near_end = NearEnd(lambda: launch.Child())

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a child, and read its messages in the calling thread, until it ends.

        Raises:
            RuntimeCrashed: It died, hung, or spoke another language, or its runtime
                crashed.
            BaseException: Whatever ``start`` or ``tell`` raises.
        """
        self._near_end.run(start, tell)

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime, if there is one; from any thread."""
        self._near_end.send(message)

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise, if there is a runtime; from any thread."""
        self._near_end.crash(error)
