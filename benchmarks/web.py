"""How long a trivial route of the web app takes while functions run."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .rounds import Rounds, turns
from .tables import ratio, table
from .targets import TITLES, Target

__all__ = ["LOADS", "Load", "Web", "measure", "report"]

INTERVAL = 0.005
"""Seconds from one request to the next."""

RAMP = 0.2
"""Seconds from the first run to the first request."""


@dataclass(frozen=True)
class Load:
    title: str
    function: str
    concurrency: int


LOADS = [
    Load("none", "", 0),
    Load("50 that wait", "wait", 50),
    Load("500 that wait", "wait", 500),
    Load("50 no-ops", "noop", 50),
    Load("500 no-ops", "noop", 500),
    Load("50 sync functions that compute", "busy", 50),
    Load("500 sync functions that compute", "busy", 500),
]


@dataclass
class Web:
    times: dict[Load, dict[str, list[float]]] = field(default_factory=dict)
    """Seconds that each request took, by load and by worker."""

    rates: dict[Load, dict[str, list[float]]] = field(default_factory=dict)
    """Runs a second meanwhile."""


def measure(
    names: Sequence[str],
    *,
    rounds: Rounds,
    seconds: float,
    loop: str = "asyncio",
    loads: Sequence[Load] = LOADS,
) -> Web:
    """Measure under every load; the workers take turns in each round."""
    web = Web()
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target(name, loop=loop)) for name in names]
        for target in targets:
            target.wait_ready()
            ask(target.url, 0.2)
        for number in rounds.run("web"):
            for load in loads:
                for target in turns(targets, number):
                    times = web.times.setdefault(load, {}).setdefault(target.name, [])
                    rates = web.rates.setdefault(load, {}).setdefault(target.name, [])
                    if load.concurrency:
                        target.generator.begin_run(
                            load.function, load.concurrency, seconds + RAMP
                        )
                        time.sleep(RAMP)
                    times += ask(target.url, seconds)
                    if load.concurrency:
                        rates.append(target.generator.end()["rate"])
    return web


def ask(url: str, seconds: float) -> list[float]:
    """Seconds from when each request was due to its answer, on one connection.

    A stall delays all that were due in it, also those that nobody got to send.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    start = time.perf_counter()
    with contextlib.closing(connection):
        for number in range(int(seconds / INTERVAL)):
            due = start + number * INTERVAL
            now = time.perf_counter()
            if now < start + seconds:
                time.sleep(max(0.0, due - now))
                connection.request("GET", "/ping")
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
            times.append(time.perf_counter() - due)
    return times


def percentile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def report(web: Web) -> str:
    first = next(iter(web.times.values()))
    names = [name for name in TITLES if name in first]
    asked = len(first[names[0]])
    parts = [
        f"Asked every {INTERVAL * 1000:g} ms on one connection, {asked:,} times for "
        "each figure, and timed from when the request was due. Functions that wait do "
        "so for 0.5 to 1.5 s, those that compute take 5 ms of processor time each, in "
        "threads.\n"
    ]
    for title, share in (("99th percentile", 0.99), ("median", 0.5)):
        rows = []
        for load, found in web.times.items():
            row = [load.title]
            for name in names:
                value = percentile(found[name], share)
                text = f"{value * 1000:.1f}"
                if name != "official" and "official" in names:
                    other = percentile(found["official"], share)
                    text = ratio(value / other, text)
                row.append(text)
            rows.append(row)
        parts.append(f"Latency of the route, {title}, in ms:\n")
        parts.append(table(["in flight", *(TITLES[name] for name in names)], rows))
    rows = []
    for load, rates in web.rates.items():
        if load.concurrency:
            row = [f"{sum(rates[n]) / len(rates[n]):,.0f}" for n in names]
            rows.append([load.title, *row])
    parts.append("Runs a second meanwhile:\n")
    parts.append(table(["in flight", *(TITLES[name] for name in names)], rows))
    return "\n".join(parts)
