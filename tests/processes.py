"""What Linux knows of processes."""

from __future__ import annotations

import os
import pathlib
import time
from contextlib import suppress

__all__ = [
    "children",
    "descriptors",
    "environment",
    "is_alive",
    "own_memory",
    "peak_memory",
    "the_child",
    "wait_gone",
]


def children(pid: int) -> list[int]:
    """Every child, of whichever thread."""
    found: list[int] = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def the_child(pid: int | None = None) -> int:
    """The only one, by default of this process."""
    (child,) = children(pid or os.getpid())
    return child


def is_alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be reaped does not."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int, timeout: float) -> float:
    """Wait until it is gone; returns how many seconds that took."""
    start = time.monotonic()
    while is_alive(pid):
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"process {pid} is alive after {timeout} s")
        time.sleep(0.01)
    return time.monotonic() - start


def environment(pid: int) -> str:
    """Its arguments and its environment, as anyone with its rights can see them."""
    process = pathlib.Path(f"/proc/{pid}")
    data = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    return data.decode()


def descriptors(pid: int) -> dict[int, str]:
    """What its file descriptors are, by number."""
    found = {}
    for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(path.name)] = os.readlink(path)
        except OSError:
            continue
    return found


def own_memory(pid: int) -> int:
    """The memory that it shares with nobody, in bytes."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [line.split()[1] for line in lines if line.startswith("Private_")]
    return sum(map(int, private)) * 1024


def peak_memory(pid: int) -> int:
    """The most memory it ever had, in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no VmHWM of {pid}")
