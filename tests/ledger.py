"""What became of the requests of a fault campaign, and how that is told."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Ledger", "page", "with_section"]


@dataclass
class Ledger:
    """What became of the requests of one campaign."""

    seed: int
    isolation: str
    faults: Counter[str] = field(default_factory=Counter)
    schedule: list[object] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    """Where exceptions were raised that nobody foresaw."""
    runs: int = 0
    requests: int = 0
    """More than runs: attempts are repeated, by the server for reasons of its own."""
    forwarded: int = 0
    """How often a request was sent again under the lease that it had."""
    acked: int = 0
    replied: int = 0
    flushed: int = 0
    repeated: int = 0
    """Requests that got the outcome of an attempt which ran for another one."""
    crossed: int = 0
    """Acknowledgements that were on their way when the gateway began to drain."""
    reconnects: int = 0
    named: list[str] = field(default_factory=list)
    """Acknowledged and not replied to, and the worker's log says so and why."""
    lost: list[str] = field(default_factory=list)
    """Acknowledged and not replied to, and nobody said so; or a run without an end."""
    doubled: list[str] = field(default_factory=list)
    """Attempts that ran more than once in the app's process."""
    void: list[str] = field(default_factory=list)
    """Ran on an acknowledgement that the worker should have known to be void."""
    late: list[str] = field(default_factory=list)
    """Their lease was not extended though nothing was wrong."""
    leaked: Counter[str] = field(default_factory=Counter)
    """Tasks, threads, descriptors and objects that are left."""
    grown: int = 0
    """Bytes that the runtime had more at the end than after a fifth of the requests,
    where that was watched."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.void or self.late or self.leaked)

    def __str__(self) -> str:
        return (
            f"seed {self.seed:3} {self.isolation:7} runs {self.runs} "
            f"requests {self.requests} acked {self.acked} replied {self.replied} "
            f"flushed {self.flushed} repeated {self.repeated} named {len(self.named)} "
            f"lost {len(self.lost)} doubled {len(self.doubled)} void {len(self.void)} "
            f"late {len(self.late)} leaked {sum(self.leaked.values())} "
            f"faults {sum(self.faults.values())} reconnects {self.reconnects}"
        )

    def complaint(self) -> str:
        """All there is to know of a campaign that failed."""
        lines = [str(self), *map(str, self.schedule)]
        for name in ("struck", "lost", "doubled", "void", "late", "leaked"):
            if found := getattr(self, name):
                lines.append(f"{name}: {found}")
        return "\n".join(lines)


COUNTS = {
    "runs": "runs",
    "requests": "requests",
    "sent again under the lease that they had": "forwarded",
    "acknowledged": "acked",
    "replied to": "replied",
    "of these, also or only by the API": "flushed",
    "given the outcome of the same attempt, which was not run again": "repeated",
    "acknowledgements on their way when the gateway began to drain": "crossed",
    "not replied to, and named in the log": "named",
    "lost": "lost",
    "attempts that ran twice": "doubled",
    "void acknowledgements that ran": "void",
    "lease extended late": "late",
    "left behind (tasks, threads, descriptors, objects)": "leaked",
    "reconnects": "reconnects",
}


def page(command: str, ledgers: Sequence[Ledger], soaks: Sequence[Ledger]) -> str:
    """What was found, for the documentation: the section of one Python."""
    isolations = sorted({ledger.isolation for ledger in ledgers}, reverse=True)

    def table(
        title: str, rows: dict[str, Callable[[Sequence[Ledger]], int]]
    ) -> list[str]:
        lines = [f"| {title} | {' | '.join(isolations)} | in all |"]
        lines.append("|---" * (len(isolations) + 2) + "|")
        groups = [[x for x in ledgers if x.isolation == each] for each in isolations]
        for name, count in rows.items():
            cells = [f"{count(group):,}" for group in [*groups, ledgers]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return lines

    faults: Counter[str] = sum((ledger.faults for ledger in ledgers), Counter())
    lines = [
        f"## Python {platform.python_version()}",
        "",
        f"Made by `{command}` on {os.cpu_count()} processor cores.",
        "",
        *table("requests", {name: _total(name) for name in COUNTS}),
        "",
        *table(
            "faults",
            {name: lambda x, n=name: _faults(x, n) for name in sorted(faults)},  # type: ignore[misc]
        ),
    ]
    for soak in soaks:
        lines += [
            "",
            f"Soak, {soak.isolation}: {soak.runs:,} runs and "
            f"{soak.reconnects:,} reconnects; lost {len(soak.lost)}, doubled "
            f"{len(soak.doubled)}, left behind {sum(soak.leaked.values())}. The "
            "runtime's memory at the end, less that after a fifth of the requests: "
            f"{soak.grown / 1024:,.0f} KiB.",
        ]
    return "\n".join(lines) + "\n"


def with_section(text: str, section: str) -> str:
    """Put a section in its place, and that of the same Python away."""
    head, *sections = re.split(r"^(?=## )", text, flags=re.M)
    named = {each.split(".")[1]: each.strip() for each in (*sections, section)}
    return "\n\n".join([head.strip(), *(named[key] for key in sorted(named))]) + "\n"


def _total(name: str) -> Callable[[Sequence[Ledger]], int]:
    def total(ledgers: Sequence[Ledger]) -> int:
        values = [getattr(ledger, COUNTS[name]) for ledger in ledgers]
        return sum(
            each
            if isinstance(each, int)
            else sum(each.values())
            if isinstance(each, Counter)
            else len(each)
            for each in values
        )

    return total


def _faults(ledgers: Sequence[Ledger], name: str) -> int:
    return sum(ledger.faults[name] for ledger in ledgers)
