"""How long to wait before trying again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Delays that double with every failure, up to a cap, with jitter.

    Half of each delay is random, so that workers which lost the same server do
    not come back to it together. The jitter only ever shortens a delay:
    ``cap`` is a promise.

    Args:
        first: Longest delay after the first failure, in seconds.
        cap: Longest delay after any number of failures, in seconds.
    """

    def __init__(self, *, first: float, cap: float, rng: random.Random) -> None:
        self.first = first
        self.cap = cap
        self.failures = 0
        self._random = rng

    def fail(self, *, hopeless: bool = False) -> float:
        """Count a failure and return the delay that follows it, in seconds.

        Args:
            hopeless: Go straight to the cap: only a person can mend this.
        """
        self.failures += 1
        return self.delay(self.failures, hopeless=hopeless)

    def delay(self, failures: int, *, hopeless: bool = False) -> float:
        """The delay that follows so many failures, counted elsewhere, in seconds."""
        # Beyond 2**32 the cap has long been reached; a float would overflow.
        doubled = self.first * 2.0 ** min(failures - 1, 32)
        longest = self.cap if hopeless else min(doubled, self.cap)
        return longest * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self.failures = 0
