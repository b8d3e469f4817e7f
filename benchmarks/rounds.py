"""Rounds in which the workers take turns, within a time."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Rounds", "median_of", "turns"]

T = TypeVar("T")


@dataclass(frozen=True)
class Rounds:
    """How often to measure.

    Args:
        count: Rounds, at most.
        budget: Seconds; a round that would end later is not begun, but one is.
    """

    count: int
    budget: float

    def run(self, what: str) -> Iterator[int]:
        """Yield the number of each round, and say so on standard error."""
        start = time.monotonic()
        for number in range(self.count):
            spent = time.monotonic() - start
            if number and spent * (number + 1) / number > self.budget:
                print(f"{what}: {number} rounds, for want of time", file=sys.stderr)
                return
            print(f"{what}: round {number + 1} of {self.count}", file=sys.stderr)
            yield number


def median_of(samples: Iterable[object], figure: str) -> float:
    figures: list[float] = [getattr(sample, figure) for sample in samples]
    return statistics.median(figures)


def turns(things: Sequence[T], number: int) -> list[T]:
    """The same things, of which another one is first in each round."""
    first = number % len(things)
    return [*things[first:], *things[:first]]
