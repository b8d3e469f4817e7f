"""How fast this worker is, beside other ways to run functions.

    python -m benchmarks                  everything; writes docs/benchmarks.md
    python -m benchmarks speed web        some parts; prints them
    python -m benchmarks --quick          a minute, to see that all of it works
    python -m benchmarks --loop uvloop    the apps on another event loop

All of it takes a quarter of an hour, however slow the machine is: what does not fit
is measured in fewer rounds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import scale, speed, startup, web
from .generator import allow_descriptors
from .rounds import Rounds
from .speed import Cell
from .targets import names, node_version, typescript_missing
from .web import Load

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PYTHONS = ("official", "thread", "process", "serve")
VERSIONS = ("inngest", "uvicorn", "fastapi", "websockets", "protobuf", "pydantic")


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    speed: Rounds
    startup: Rounds
    web: Rounds
    scale: Rounds
    short: float
    """Seconds that a load lasts, at least, where there are many rounds."""
    long: float
    """And where there are few."""
    cells: Sequence[Cell]
    loads: Sequence[Load]
    levels: Sequence[int]
    apps: Sequence[int]
    pause: float
    """Seconds between one loss and the next."""


FULL = Plan(
    # Many and short: other work on the machine comes and goes.
    speed=Rounds(12, 270),
    startup=Rounds(5, 80),
    web=Rounds(3, 150),
    scale=Rounds(3, 300),
    short=0.3,
    long=0.5,
    cells=speed.CELLS,
    loads=web.LOADS,
    levels=scale.LEVELS,
    apps=scale.APPS,
    pause=1.2,
)
QUICK = Plan(
    speed=Rounds(1, 0),
    startup=Rounds(1, 0),
    web=Rounds(1, 0),
    scale=Rounds(1, 0),
    short=0.1,
    long=0.1,
    cells=[cell for cell in speed.CELLS if cell.concurrency == 50],
    loads=[load for load in web.LOADS if load.concurrency in (0, 50)],
    levels=(1, 200),
    apps=(2,),
    pause=0.1,
)


@dataclass(frozen=True)
class Report:
    text: str
    plots: dict[str, str]
    """By file name."""


def measure_speed(plan: Plan, loop: str) -> Report:
    found = speed.measure(
        names(), rounds=plan.speed, seconds=plan.short, loop=loop, cells=plan.cells
    )
    text = f"""## Throughput, latency, processor time, memory

{speed.report(found)}
![Throughput and processor time at 50 at once](benchmarks.svg)
"""
    return Report(text, {"benchmarks.svg": speed.plot(found)})


def measure_startup(plan: Plan, loop: str) -> Report:
    found = startup.measure(names(), rounds=plan.startup, pause=plan.pause, loop=loop)
    return Report(f"## Start, loss and drain\n\n{startup.report(found)}", {})


def measure_web(plan: Plan, loop: str) -> Report:
    found = web.measure(
        PYTHONS,
        rounds=plan.web,
        seconds=plan.long * 2,
        loop=loop,
        loads=plan.loads,
    )
    return Report(f"## The web app while functions run\n\n{web.report(found)}", {})


def measure_scale(plan: Plan, loop: str) -> Report:
    found = scale.measure(
        PYTHONS,
        rounds=plan.scale,
        seconds=plan.long,
        loop=loop,
        levels=plan.levels,
        apps=plan.apps,
    )
    text = f"""## Scale

{scale.report(found)}
![Cost of a request by the number in flight](scale.svg)
"""
    return Report(text, {"scale.svg": scale.plot(found)})


PARTS: dict[str, Callable[[Plan, str], Report]] = {
    "speed": measure_speed,
    "startup": measure_startup,
    "web": measure_web,
    "scale": measure_scale,
}


def introduction(loop: str) -> str:
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in VERSIONS)
    missing = typescript_missing()
    if missing is None:
        typescript = (
            f"TypeScript's SDK runs on Node {node_version()}, outside of any web "
            "framework."
        )
    else:
        typescript = f"TypeScript's SDK is left out: {missing}."
    return f"""\
# How fast it is

Made by `scripts/benchmark`, on {processor()} ({os.cpu_count()} cores), \
{platform.system()}, Python {platform.python_version()}; {versions}; uvicorn on \
{loop}. {typescript}

All workers run the same functions in the same FastAPI app under uvicorn, without \
its access log. They are alive together, and take turns in each round under the same \
load generator, a process of its own that sends a request as soon as it has the reply \
to another one. It speaks the gateway's protocol, or posts to `serve` on connections \
that it keeps. How fast it is by itself is in the column "nothing but the wire". \
There is no signing key, so that `serve` checks no signatures.

**Bold** is the ratio to the official worker, `inngest.connect`: of throughput more \
is better, of all else less. Figures are medians of the rounds, and ratios the median \
of those in each round. Processor time and memory are those of all processes of the \
app; it is memory that no other process shares, or, as PSS, with its part of what is.

"""


def processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"model name\s*: (.+)", text)
    return found[1] if found else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a minute, for a test")
    parser.add_argument(
        "--loop", default="asyncio", help="uvicorn's --loop (default: asyncio)"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    allow_descriptors()
    plan = QUICK if options.quick else FULL
    page, plots = introduction(options.loop), {}
    print(page, flush=True)
    for part in options.parts or PARTS:
        report = PARTS[part](plan, options.loop)
        print(report.text, flush=True)
        page += report.text + "\n"
        plots.update(report.plots)
    if not options.quick and not options.parts:
        (DOCS / "benchmarks.md").write_text(page.rstrip() + "\n")
        for name, plot in plots.items():
            (DOCS / name).write_text(plot)


if __name__ == "__main__":
    main()
