"""What an API sees of ten thousand workers that it lost all at once.

    python -m benchmarks.herd

In virtual time, with the real core: every worker loses its gateway at the same
moment, the API is away for two minutes, and then takes so many start calls a second
and answers 429 to the others. Prints a Markdown table, and draws ``docs/herd.svg``.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import pathlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from inngest_connect_asgi.messages import Start
from inngest_connect_asgi.protocol.actions import Action, Open, Send, StartLink
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.wire import connect as wire
from tests.simulation import configuration, frame

from .plot import WIDTH, svg, text

ROOT = pathlib.Path(__file__).parent.parent

WORKERS = 10_000
OUTAGE = 120.0
"""Seconds."""
LATENCY = 0.05
"""Seconds to and from the server."""
CAPACITIES = (1_000, 500, 250)
"""Start calls that the API takes in a second."""

READY = frame(
    wire.GATEWAY_CONNECTION_READY,
    wire.GatewayConnectionReadyData(
        heartbeat_interval="1h", extend_lease_interval="1h"
    ).SerializeToString(),
)
ANSWER = wire.StartResponse(
    connection_id="c", gateway_endpoint="ws://gateway.test", gateway_group="g"
).SerializeToString()


class Time:
    """What happens when; the first first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def run(self, done: Callable[[], bool]) -> None:
        while self._events and not done():
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass
class Server:
    """An API with a capacity, and a gateway behind it that takes everybody."""

    time: Time
    capacity: int
    away: tuple[float, float] = (0.0, OUTAGE)
    attempts: Counter[int] = field(default_factory=Counter)
    """By the tenth of a second."""
    taken: Counter[int] = field(default_factory=Counter)
    """By the second."""
    ready: int = 0
    """Workers that are connected."""

    def start(self) -> int:
        """The status of a start call; 0: there is nobody."""
        now = self.time.now
        self.attempts[int(now * 10)] += 1
        if self.away[0] <= now < self.away[1]:
            return 0
        if self.taken[int(now)] >= self.capacity:
            return 429
        self.taken[int(now)] += 1
        return 200


class Worker:
    """A core, and the shell that it needs here."""

    def __init__(self, time: Time, server: Server, seed: int) -> None:
        self._time = time
        self._server = server
        self._tick_at: float | None = None
        self.core = Core(configuration(), rng=random.Random(seed))
        self.ready_at: float | None = None
        self._do(self.core.start(Start(configuration()), time.now))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StartLink):
                self._later(self._call_start, action.link)
            elif isinstance(action, Open):
                self._later(self._open, action.link)
            elif isinstance(action, Send):
                self._sent(action)
        if self.core.links.live is not None:
            if self.ready_at is None:
                self.ready_at = self._time.now
                self._server.ready += 1
            # Nothing more happens to it, unless it is lost.
            return
        due = self.core.next_tick()
        if due is not None and (self._tick_at is None or due < self._tick_at):
            self._tick_at = due
            self._time.at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if due == self._tick_at:
            self._tick_at = None
            self._do(self.core.tick(self._time.now))

    def _later(self, event: Callable[[int], None], link: int) -> None:
        self._time.at(self._time.now + LATENCY, lambda: event(link))

    def _call_start(self, link: int) -> None:
        now, status = self._time.now, self._server.start()
        if status:
            self._do(self.core.start_answered(link, status, ANSWER, now))
        else:
            self._do(self.core.lost(link, "refused", now))

    def _open(self, link: int) -> None:
        self._do(self.core.opened(link, self._time.now))
        self._later(self._greet, link)

    def _greet(self, link: int) -> None:
        hello = frame(wire.GATEWAY_HELLO)
        self._do(self.core.received(link, hello, self._time.now))

    def _sent(self, frame: Send) -> None:
        if frame.delivery is None and self.core.links.live is None:
            self._later(self._make_ready, frame.link)

    def _make_ready(self, link: int) -> None:
        self._do(self.core.received(link, READY, self._time.now))

    def lose(self) -> None:
        assert self.core.links.live is not None
        link = self.core.links.live.id
        self.ready_at, self._tick_at = None, None
        self._server.ready -= 1
        self._do(self.core.lost(link, "the connection broke", self._time.now))


@dataclass
class Outcome:
    capacity: int
    attempts: Counter[int]
    ready: list[float]
    """Seconds from the API's return until each worker was ready, in order."""

    def peak(self, since: float, until: float) -> int:
        """Most attempts in any second between two moments."""
        first, last = round(since * 10), round(until * 10)
        return max(
            sum(self.attempts[tenth + i] for i in range(10))
            for tenth in range(first, last)
        )

    def share(self, part: float) -> float:
        return self.ready[min(len(self.ready) - 1, int(part * len(self.ready)))]


def simulate(workers: int, capacity: int, spread: float = 0.0) -> Outcome:
    """The outage; ``spread`` seconds lie between the first loss and the last."""
    time, rng = Time(), random.Random(0)
    server = Server(time, workers, away=(0.0, 0.0))
    made = [Worker(time, server, seed) for seed in range(workers)]
    time.run(lambda: server.ready == workers)
    lost_at = time.now = float(int(time.now) + 60)
    back = lost_at + OUTAGE
    server.capacity, server.away = capacity, (lost_at, back)
    server.attempts.clear()
    for worker in made:
        time.at(lost_at + rng.uniform(0.0, spread), worker.lose)
    time.run(lambda: time.now > back and server.ready == workers)
    start = round(lost_at * 10)
    attempts = Counter({t - start: count for t, count in server.attempts.items()})
    ready = sorted(each.ready_at - back for each in made if each.ready_at is not None)
    return Outcome(capacity, attempts, ready)


STYLE = """\
.blocked { fill: #d4a72c; fill-opacity: .35; }
.rate { fill: none; stroke: #0969da; stroke-width: 1.5; }
.ready { fill: none; stroke: #1a7f37; stroke-width: 1.5; }
"""


def draw(outcome: Outcome, workers: int) -> str:
    """Attempts in each second, and how many workers are connected."""
    width, height, left, top = WIDTH, 300, 60, 60
    end = OUTAGE + outcome.ready[-1] + 5
    bottom = height - 40
    rates = [
        sum(outcome.attempts[10 * second + i] for i in range(10))
        for second in range(int(end))
    ]
    most = max(workers, *rates)
    across, up = (width - left - 10) / end, (bottom - top) / most
    rate = " ".join(
        f"{left + second * across:.1f},{bottom - value * up:.1f} "
        f"{left + (second + 1) * across:.1f},{bottom - value * up:.1f}"
        for second, value in enumerate(rates)
    )
    connected = " ".join(
        f"{left + (OUTAGE + at) * across:.1f},{bottom - number * up:.1f}"
        for number, at in enumerate(outcome.ready)
        if number % 50 == 0
    )
    parts = [
        text(
            0,
            18,
            f"{workers:,} workers lose an API that is away for 2 minutes and",
            "title",
        ),
        text(0, 36, f"then takes {outcome.capacity:,} start calls a second", "title"),
        f'<rect x="{left}" y="{top}" width="{OUTAGE * across:.1f}" '
        f'height="{bottom - top}" class="blocked"/>',
        f'<line x1="{left}" x2="{width - 10}" y1="{bottom}" y2="{bottom}" '
        'class="axis"/>',
        f'<polyline points="{rate}" class="rate"/>',
        f'<polyline points="{connected}" class="ready"/>',
        text(0, top + 6, f"{most:,}"),
        text(0, bottom - workers * up + 5, f"{workers:,}"),
        text(0, bottom, "0"),
        text(left, height - 22, "0 s"),
        text(left + OUTAGE * across - 20, height - 22, f"{OUTAGE:g} s"),
        text(
            0, height - 4, "Blue: start calls in each second. Green: workers connected."
        ),
    ]
    return svg(height, "Start calls a second during an outage", parts, STYLE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.herd")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument(
        "--spread", type=float, default=0.0, help="seconds over which they are lost"
    )
    arguments = parser.parse_args()
    workers: int = arguments.workers
    print(f"{workers:,} workers, {OUTAGE:g} s without an API:\n")
    print(
        "| start calls taken a second | at the loss, most in 1 s | within 10 s after "
        "| later in the outage | after the return | 50% back | 99% back | 100% back |"
    )
    print("|---" * 8 + "|")
    for capacity in CAPACITIES:
        found = simulate(workers, capacity, arguments.spread)
        peaks = [
            found.peak(0.0, 0.1),
            found.peak(1.0, 10.0),
            found.peak(30.0, OUTAGE - 1),
            found.peak(OUTAGE, OUTAGE + found.ready[-1]),
        ]
        shares = [found.share(part) for part in (0.5, 0.99, 1.0)]
        cells = [f"{peak:,}" for peak in peaks] + [f"{s:.1f} s" for s in shares]
        print(f"| {capacity:,} | " + " | ".join(cells) + " |", flush=True)
        if capacity == CAPACITIES[1] and not arguments.spread:
            (ROOT / "docs" / "herd.svg").write_text(draw(found, workers))


if __name__ == "__main__":
    main()
