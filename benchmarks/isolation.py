"""What each isolation strength does, and what it costs.

    python -m benchmarks.isolation

Prints Markdown tables, and draws ``docs/heartbeats.svg``. Takes two minutes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from tests.processes import children
from tests.servers import Uvicorn

from .plot import svg, text
from .processes import Memory, memory

ROOT = pathlib.Path(__file__).parent.parent

SECONDS = 8.0
"""For how long a function blocks."""
MARGIN = 3.0
"""Seconds to show before and after."""
ROUNDS = 5
REQUESTS = 300

ISOLATIONS: tuple[str, ...] = ("none", "thread", "process")
if sys.version_info >= (3, 14):
    ISOLATIONS = ("none", "thread", "interpreter", "process")
BLOCKERS = {
    "busy": "an async function computes",
    "seize": "native code keeps the GIL",
}

STYLE = """\
.blocked { fill: #d4a72c; fill-opacity: .35; }
.beat { stroke: #0969da; stroke-width: 2.5; }
"""


@dataclass
class Track:
    """The heartbeats around one run; times in seconds from its start."""

    isolation: str
    blocker: str
    beats: list[float]
    blocked: float

    @property
    def silence(self) -> float:
        times = [0.0, *(b for b in self.beats if 0 < b < self.blocked), self.blocked]
        return max(b - a for a, b in itertools.pairwise(times))


@contextlib.contextmanager
def worker(gateway: LocalGateway, isolation: str) -> Iterator[int]:
    """A worker in a process of its own; yields its pid."""
    if isolation != "none":
        with Uvicorn(gateway.environ, isolation=isolation) as server:
            gateway.wait_for_worker(timeout=30)
            yield server.pid
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.no_isolation"],
        cwd=ROOT,
        env={**os.environ, **gateway.environ},
    )
    try:
        gateway.wait_for_worker(timeout=30)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def track(isolation: str, blocker: str) -> Track:
    data = {"seconds": int(SECONDS)}
    with (
        LocalGateway(
            heartbeat_interval="1s",
            extend_lease_interval="1s",
            lease_duration=4 * SECONDS,
        ) as gateway,
        worker(gateway, isolation),
    ):
        time.sleep(MARGIN)
        start = time.monotonic()
        gateway.wait_for_run(gateway.send(blocker, data), 60)
        blocked = time.monotonic() - start
        time.sleep(MARGIN)
        beats = [seen.time - start for seen in gateway.received("WORKER_HEARTBEAT")]
    return Track(isolation, blocker, beats, blocked)


def draw(tracks: list[Track]) -> str:
    """One row for each track: a stroke for each heartbeat."""
    row, left, scale = 34, 190, 38.0
    parts = []
    y = 24
    for blocker, title in BLOCKERS.items():
        parts.append(text(0, y, f"While {title}", "title"))
        y += 12
        for each in (t for t in tracks if t.blocker == blocker):
            zero = left + MARGIN * scale
            parts.append(
                f'<rect x="{zero:.1f}" y="{y}" width="{each.blocked * scale:.1f}" '
                f'height="{row - 8}" class="blocked"/>'
                + text(0, y + 17, f"isolation: {each.isolation}")
                + text(135, y + 17, f"{each.silence:.1f} s")
            )
            for beat in each.beats:
                if -MARGIN < beat < each.blocked + MARGIN:
                    x = zero + beat * scale
                    parts.append(
                        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" '
                        f'y2="{y + row - 8}" class="beat"/>'
                    )
            y += row
        y += 22
    for line in (
        "A stroke is a heartbeat that arrived. In the shaded time the function ran;",
        "the figure is the longest silence in it.",
    ):
        parts.append(text(0, y, line))
        y += 18
    return svg(
        y + 12, "Arrival of heartbeats under each isolation strength", parts, STYLE
    )


@dataclass
class Cost:
    start: float
    """Seconds from the app's start-up to a ready connection."""
    latency: float
    """Seconds from a request to its reply, median."""
    memory: Memory
    child: Memory


def cost(isolation: str) -> Cost:
    with (
        LocalGateway() as gateway,
        Uvicorn(gateway.environ, isolation=isolation) as app,
    ):
        connection = gateway.wait_for_worker()
        app.wait_for_log("app: started")
        started = float(app.log.partition("app: started at ")[2].split()[0])
        assert connection.ready_at is not None
        for _ in range(20):
            gateway.request("app-noop").wait_for_reply()
        sent, latencies = len(gateway.seen), []
        for _ in range(REQUESTS):
            gateway.request("app-noop").wait_for_reply()
        asked = {}
        for seen in gateway.seen[sent:]:
            if seen.event == "sent" and seen.kind == "GATEWAY_EXECUTOR_REQUEST":
                assert isinstance(seen.message, wire.GatewayExecutorRequestData)
                asked[seen.message.request_id] = seen.time
            elif seen.event == "received" and seen.kind == "WORKER_REPLY":
                latencies.append(seen.time - asked[seen.id])
        pids = children(app.pid)
        return Cost(
            connection.ready_at - started,
            statistics.median(latencies),
            memory(app.pid),
            memory(*pids),
        )


def main() -> None:
    tracks = [track(i, blocker) for blocker in BLOCKERS for i in ISOLATIONS]
    (ROOT / "docs" / "heartbeats.svg").write_text(draw(tracks))
    print(f"Longest silence in about {SECONDS:g} s, heartbeats 1 s apart:\n")
    print("| isolation | " + " | ".join(BLOCKERS.values()) + " |")
    print("|---" * (len(BLOCKERS) + 1) + "|")
    for isolation in ISOLATIONS:
        cells = [f"{t.silence:.1f} s" for t in tracks if t.isolation == isolation]
        print(f"| {isolation} | " + " | ".join(cells) + " |")

    costs: dict[str, list[Cost]] = {name: [] for name in ISOLATIONS[1:]}
    for _ in range(ROUNDS):
        for isolation, found in costs.items():
            found.append(cost(isolation))
    print(f"\nMedians of {ROUNDS} rounds, {REQUESTS} requests each:\n")
    print(
        "| isolation | start-up to ready | request to reply "
        "| app's memory (private) | child's memory (private) |"
    )
    print("|---|---|---|---|---|")
    for isolation, found in costs.items():
        start = statistics.median(c.start for c in found)
        latency = statistics.median(c.latency for c in found)
        app, child = (
            " ".join(
                (
                    f"{statistics.median(m.resident for m in each):.0f} MB",
                    f"({statistics.median(m.private for m in each):.0f} MB)",
                )
            )
            for each in ([c.memory for c in found], [c.child for c in found])
        )
        print(
            f"| {isolation} | {start:.2f} s | {latency * 1000:.2f} ms "
            f"| {app} | {child if isolation == 'process' else ''} |"
        )
    ratio = statistics.median(c.latency for c in costs["process"]) / statistics.median(
        c.latency for c in costs["thread"]
    )
    print(f"\nLatency, process to thread: {ratio:.2f}")


if __name__ == "__main__":
    main()
