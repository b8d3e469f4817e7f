"""Latency, throughput and processor time of each worker under each load."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .plot import Bar, bars
from .processes import Memory
from .rounds import Rounds, median_of, turns
from .tables import ratio, table
from .targets import TITLES, Target

__all__ = ["CELLS", "Cell", "Sample", "Speed", "measure", "plot", "report"]

MEGABYTE = 1_000_000
OFFICIAL = "official"
"""What the others are held against."""

REST = 1.0
"""Seconds to let a worker come to rest."""


@dataclass(frozen=True)
class Cell:
    """A workload, and how many of it at once."""

    workload: str
    function: str
    concurrency: int
    size: int = 0
    """Bytes of payload, in the event and in the output."""
    expected: int = 200

    @property
    def title(self) -> str:
        return f"{self.workload}, {self.concurrency} at once"


CELLS = [
    *(Cell("no-op", "noop", n) for n in (1, 50, 500)),
    *(Cell("one step", "step", n, expected=206) for n in (1, 50, 500)),
    *(Cell("sync function", "sync", n) for n in (1, 50, 500)),
    # 500 at once would be a gigabyte in flight.
    *(Cell("1 MB in and out", "echo", n, size=MEGABYTE) for n in (1, 50)),
]


@dataclass(frozen=True)
class Sample:
    rate: float
    """Runs a second."""
    p50: float
    """Seconds."""
    p99: float
    cpu: float
    """Seconds of the worker's processes for 1,000 runs."""


@dataclass
class Speed:
    samples: dict[Cell, dict[str, list[Sample]]] = field(default_factory=dict)
    at_rest: dict[str, Memory] = field(default_factory=dict)
    after_noops: dict[str, Memory] = field(default_factory=dict)
    after_all: dict[str, Memory] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        first = next(iter(self.samples.values()))
        return [name for name in TITLES if name in first]

    def median(self, cell: Cell, name: str, figure: str) -> float:
        return median_of(self.samples[cell][name], figure)

    def ratio(self, cell: Cell, name: str, figure: str) -> float:
        """To the official worker: the median of what it was in each round."""
        pairs = zip(self.samples[cell][name], self.samples[cell][OFFICIAL], strict=True)
        ratios: list[float] = [
            getattr(mine, figure) / getattr(other, figure) for mine, other in pairs
        ]
        return statistics.median(ratios)


def measure(
    names: Sequence[str],
    *,
    rounds: Rounds,
    seconds: float,
    loop: str = "asyncio",
    cells: Sequence[Cell] = CELLS,
) -> Speed:
    """Measure every cell, the workers taking turns in each round."""
    speed = Speed()
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(Target(name, loop=loop))
            for name in (*names, "echo", "none")
        ]
        for target in targets:
            target.wait_ready()
        time.sleep(REST)
        for target in targets:
            speed.at_rest[target.name] = target.memory()
        targets.pop()
        for target in targets:
            for cell in (c for c in cells if c.function == "noop"):
                one(target, cell, seconds)
            speed.after_noops[target.name] = target.memory()
        for number in rounds.run("speed"):
            for cell in cells:
                found = speed.samples.setdefault(cell, {})
                for target in turns(targets, number):
                    if target.name == "echo" and cell.function not in ("noop", "echo"):
                        continue
                    sample = one(target, cell, seconds)
                    found.setdefault(target.name, []).append(sample)
        for target in targets:
            speed.after_all[target.name] = target.memory()
    return speed


def one(target: Target, cell: Cell, seconds: float) -> Sample:
    before = target.cpu_seconds()
    taken = target.generator.run(
        cell.function,
        cell.concurrency,
        seconds,
        size=cell.size,
        expected=target.expected(cell.expected),
    )
    cpu = (target.cpu_seconds() - before) / taken["runs"] * 1000
    return Sample(taken["rate"], taken["p50"], taken["p99"], cpu)


FIGURES = {
    "rate": ("Throughput, in runs a second", 1.0, ",.0f"),
    "p50": ("Latency, median, in ms", 1000.0, ".2f"),
    "p99": ("Latency, 99th percentile, in ms", 1000.0, ".1f"),
    "cpu": ("Processor time, in seconds for 1,000 runs", 1.0, ".2f"),
}


def report(speed: Speed) -> str:
    workers = [name for name in speed.names if name != "echo"]
    count = len(next(iter(speed.samples.values()))[workers[0]])
    parts = [f"Rounds: {count}.\n"]
    for figure, (heading, factor, form) in FIGURES.items():
        shown = speed.names if figure == "rate" else workers
        rows = []
        for cell, found in speed.samples.items():
            row = [cell.title]
            for name in shown:
                if name not in found:
                    row.append("")
                    continue
                text = format(speed.median(cell, name, figure) * factor, form)
                if name not in (OFFICIAL, "echo"):
                    text = ratio(speed.ratio(cell, name, figure), text)
                row.append(text)
            rows.append(row)
        parts.append(f"{heading}:\n")
        parts.append(table(["", *(TITLES[name] for name in shown)], rows))
    return "\n".join([*parts, "Memory, in MB:\n", report_memory(speed, workers)])


def report_memory(speed: Speed, workers: Sequence[str]) -> str:
    bare = speed.at_rest["none"]
    rows = []
    for name in (*workers, "none"):
        row = [TITLES[name]]
        for moment in (speed.at_rest, speed.after_noops, speed.after_all):
            if name in moment:
                memory = moment[name]
                row.append(f"{memory.private:.0f} ({memory.proportional:.0f})")
            else:
                row.append("")
        same = name not in ("none", "typescript")
        over = speed.at_rest[name].private - bare.private
        rows.append([*row, f"{over:+.1f}" if same else ""])
    head = "private (PSS),at rest,after no-ops,after everything,at rest over the bare"
    return table(f"{head} app".split(","), rows)


def plot(speed: Speed) -> str:
    """Throughput and processor time at 50 at once, of what was measured."""
    workers = [name for name in speed.names if name != "echo"]
    panels = {}
    for figure, what in (
        ("rate", "runs a second"),
        ("cpu", "processor time for 1,000 runs, in s"),
    ):
        _, factor, form = FIGURES[figure]
        for cell in speed.samples:
            if cell.concurrency == 50 and not cell.size:
                panels[f"{cell.title}: {what}"] = [
                    Bar(
                        name,
                        TITLES[name].replace("`", ""),
                        value := speed.median(cell, name, figure) * factor,
                        format(value, form),
                    )
                    for name in workers
                ]
    return bars(panels, "Throughput and processor time of each worker, 50 at once")
