"""Requests in flight, and how long each takes."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from .requests import ID

__all__ = ["Lane", "Load"]

REQUEST_TIMEOUT = 60.0
"""Seconds without a reply after which a measurement fails."""


class Lane(Protocol):
    """What carries requests to a worker, and tells :class:`Load` of replies."""

    async def prepare(self, app: str, function: str, size: int, lanes: int) -> None: ...
    def send(self, request_id: bytes) -> None: ...


class Load:
    """Keeps a number of requests in flight, and times each of them."""

    def __init__(self) -> None:
        self.lane: Lane
        self._number = 0
        self._sent: dict[bytes, float] = {}
        self._held: set[bytes] = set()
        """Requests that wait for something, while others are measured."""
        self._latencies: list[float] = []
        self._unexpected = 0
        self._expected = 200
        self._until = 0.0
        """Until when a reply is followed by the next request."""
        self._ended: asyncio.Future[None] | None = None
        self._collected: asyncio.Future[None] | None = None

    def _next_id(self) -> bytes:
        self._number += 1
        return ID % self._number

    def _send(self) -> None:
        request_id = self._next_id()
        self._sent[request_id] = time.perf_counter()
        self.lane.send(request_id)

    def replied(self, request_id: bytes, status: int) -> None:
        now = time.perf_counter()
        asked = self._sent.pop(request_id, None)
        if asked is None:
            self._held.discard(request_id)
            if not self._held and self._collected is not None:
                self._collected.set_result(None)
                self._collected = None
            return
        self._latencies.append(now - asked)
        if status != self._expected:
            self._unexpected = status
        if now < self._until and not self._unexpected:
            self._send()
        elif not self._sent and self._ended is not None:
            self._ended.set_result(None)
            self._ended = None

    async def run(
        self, concurrency: int, seconds: float, expected: int
    ) -> dict[str, Any]:
        """Keep ``concurrency`` requests in flight, and then let them end."""
        self._latencies.clear()
        self._unexpected = 0
        self._expected = expected
        ended = self._ended = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self._until = start + seconds
        for _ in range(concurrency):
            self._send()
        await asyncio.wait_for(ended, seconds + REQUEST_TIMEOUT)
        elapsed = time.perf_counter() - start
        if self._unexpected:
            raise RuntimeError(f"a reply with status {self._unexpected}")
        taken = sorted(self._latencies)
        return {
            "runs": len(taken),
            "rate": len(taken) / elapsed,
            "p50": taken[len(taken) // 2],
            "p99": taken[min(len(taken) - 1, int(len(taken) * 0.99))],
        }

    def hold(self, count: int) -> None:
        """Send requests that will not be replied to until something happens."""
        for _ in range(count):
            request_id = self._next_id()
            self._held.add(request_id)
            self.lane.send(request_id)

    async def collect(self) -> None:
        """Wait for the replies to all of them."""
        if self._held:
            self._collected = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._collected, REQUEST_TIMEOUT)
