"""Faults at random, and an exact ledger of what became of every request.

    scripts/faults --seeds 20 --requests 5000

A seed makes a schedule, always the same one. The schedule of a campaign that failed
is printed; ``--first SEED --seeds 1`` runs it again.

LocalGateway's executor sends the requests, so that one which comes back without an
acknowledgement is sent again, and one without a reply is another attempt.
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
import random
import sys
import tempfile
import threading
import time
import tracemalloc
import unittest.mock
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import inngest

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.configuration import Configuration
from inngest_connect_asgi.context import CURRENT
from inngest_connect_asgi.isolation import supervisor
from inngest_connect_asgi.isolation.supervisor import Host, Supervisor
from inngest_connect_asgi.messages import Lease, Request, Result
from inngest_connect_asgi.protocol.actions import Action
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.link import Link
from inngest_connect_asgi.protocol.replies import Reply
from inngest_connect_asgi.runtime.gateway_socket import GatewaySocket
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.config import Isolation, Settings

from . import trouble
from .harness import (
    bare_app,
    close_http,
    deliveries_of,
    lifespan,
    make_client,
    make_function,
    off_loop,
    tasks_left,
)
from .hosts import ISOLATIONS
from .ledger import Ledger, page, with_section
from .processes import children, own_memory
from .sabotage import Saboteur
from .servers import Metronome
from .trouble import FAULTS, SOAK, schedule
from .ways import Authority, over_tls

__all__ = ["Campaign"]

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "campaign.md"

SHUTDOWN_TIMEOUT = 90.0
"""Seconds after the last fault in which every reply must have reached the server."""

END_TIMEOUT = 90.0
"""Seconds after the last fault in which every run must have ended."""

RECONNECT_CAP = 1.0
RESPAWN_CAP = 0.5
"""Seconds. Or most of the trouble would find the worker in a pause."""

LEASE_INTERVAL = 0.25
LEASE_DURATION = 5.0
LONGEST_QUIET = 1.5
"""Seconds without an extension, with nothing wrong, that count as a missed one."""

TLS_EVERY = 4
"""Of so many seeds, one goes by TLS."""


class Gateway(LocalGateway):
    """Perhaps with TLS in front."""

    front: str | None = None

    @property
    def origin(self) -> str:
        return self.front or super().origin


class Campaign:
    """One worker, one LocalGateway in the same process, and trouble between them.

    Args:
        requests: How many runs to start.
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
        pace: float = 0.008,
        faults: tuple[str, ...] = (),
        watch_memory: bool = False,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"trouble {seed}")
        self.isolation = isolation
        self.ledger = Ledger(seed, isolation)
        self.gateway: Gateway
        self.crash = threading.Event()
        self.saboteur = Saboteur()
        self.host: Host | None = None
        self._requests = requests
        self._pace = pace
        self._faults = faults or tuple(FAULTS)
        self._calls: Counter[tuple[str, int]] = Counter()
        self._ran: set[str] = set()
        """The ids of requests that have started a run."""
        self._events: list[str] = []
        self._quiet: list[tuple[float, float]] = []
        """When nothing was wrong, as seen from outside."""
        self._enough = False
        """Whether there was enough trouble."""
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
            return replace(configuration(settings), reconnect_cap=RECONNECT_CAP)

        init = Supervisor.__init__

        def noting_the_host(made: Supervisor, host: Host, *args: Any) -> None:
            self.host = host
            init(made, host, *args)

        trouble.observe()
        logger = logging.getLogger("inngest_connect_asgi")
        logger.addHandler(self._log)
        before = _left_over()
        if self._watch_memory:
            tracemalloc.start()
        patch = unittest.mock.patch.object
        try:
            with (
                patch(Core, "tick", tick_or_crash),
                patch(Settings, "configuration", impatient),
                patch(Supervisor, "__init__", noting_the_host),
                # It is killed more often than any bug would kill it.
                patch(supervisor, "MAX_CRASHES", 1_000_000),
                patch(supervisor, "RESPAWN_CAP", RESPAWN_CAP),
                self.saboteur.at_work(),
                Metronome() as self._metronome,
            ):
                asyncio.run(self._main())
        finally:
            logger.removeHandler(self._log)
            tracemalloc.stop()
        self._judge()
        self.ledger.leaked.update(_left_over() - before)
        return self.ledger

    @property
    def in_process(self) -> bool:
        """Whether the runtime lives in a child."""
        return self.isolation == "process" or bool(children(os.getpid()))

    async def _main(self) -> None:
        with (
            Gateway(
                heartbeat_interval="200ms",
                extend_lease_interval=f"{LEASE_INTERVAL}s",
                lease_duration=LEASE_DURATION,
            ) as gateway,
            contextlib.ExitStack() as stack,
        ):
            assert isinstance(gateway, Gateway)
            self.gateway = gateway
            stack.enter_context(self._tls())
            client = make_client(self.gateway)
            function = make_function(client, self._function(), retries=20)
            app = self._app(client, function)
            async with lifespan(app):
                await off_loop(self.gateway.wait_for_worker)
                making = asyncio.ensure_future(self._make_trouble())
                await self._send_events()
                # Not in the middle of one: what goes down there comes up again below.
                self._enough = True
                await making
                await off_loop(trouble.heal, self)
                with contextlib.suppress(TimeoutError):  # the ledger says which
                    await off_loop(
                        self.gateway.wait_until, self._all_have_ended, END_TIMEOUT
                    )
                # In flight now, and told to move while the app shuts down.
                await off_loop(self.gateway.wait_for_worker, 1, 40.0)
                for _ in range(20):
                    await off_loop(self.gateway.send, "test")
                await off_loop(self.gateway.drain)
            self.ledger.repeated = app._health.state.requests_repeated
            await close_http(client)
        self.ledger.leaked.update(task.get_name() for task in tasks_left())

    def _app(
        self, client: inngest.Inngest, function: inngest.Function[Any]
    ) -> InngestConnectMiddleware:
        return InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[function],
            isolation=self.isolation,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )

    @contextlib.contextmanager
    def _tls(self) -> Iterator[None]:
        if self.seed % TLS_EVERY:
            yield
            return
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            authority = Authority(pathlib.Path(directory))
            environ = {"SSL_CERT_FILE": str(authority.file), "SSL_CERT_DIR": ""}
            stack.enter_context(unittest.mock.patch.dict(os.environ, environ))
            api_port, _ = stack.enter_context(
                over_tls(self.gateway, authority.server())
            )
            self.gateway.front = f"https://127.0.0.1:{api_port}"
            self.ledger.faults["over TLS"] += 1
            yield

    def _function(self) -> Callable[..., object]:
        async def work(ctx: inngest.Context) -> str:
            self._calls[ctx.run_id, ctx.attempt] += 1
            run = CURRENT.get()
            assert run is not None
            self._ran.add(run.request.lease.request_id)
            rng = random.Random(f"{self.seed} {ctx.event.id}")
            duration = rng.choices([0, 0.05, 0.5, 2.0], [10, 5, 5, 1])[0]
            await asyncio.sleep(duration)
            return "x" * rng.choices([1, 1000, 100_000], [10, 2, 1])[0]

        return work

    async def _send_events(self) -> None:
        rng = random.Random(f"requests {self.seed}")
        at_first = 0
        while (sent := len(self._events)) < self._requests:
            if self._watch_memory and not at_first and sent >= self._requests / 5:
                at_first = self._memory()
            await asyncio.sleep(rng.uniform(0, 2 * self._pace))
            self._events.append(await off_loop(self.gateway.send, "test"))
        if at_first:
            self.ledger.grown = self._memory() - at_first

    def _all_have_ended(self) -> bool:
        runs = self.gateway.runs[: self._requests]
        return all(run.status != "running" for run in runs)

    def _memory(self) -> int:
        """Bytes that the runtime has, and LocalGateway has not."""
        gc.collect()
        if self.in_process:
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

    async def _make_trouble(self) -> None:
        quiet_since = time.monotonic()
        for each in schedule(self.seed, self._faults):
            if self._enough:
                return
            await asyncio.sleep(each.pause)
            self._quiet.append((quiet_since, time.monotonic()))
            self.ledger.schedule.append(each)
            for name in each.faults:
                self.ledger.faults[name] += 1
                await off_loop(FAULTS[name], self)
            await asyncio.sleep(each.lasting)
            await off_loop(trouble.heal, self)
            quiet_since = time.monotonic()

    # The ledger

    def _judge(self) -> None:
        ledger, gateway = self.ledger, self.gateway
        replies = gateway.replies
        self._deliveries = list(deliveries_of(gateway).values())
        ledger.struck = self.saboteur.struck
        ledger.runs = len(self._events)
        ledger.requests = len(self._deliveries)
        ledger.flushed = sum(seen.code == 200 for seen in gateway.requests("flush"))
        ledger.reconnects = len(gateway.connections) - 1
        ledger.doubled = [str(run) for run, calls in self._calls.items() if calls > 1]
        for run in gateway.runs[: self._requests]:
            if run.status != "completed":
                ledger.lost.append(f"run {run.id}: {run.status}, {run.error}")
        faulty = self._void_acks()
        for delivery in self._deliveries:
            request_id = delivery.request_id
            ledger.forwarded += max(0, len(delivery.sent_to) - 1)
            ledger.acked += bool(delivery.acked_by)
            ledger.replied += request_id in replies
            if delivery.acked_by and request_id not in replies:
                named = request_id in self._log.request_ids
                (ledger.named if named else ledger.lost).append(request_id)
            if (
                request_id in faulty
                and request_id in self._ran
                and not delivery.acked_by
            ):
                ledger.void.append(request_id)
        if not self._watch_memory:
            # A snapshot of the memory stops every thread, and leases with them.
            ledger.late = self._late_leases()

    def _void_acks(self) -> set[str]:
        """Requests with a void acknowledgement that the worker is to blame for.

        One that was on its way when the gateway began to drain, or to break, is not:
        there the worker can't have known. One that comes behind the worker's own pause
        is, and so is one on a connection that nothing is wrong with.
        """
        paused, closing = set(), set()
        behind: set[tuple[int, str]] = set()
        faulty = set()
        for seen in self.gateway.seen:
            connection = seen.connection
            if connection is None:
                continue
            number = connection.number
            if seen.event == "received" and seen.kind == "WORKER_PAUSE":
                paused.add(number)
            elif seen.event == "received" and seen.kind == "WORKER_REQUEST_ACK":
                if number in paused:
                    behind.add((number, seen.id))
            elif seen.event == "sent" and seen.kind == "GATEWAY_CLOSING":
                closing.add(number)
            elif seen.event == "returned" and number not in paused:
                # Of a lease that ran out, or a socket that broke, it could not know.
                closing.add(number)
            elif seen.event == "void":
                if (number, seen.id) in behind or number not in paused | closing:
                    faulty.add(seen.id)
                else:
                    self.ledger.crossed += 1
        return faulty

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
        for delivery in self._deliveries:
            times = seen.get(delivery.request_id, [])
            if (
                delivery.nacks
                or len(delivery.acked_by) != 1
                or not times
                or delivery.request_id not in ended
            ):
                continue
            times.append(ended[delivery.request_id])
            for since, until in itertools.pairwise(sorted(times)):
                if until - since > patience and any(
                    min(until, b) - max(since, a) > patience for a, b in calm
                ):
                    late.append(delivery.request_id)
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
    # isinstance() would ask every lazy object of every library what it is.
    found = Counter(
        type(each).__name__ for each in gc.get_objects() if type(each) in kinds
    )
    found["threads"] = threading.active_count()
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["processes"] = len(children(os.getpid()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at once")
    parser.add_argument("--isolation", choices=(*ISOLATIONS, "auto"))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=())
    parser.add_argument(
        "--soak", action="store_true", help="10,000 requests, 500 reconnects"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/campaign.md, when it is clean"
    )
    options = parser.parse_args()
    isolations: tuple[Isolation, ...] = (*ISOLATIONS, "auto")
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
        PAGE.write_text(with_section(PAGE.read_text(), page(command, ledgers, soaks)))
    return 0


def campaign(*args: Any, **options: Any) -> Ledger:
    return Campaign(*args, **options).run()


def show(ledger: Ledger) -> Ledger:
    print(ledger if ledger.clean else ledger.complaint(), flush=True)
    return ledger


if __name__ == "__main__":
    sys.exit(main())
