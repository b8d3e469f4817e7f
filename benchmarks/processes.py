"""What processes cost: their memory and their time on the processor."""

from __future__ import annotations

import pathlib
import time
from dataclasses import dataclass

from tests.processes import children

__all__ = ["Memory", "cpu_seconds", "memory", "tree"]


@dataclass(frozen=True)
class Memory:
    """Of one process or of several, in MB of 2**20 bytes."""

    resident: float
    private: float
    """What no other process shares."""
    proportional: float
    """Private, and a fair share of the rest."""

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.resident + other.resident,
            self.private + other.private,
            self.proportional + other.proportional,
        )


def memory(*pids: int) -> Memory:
    total = Memory(0.0, 0.0, 0.0)
    for pid in pids:
        resident = private = proportional = 0
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        for line in rollup.splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                resident = int(value.split()[0])
            elif name == "Pss":
                proportional = int(value.split()[0])
            elif name.startswith("Private_"):
                private += int(value.split()[0])
        total += Memory(resident / 1024, private / 1024, proportional / 1024)
    return total


def cpu_seconds(*pids: int) -> float:
    """Time on the processor so far, of user and system."""
    # The clock of another process (clock_getcpuclockid), as Linux numbers it. What
    # /proc says is in hundredths of a second.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found
