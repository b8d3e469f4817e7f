"""What grows with the requests in flight, and with the apps on one connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from . import floor
from .floor import Floor
from .plot import Line, lines
from .requests import call_request
from .rounds import Rounds, median_of, turns
from .tables import table
from .targets import TITLES, Target

__all__ = ["APPS", "LEVELS", "Scale", "measure", "plot", "report"]

LEVELS = (1, 10, 100, 500, 1000, 2000, 5000)
"""Requests in flight."""

APPS = (1, 5, 10)
FUNCTIONS = 100
"""In each app."""

OWN_FUNCTIONS = 7
"""Those that every app of ``benchmarks/app.py`` has."""

HOLD_TIMEOUT = 60.0
ENOUGH = 100
"""Requests in flight from which on their memory can be told from the rest."""

CONNECTED = ("official", "thread", "process")
"""What can have several apps in one process."""


@dataclass(frozen=True)
class Level:
    """With so many requests in flight. Times in seconds, memory in bytes."""

    latency: float
    """Of a no-op, median, that many of them being in flight."""
    cpu: float
    """For 1,000 of them."""
    beside: float
    """Latency of a no-op, median, while that many requests wait."""
    held: float
    """Memory of each request that waits, with its payload."""


@dataclass(frozen=True)
class AppsLevel:
    ready: float
    """Seconds from the process's start."""
    registered: float
    """Bytes of the worker's half of the handshake."""
    private: float
    """MB of the worker's and its app's processes."""
    latency: float
    rate: float
    """Of no-ops, 50 at once."""


@dataclass
class Scale:
    levels: dict[int, dict[str, list[Level]]] = field(default_factory=dict)
    apps: dict[int, dict[str, list[AppsLevel]]] = field(default_factory=dict)
    floor: list[Floor] = field(default_factory=list)
    payload: int = len(call_request("hold", 0))

    def level(self, count: int, name: str, figure: str) -> float:
        return median_of(self.levels[count][name], figure)


def measure(
    names: Sequence[str],
    *,
    rounds: Rounds,
    seconds: float,
    loop: str = "asyncio",
    levels: Sequence[int] = LEVELS,
    apps: Sequence[int] = APPS,
) -> Scale:
    scale = Scale()
    names = [name for name in names if name != "typescript"]
    for number in rounds.run("scale"):
        for name in turns(names, number):
            with Target(name, loop=loop) as target:
                target.wait_ready()
                found = measure_levels(target, levels, seconds)
            for count, level in zip(levels, found, strict=True):
                by_name = scale.levels.setdefault(count, {})
                by_name.setdefault(name, []).append(level)
        for count in apps:
            for name in turns([n for n in CONNECTED if n in names], number):
                apps_level = measure_apps(name, loop, count, seconds)
                scale.apps.setdefault(count, {}).setdefault(name, []).append(apps_level)
        scale.floor.append(floor.measure())
    return scale


def measure_levels(
    target: Target, levels: Sequence[int], seconds: float
) -> list[Level]:
    generator = target.generator
    generator.run("noop", 1, seconds)
    waiting = []
    # Before all else: what a load leaves behind would hide what these need.
    with httpx.Client(base_url=target.url, timeout=HOLD_TIMEOUT) as web:
        web.get("/held")
        rest = target.memory().private
        for count in levels:
            generator.hold("hold", count)
            wait_held(web, count)
            held = (target.memory().private - rest) * 2**20 / count
            beside = generator.run("noop", 1, seconds)["p50"]
            web.post("/release").raise_for_status()
            generator.collect()
            waiting.append((beside, held))
    # What so many leave behind is no part of what follows.
    generator.run("noop", 1, seconds)
    found = []
    for count, (beside, held) in zip(levels, waiting, strict=True):
        before = target.cpu_seconds()
        taken = generator.run("noop", count, seconds)
        cpu = (target.cpu_seconds() - before) / taken["runs"] * 1000
        found.append(Level(taken["p50"], cpu, beside, held))
    return found


def wait_held(web: httpx.Client, count: int) -> None:
    deadline = time.monotonic() + HOLD_TIMEOUT
    while (held := web.get("/held").json()["held"]) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {held} of {count} requests run")
        time.sleep(0.02)


def measure_apps(name: str, loop: str, count: int, seconds: float) -> AppsLevel:
    environ = {
        "BENCHMARK_APPS": str(count),
        "BENCHMARK_FUNCTIONS": str(FUNCTIONS - OWN_FUNCTIONS),
    }
    with Target(name, loop=loop, environ=environ) as target:
        ready = target.wait_ready()
        registered = target.generator.ask("wait_live", timeout=5)["registered"]
        private = target.memory().private
        app = f"app-{count - 1}" if count > 1 else "app"
        target.generator.run("noop", 50, seconds / 2, app=app)
        latency = target.generator.run("noop", 1, seconds, app=app)["p50"]
        rate = target.generator.run("noop", 50, seconds, app=app)["rate"]
    return AppsLevel(ready, registered, private, latency, rate)


def report(scale: Scale) -> str:
    names = [name for name in TITLES if name in next(iter(scale.levels.values()))]
    heads = ["in flight", *(TITLES[name] for name in names)]
    count = len(scale.floor)
    parts = [f"Rounds: {count}.\n"]
    for figure, heading, factor, least in (
        ("cpu", "Processor time, in seconds for 1,000 no-ops", 1.0, 1),
        ("latency", "Latency of a no-op among so many, median, in ms", 1000.0, 1),
        ("beside", "Latency of a no-op while so many wait, median, in ms", 1000.0, 1),
        ("held", "Memory of each request that waits, in KB", 1 / 1024, ENOUGH),
    ):
        rows = [
            [
                f"{count:,}",
                *(f"{scale.level(count, n, figure) * factor:.2f}" for n in names),
            ]
            for count in scale.levels
            if count >= least
        ]
        parts += [f"{heading}:\n", table(heads, rows)]
    noop, step, held = (
        median_of(scale.floor, figure) for figure in ("noop", "step", "held")
    )
    parts.append(
        "The SDK's own handler alone, in a process without any connection, takes "
        f"{noop:.3f} s for 1,000 no-ops, {step:.3f} s for 1,000 single steps, and "
        f"{held / 1024:.1f} KB for each run that waits. A payload here has "
        f"{scale.payload / 1024:.1f} KB.\n"
    )
    rows = []
    for count, by_name in scale.apps.items():
        for name in (n for n in names if n in by_name):
            ready, registered, private, latency, rate = (
                median_of(by_name[name], figure)
                for figure in ("ready", "registered", "private", "latency", "rate")
            )
            rows.append(
                [
                    f"{count}",
                    TITLES[name],
                    f"{ready:.2f} s",
                    f"{registered / 1024:.0f} KB",
                    f"{private:.0f} MB",
                    f"{latency * 1000:.2f} ms",
                    f"{rate:,.0f}",
                ]
            )
    parts.append(f"Apps of {FUNCTIONS} functions each:\n")
    head = "apps,,process start to ready,handshake,memory,one no-op,no-ops a second"
    parts.append(table(head.split(","), rows))
    return "\n".join(parts)


def plot(scale: Scale) -> str:
    names = [name for name in TITLES if name in next(iter(scale.levels.values()))]
    panels = {
        "Processor time for 1,000 no-ops, in s, by how many are in flight": (
            "cpu",
            1.0,
            10,
        ),
        "Memory of each request that waits, in KB, by how many do": (
            "held",
            1 / 1024,
            ENOUGH,
        ),
    }
    drawn = {}
    for title, (figure, factor, least) in panels.items():
        counts = [count for count in scale.levels if count >= least]
        drawn[title] = [
            Line(
                name,
                TITLES[name].replace("`", ""),
                [(c, scale.level(c, name, figure) * factor) for c in counts],
            )
            for name in names
        ]
    return lines(drawn, "Cost of a request by the number of requests in flight")
