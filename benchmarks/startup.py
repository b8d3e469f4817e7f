"""How soon a worker is there: first of all, after a loss, and at a drain."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .rounds import Rounds
from .tables import table
from .targets import TITLES, Target

__all__ = ["Startup", "measure", "report"]

IMPORTS = {
    "inngest": [
        "inngest",
        "inngest, inngest.connect",
        "inngest, inngest_connect_asgi",
    ],
    "fastapi and inngest": [
        "fastapi, inngest",
        "fastapi, inngest, inngest.connect",
        "fastapi, inngest, inngest_connect_asgi",
    ],
}


@dataclass
class Startup:
    """All in seconds, by worker or by import."""

    ready: dict[str, list[float]] = field(default_factory=dict)
    drop: dict[str, list[float]] = field(default_factory=dict)
    drain: dict[str, list[float]] = field(default_factory=dict)
    imports: dict[str, list[float]] = field(default_factory=dict)


def measure(
    names: Sequence[str],
    *,
    rounds: Rounds,
    pause: float,
    loop: str = "asyncio",
) -> Startup:
    """Measure each worker anew in every round.

    Args:
        pause: Seconds between one loss and the next. After more than one, a worker
            does not take it for a series of failures.
    """
    found = Startup()
    for _ in rounds.run("start-up"):
        for name in (*names, "none"):
            with Target(name, loop=loop) as target:
                found.ready.setdefault(name, []).append(target.wait_ready())
                if target.connects:
                    for what, figures in (("drop", found.drop), ("drain", found.drain)):
                        time.sleep(pause)
                        figures.setdefault(name, []).append(target.generator.ask(what))
        for modules in (each for group in IMPORTS.values() for each in group):
            found.imports.setdefault(modules, []).append(import_time(modules))
    return found


def import_time(modules: str) -> float:
    """On the processor: disk and neighbours are no property of the package."""
    code = (
        "import time; start = time.process_time(); "
        f"import {modules}; print(time.process_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def report(found: Startup) -> str:
    bare = statistics.median(found.ready["none"])
    rows = []
    for name, times in found.ready.items():
        ready = statistics.median(times)
        row = [TITLES[name], f"{ready:.2f} s"]
        row.append("" if name in ("none", "typescript") else f"{ready - bare:+.2f} s")
        for figures in (found.drop, found.drain):
            row.append(
                f"{statistics.median(figures[name]):.3f} s" if name in figures else ""
            )
        rows.append(row)
    head = [
        "",
        "process start to first ready",
        "over the bare app",
        "drop to live",
        "without a live connection at a drain",
    ]
    count = len(found.ready["none"])
    parts = [f"Rounds: {count}.\n", table(head, rows)]
    rows = []
    for title, (base, *others) in IMPORTS.items():
        first = statistics.median(found.imports[base])
        over = (statistics.median(found.imports[o]) - first for o in others)
        rows.append([title, f"{first * 1000:.0f} ms"])
        rows[-1] += [f"{each * 1000:+.0f} ms" for each in over]
    head = ["import of", "processor time", "and `inngest.connect`", "and this package"]
    parts.append(table(head, rows))
    return "\n".join(parts)
