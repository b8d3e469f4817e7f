"""Faults at random, and an exact ledger of what became of every request.

    scripts/faults --seeds 20 --requests 2500

A seed makes a schedule, always the same one. The schedule of a campaign that failed
is printed; ``--first SEED --seeds 1`` runs it again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import pathlib
import platform
import random
import signal
import sys
import threading
import time
import tracemalloc
import unittest.mock
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import inngest

from inngest_connect_asgi.actions import Action
from inngest_connect_asgi.config import Isolation, Settings
from inngest_connect_asgi.core import Core
from inngest_connect_asgi.gateway_socket import GatewaySocket
from inngest_connect_asgi.link import Link
from inngest_connect_asgi.messages import Configuration, Lease, Request, Result
from inngest_connect_asgi.replies import Reply
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.testing.gateway import call_request
from inngest_connect_asgi.testing.router import Delivery

from .harness import off_loop, tasks_left, worker
from .processes import children, own_memory
from .servers import Metronome

__all__ = ["FAULTS", "Campaign", "Ledger"]

DOCS = pathlib.Path(__file__).parent.parent / "docs"

SHUTDOWN_TIMEOUT = 90.0
"""Seconds after the last fault in which every reply must have reached the server."""

LINK_FAULTS = {
    "connection reset",
    "half-open link",
    "stalled writes",
    "drain",
    "drains in a row",
    "gateway restart",
    "runtime killed",
}

SOAK = ("connection reset",)
"""The only fault of a soak, as soon as a connection has lived for a second."""

RECONNECT_CAP = 1.0
"""Seconds."""

LEASE_INTERVAL = 0.1
LEASE_DURATION = 5.0
LONGEST_QUIET = 1.5
"""Seconds without an extension, with nothing wrong, that count as a missed one."""


@dataclass(frozen=True)
class Trouble:
    """Some faults at once: after a pause, and for how many seconds."""

    pause: float
    faults: tuple[str, ...]
    lasting: float

    def __str__(self) -> str:
        names = ", ".join(self.faults)
        return f"+{self.pause:.2f} s  {names} for {self.lasting:.2f} s"


def schedule(seed: int, faults: tuple[str, ...]) -> Iterator[Trouble]:
    rng = random.Random(seed)
    while faults == SOAK:
        # A connection that lived for less than a second is replaced ever slower.
        yield Trouble(1.2, faults, 0.0)
    # Those that cost a connection more often: the others matter while there is none.
    weights = [3 if name in LINK_FAULTS else 1 for name in faults]
    while True:
        pause = rng.uniform(0.05, 0.4)
        chosen = set(rng.choices(faults, weights, k=rng.choice([1, 1, 2, 3])))
        # Now and then for longer than most of what runs, and its leases, can wait.
        longest = rng.choices([0.8, 10.0], [60, 1])[0]
        yield Trouble(pause, tuple(sorted(chosen)), rng.uniform(0.05, longest))


@dataclass
class Ledger:
    """What became of the requests of one campaign."""

    seed: int
    isolation: str
    faults: Counter[str] = field(default_factory=Counter)
    schedule: list[Trouble] = field(default_factory=list)
    requests: int = 0
    acked: int = 0
    replied: int = 0
    flushed: int = 0
    reconnects: int = 0
    named: list[str] = field(default_factory=list)
    """Acknowledged and not replied to, and the worker's log says so and why."""
    lost: list[str] = field(default_factory=list)
    """Acknowledged and not replied to, and nobody said so."""
    doubled: list[str] = field(default_factory=list)
    """Run more than once."""
    late: list[str] = field(default_factory=list)
    """Their lease was not extended though nothing was wrong."""
    leaked: Counter[str] = field(default_factory=Counter)
    """Tasks, threads, descriptors and objects that are left."""
    grown: int = 0
    """Bytes that the runtime had more at the end than after a fifth of the requests,
    where that was watched."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.late or self.leaked)

    def __str__(self) -> str:
        return (
            f"seed {self.seed:3} {self.isolation:7} "
            f"requests {self.requests} acked {self.acked} replied {self.replied} "
            f"flushed {self.flushed} named {len(self.named)} lost {len(self.lost)} "
            f"doubled {len(self.doubled)} late {len(self.late)} "
            f"leaked {sum(self.leaked.values())} "
            f"faults {sum(self.faults.values())} reconnects {self.reconnects}"
        )

    def complaint(self) -> str:
        """All there is to know of a campaign that failed."""
        lines = [str(self), *map(str, self.schedule)]
        for name in ("lost", "doubled", "late", "leaked"):
            if found := getattr(self, name):
                lines.append(f"{name}: {found}")
        return "\n".join(lines)


class Campaign:
    """One worker, one LocalGateway in the same process, and trouble between them.

    Args:
        requests: How many to send.
        pace: Seconds between two of them, on average.
        faults: The names of those to choose from; all of them by default.
        watch_memory: Whether to see how much the runtime's memory grows.
    """

    def __init__(
        self,
        seed: int,
        requests: int,
        isolation: Isolation,
        *,
        pace: float = 0.012,
        faults: tuple[str, ...] = (),
        watch_memory: bool = False,
    ) -> None:
        self.seed = seed
        self.isolation = isolation
        self.ledger = Ledger(seed, isolation)
        self.gateway: LocalGateway
        self.crash = threading.Event()
        self._requests = requests
        self._pace = pace
        self._faults = faults or tuple(FAULTS)
        self._calls: Counter[str] = Counter()
        self._deliveries: list[Delivery] = []
        self._quiet: list[tuple[float, float]] = []
        """When nothing was wrong, as seen from outside."""
        self._log = _Named()
        self._watch_memory = watch_memory

    def run(self) -> Ledger:
        tick = Core.tick

        def tick_or_crash(core: Core, now: float) -> list[Action]:
            if self.crash.is_set():
                self.crash.clear()
                raise RuntimeError("a bug, for the campaign")
            return tick(core, now)

        configuration = Settings.configuration

        def impatient(settings: Settings) -> Configuration:
            # Or most of the trouble would find the worker in a pause.
            return replace(configuration(settings), reconnect_cap=RECONNECT_CAP)

        logger = logging.getLogger("inngest_connect_asgi")
        logger.addHandler(self._log)
        before = _left_over()
        if self._watch_memory:
            tracemalloc.start()
        try:
            with (
                unittest.mock.patch.object(Core, "tick", tick_or_crash),
                unittest.mock.patch.object(Settings, "configuration", impatient),
                Metronome() as self._metronome,
            ):
                asyncio.run(self._main())
        finally:
            logger.removeHandler(self._log)
            tracemalloc.stop()
        self._judge()
        self.ledger.leaked.update(_left_over() - before)
        return self.ledger

    async def _main(self) -> None:
        with LocalGateway(
            heartbeat_interval="200ms",
            extend_lease_interval=f"{LEASE_INTERVAL}s",
            lease_duration=LEASE_DURATION,
        ) as self.gateway:
            async with worker(
                self.gateway,
                self._function(),
                isolation=self.isolation,
                shutdown_timeout=SHUTDOWN_TIMEOUT,
            ):
                trouble = asyncio.ensure_future(self._make_trouble())
                await self._send_requests()
                trouble.cancel()
                await asyncio.wait([trouble])
                await off_loop(self.heal)
                # In flight now, and told to move while the app shuts down.
                await off_loop(self.gateway.wait_for_worker, 1, 40.0)
                for _ in range(20):
                    await off_loop(self._send)
                await off_loop(self.gateway.drain)
        self.ledger.leaked.update(task.get_name() for task in tasks_left())

    def _function(self) -> Callable[..., object]:
        async def work(ctx: inngest.Context) -> str:
            self._calls[ctx.run_id] += 1
            rng = random.Random(f"{self.seed} {ctx.run_id}")
            duration = rng.choices([0, 0.05, 0.5, 4.0], [10, 5, 5, 1])[0]
            await asyncio.sleep(duration)
            return "x" * rng.choices([1, 1000, 100_000], [10, 2, 1])[0]

        return work

    # Requests

    async def _send_requests(self) -> None:
        rng = random.Random(f"requests {self.seed}")
        at_first = 0
        while (sent := len(self._deliveries)) < self._requests:
            if self._watch_memory and not at_first and sent >= self._requests / 5:
                at_first = self._memory()
            await asyncio.sleep(rng.uniform(0, 2 * self._pace))
            await off_loop(self._send)
            if rng.random() < 0.05 and self._deliveries:
                again = rng.choice(self._deliveries[-50:])
                if await off_loop(self._send_again, again):
                    self.ledger.faults["duplicate delivery"] += 1
        if at_first:
            self.ledger.grown = self._memory() - at_first

    def _memory(self) -> int:
        """Bytes that the runtime has, and LocalGateway has not."""
        gc.collect()
        if self.isolation == "process":
            return sum(own_memory(pid) for pid in children(os.getpid()))
        snapshot = tracemalloc.take_snapshot().filter_traces(
            [
                tracemalloc.Filter(True, "*/inngest_connect_asgi/*.py"),
                tracemalloc.Filter(False, "*/inngest_connect_asgi/testing/*"),
                tracemalloc.Filter(True, "*/websockets/asyncio/client.py"),
                tracemalloc.Filter(True, "*/httpx/*"),
                tracemalloc.Filter(True, "*/httpcore/*"),
            ]
        )
        return sum(each.size for each in snapshot.statistics("filename"))

    def _send(self) -> None:
        number = len(self._deliveries)
        with contextlib.suppress(IndexError):  # no worker is connected
            self._deliveries.append(
                self.gateway.request("app-work", call_request(f"run-{number}"))
            )

    def _send_again(self, delivery: Delivery) -> bool:
        payload = delivery.request.request_payload
        try:
            self.gateway.request("app-work", payload, request_id=delivery.request_id)
        except IndexError:
            return False
        return True

    # Trouble

    async def _make_trouble(self) -> None:
        quiet_since = time.monotonic()
        for trouble in schedule(self.seed, self._faults):
            await asyncio.sleep(trouble.pause)
            self._quiet.append((quiet_since, time.monotonic()))
            self.ledger.schedule.append(trouble)
            for name in trouble.faults:
                self.ledger.faults[name] += 1
                await off_loop(FAULTS[name], self)
            await asyncio.sleep(trouble.lasting)
            await off_loop(self.heal)
            quiet_since = time.monotonic()

    def heal(self) -> None:
        self.gateway.faults.reset()
        for start in (self.gateway.api_up, self.gateway.gateway_up):
            with contextlib.suppress(OSError):  # it listens
                start()
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGCONT)

    # The ledger

    def _judge(self) -> None:
        ledger, gateway = self.ledger, self.gateway
        replies, executions = gateway.replies, gateway.executions
        ledger.requests = len(self._deliveries)
        ledger.flushed = sum(seen.code == 200 for seen in gateway.requests("flush"))
        ledger.reconnects = len(gateway.connections) - 1
        for number, delivery in enumerate(self._deliveries):
            request_id, run_id = delivery.request_id, f"run-{number}"
            acked = bool(executions[request_id])
            ledger.acked += acked
            ledger.replied += request_id in replies
            if self._calls[run_id] > 1:
                ledger.doubled.append(run_id)
            if acked and request_id not in replies:
                named = request_id in self._log.request_ids
                (ledger.named if named else ledger.lost).append(run_id)
        if not self._watch_memory:
            # A snapshot of the memory stops every thread, and leases with them.
            ledger.late = self._late_leases()

    def _late_leases(self) -> list[str]:
        """Runs whose lease was not extended for long, in a time without trouble."""
        patience = LONGEST_QUIET + self._metronome.lateness
        calm = list(self._calm())
        seen: dict[str, list[float]] = {}
        ended: dict[str, float] = {}
        for each in self.gateway.seen:
            if each.kind in ("WORKER_REQUEST_ACK", "WORKER_REQUEST_EXTEND_LEASE"):
                seen.setdefault(each.id, []).append(each.time)
            elif each.kind == "WORKER_REPLY" or each.event == "flush":
                ended.setdefault(each.id, each.time)
        late = []
        for number, delivery in enumerate(self._deliveries):
            times = seen.get(delivery.request_id, [])
            if delivery.nacks or not times or delivery.request_id not in ended:
                continue
            times.append(ended[delivery.request_id])
            for since, until in itertools.pairwise(sorted(times)):
                if until - since > patience and any(
                    min(until, b) - max(since, a) > patience for a, b in calm
                ):
                    late.append(f"run-{number}")
        return late

    def _calm(self) -> Iterator[tuple[float, float]]:
        """When nothing was wrong, and one connection there all the time."""
        for start, end in self._quiet:
            for each in self.gateway.connections:
                if each.ready_at is not None:
                    since = max(start, each.ready_at)
                    until = min(end, each.closed_at or end)
                    if since < until:
                        yield since, until


class _Named(logging.Handler):
    """The requests that the worker's log gives up by name."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.request_ids: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        request_id = getattr(record, "request_id", None)
        if request_id is not None and "took back" not in record.getMessage():
            self.request_ids.add(request_id)


def _left_over() -> Counter[str]:
    gc.collect()
    kinds = (GatewaySocket, Lease, Link, Reply, Request, Result)
    found = Counter(
        type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds)
    )
    found["threads"] = threading.active_count()
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["processes"] = len(children(os.getpid()))
    return found


# What can go wrong


def _kill(campaign: Campaign) -> None:
    if campaign.isolation == "process":
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
    else:
        campaign.crash.set()


def _suspend(campaign: Campaign) -> None:
    """Stop the clock of the runtime, as a machine that sleeps does."""
    if campaign.isolation == "process":
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGSTOP)
    else:
        # Native code that keeps the interpreter's lock.
        sum(range(20_000_000))


def _drain_in_a_row(campaign: Campaign) -> None:
    for _ in range(3):
        campaign.gateway.drain()
        with contextlib.suppress(TimeoutError):
            campaign.gateway.wait_for_worker(1, 0.5)


def _garbage(campaign: Campaign) -> None:
    frames = (b"\xff\xff", "text", b"\x08\x63", b"\x08\x03\x12\x01\xff")
    campaign.gateway.send_raw(*frames)


def _fault(name: str, value: object) -> Callable[[Campaign], None]:
    return lambda campaign: setattr(campaign.gateway.faults, name, value)


FAULTS: dict[str, Callable[[Campaign], None]] = {
    "connection reset": lambda campaign: campaign.gateway.drop(),
    "half-open link": lambda campaign: campaign.gateway.freeze(),
    "stalled writes": lambda campaign: campaign.gateway.stop_reading(),
    "slow gateway": _fault("delay", 0.05),
    "drain": lambda campaign: campaign.gateway.drain(),
    "drains in a row": _drain_in_a_row,
    "gateway restart": lambda campaign: campaign.gateway.gateway_down(),
    "API restart": lambda campaign: campaign.gateway.api_down(),
    "start 401": _fault("start", 401),
    "start 429": _fault("start", 429),
    "start 500": _fault("start", 500),
    "start hangs": _fault("start", "hang"),
    "start garbage": _fault("start", "garbage"),
    "no such gateway": _fault("endpoint", "ws://no-such-host.invalid/connect"),
    "upgrade 503": _fault("upgrade", 503),
    "sync failed": _fault("handshake", "sync_failed"),
    "ready before hello": _fault("handshake", "ready_first"),
    "flush 401": _fault("flush", 401),
    "flush 429": _fault("flush", 429),
    "flush 500": _fault("flush", 500),
    "flush hangs": _fault("flush", "hang"),
    "flush garbage": _fault("flush", "garbage"),
    "reply acks lost": _fault("mute", {"WORKER_REPLY_ACK"}),
    "replies lost": _fault("ignore", {"WORKER_REPLY"}),
    "heartbeats unanswered": _fault("mute", {"GATEWAY_HEARTBEAT"}),
    "leases refused": _fault("nack_leases", True),
    "garbage": _garbage,
    "runtime killed": _kill,
    "runtime suspended": _suspend,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--requests", type=int, default=2500)
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at once")
    parser.add_argument("--isolation", choices=("thread", "process"))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=())
    parser.add_argument(
        "--soak", action="store_true", help="10,000 requests, 500 reconnects"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/campaign.md, when it is clean"
    )
    options = parser.parse_args()
    isolations: tuple[Isolation, ...] = ("thread", "process")
    if options.isolation is not None:
        isolations = (options.isolation,)
    seeds = range(options.first, options.first + options.seeds)
    faults = tuple(options.faults)
    with ProcessPoolExecutor(
        options.jobs, multiprocessing.get_context("spawn")
    ) as pool:
        pending = [
            pool.submit(campaign, seed, options.requests, isolation, faults=faults)
            for seed in seeds
            for isolation in isolations
        ]
        ledgers = [show(each.result()) for each in pending]
        pending = [
            pool.submit(
                campaign,
                *(0, 10_000, isolation),
                pace=0.065,
                faults=SOAK,
                watch_memory=True,
            )
            for isolation in (isolations if options.soak else ())
        ]
        soaks = [show(each.result()) for each in pending]
    if not all(ledger.clean for ledger in [*ledgers, *soaks]):
        return 1
    if options.write:
        command = f"scripts/faults {' '.join(sys.argv[1:])}"
        (DOCS / "campaign.md").write_text(page(command, ledgers, soaks))
    return 0


def page(command: str, ledgers: list[Ledger], soaks: list[Ledger]) -> str:
    """What was found, for the documentation."""
    isolations = sorted({ledger.isolation for ledger in ledgers}, reverse=True)

    def table(title: str, rows: dict[str, Callable[[list[Ledger]], int]]) -> list[str]:
        lines = [f"| {title} | {' | '.join(isolations)} | in all |"]
        lines.append("|---" * (len(isolations) + 2) + "|")
        groups = [[x for x in ledgers if x.isolation == each] for each in isolations]
        for name, count in rows.items():
            cells = [f"{count(group):,}" for group in [*groups, ledgers]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return lines

    faults: Counter[str] = sum((ledger.faults for ledger in ledgers), Counter())
    lines = [
        "# The last fault campaign",
        "",
        f"Made by `{command}` with Python {platform.python_version()} on "
        f"{os.cpu_count()} processor cores. [Reliability](reliability.md) says what is "
        "promised, and what each line means.",
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
            f"Soak, {soak.isolation}: {soak.requests:,} requests and "
            f"{soak.reconnects:,} reconnects; lost {len(soak.lost)}, doubled "
            f"{len(soak.doubled)}, left behind {sum(soak.leaked.values())}. The "
            "runtime's memory at the end, less that after a fifth of the requests: "
            f"{soak.grown / 1024:,.0f} KiB.",
        ]
    return "\n".join(lines) + "\n"


COUNTS = {
    "sent": "requests",
    "acknowledged": "acked",
    "replied to": "replied",
    "of these, also or only by the API": "flushed",
    "not replied to, and named in the log": "named",
    "lost": "lost",
    "run twice": "doubled",
    "lease extended late": "late",
    "left behind (tasks, threads, descriptors, objects)": "leaked",
    "reconnects": "reconnects",
}


def _total(name: str) -> Callable[[list[Ledger]], int]:
    def total(ledgers: list[Ledger]) -> int:
        values = [getattr(ledger, COUNTS[name]) for ledger in ledgers]
        return sum(each if isinstance(each, int) else len(each) for each in values)

    return total


def _faults(ledgers: list[Ledger], name: str) -> int:
    return sum(ledger.faults[name] for ledger in ledgers)


def campaign(*args: Any, **options: Any) -> Ledger:
    return Campaign(*args, **options).run()


def show(ledger: Ledger) -> Ledger:
    print(ledger if ledger.clean else ledger.complaint(), flush=True)
    return ledger


if __name__ == "__main__":
    sys.exit(main())
