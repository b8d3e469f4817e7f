"""One life of a runtime, which anything may end as a crash."""

from __future__ import annotations

import asyncio

from .. import ends
from ..messages import Start
from .shell import Runtime

__all__ = ["Lifetime"]

CANCEL_TIMEOUT = 5.0
"""Seconds for a runtime that crashed to let go of what it has."""


class Lifetime:
    """Runs a runtime on the running loop, until it ends or somebody crashes it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._end: asyncio.Future[BaseException | None]
        self._end = asyncio.get_running_loop().create_future()

    async def run(self, start: Start) -> None:
        """Run it.

        Raises:
            BaseException: It crashed.
        """
        task = ends.spawn(self._runtime.run(start), self._ended, name="inngest-connect")
        try:
            error = await self._end
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_TIMEOUT)
        if error is not None:
            raise error

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise, whatever the runtime is waiting for."""
        self._ended(error)

    def _ended(self, error: BaseException | None) -> None:
        if not self._end.done():
            self._end.set_result(error)
