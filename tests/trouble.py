"""What can go wrong in a fault campaign, and when: a seed says which and in what order.

The same seed always makes the same schedule.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import opentelemetry.trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from inngest_connect_asgi.isolation.moving import MovingHost
from inngest_connect_asgi.messages import Starved

from .hosts import interpreters
from .processes import children

if TYPE_CHECKING:
    from .campaign import Campaign

__all__ = ["FAULTS", "SOAK", "Trouble", "heal", "observe", "schedule"]

LINK_FAULTS = {
    "connection reset",
    "half-open link",
    "stalled writes",
    "end of file under a reply",
    "drain",
    "drains in a row",
    "gateway restart",
    "executor restart",
    "runtime killed",
    "unforeseen exception",
}

SOAK = ("connection reset",)
"""The only fault of a soak, as soon as a connection has lived for a second."""

HANG = 0.5
"""Seconds for which a child is stopped before it is killed."""

PLACES = 300
"""Within so many awaits and handlers that are passed, an exception is raised."""


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
        longest = rng.choices([0.8, 8.0], [60, 1])[0]
        yield Trouble(pause, tuple(sorted(chosen)), rng.uniform(0.05, longest))


def _kill(campaign: Campaign) -> None:
    if campaign.in_process:
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
    elif campaign.isolation == "interpreter":
        for interpreter in interpreters():
            interpreter.kill()
    else:
        campaign.crash.set()


def _hang_and_kill(campaign: Campaign) -> None:
    """Stop the child until its pipe is full, and kill it."""
    if campaign.in_process:
        _suspend(campaign)
        time.sleep(HANG)
    _kill(campaign)


def _suspend(campaign: Campaign) -> None:
    """Stop the clock of the runtime, as a machine that sleeps does."""
    if campaign.in_process:
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGSTOP)
    else:
        # Native code that keeps the interpreter's lock.
        sum(range(20_000_000))


def _move(campaign: Campaign) -> None:
    """Have the runtime move, as if native code had starved it, where it may."""
    host = campaign.host
    if isinstance(host, MovingHost):
        host._hear_old(Starved(2.0))


def _drain_in_a_row(campaign: Campaign) -> None:
    for _ in range(3):
        campaign.gateway.drain()
        with contextlib.suppress(TimeoutError):
            campaign.gateway.wait_for_worker(1, 0.5)


def _end_of_file(campaign: Campaign) -> None:
    """End the gateway's side while it does not read, so that a reply is halfway."""
    gateway = campaign.gateway
    gateway.stop_reading()
    for connection in gateway.ready_connections:
        with contextlib.suppress(Exception):  # it is closed by now
            gateway._server.call(connection.socket.transport.write_eof)


def _garbage(campaign: Campaign) -> None:
    frames = (b"\xff\xff", "text", b"\x08\x63", b"\x08\x03\x12\x01\xff")
    campaign.gateway.send_raw(*frames)


def _refuse(campaign: Campaign) -> None:
    campaign.gateway.faults.refuse = lambda request_id: request_id[-1] in "05AFKQV"


def _sabotage(campaign: Campaign) -> None:
    campaign.saboteur.arm(campaign.rng.randrange(1, PLACES))


def _break_logging(campaign: Campaign) -> None:
    logging.setLogRecordFactory(_broken_factory)


def _break_tracing(campaign: Campaign) -> None:
    _Broken.armed = True


def _restart_executor(campaign: Campaign) -> None:
    campaign.gateway.restart_executor(campaign.rng.choice(["lost", "lost", "over"]))


def _fault(name: str, value: object) -> Callable[[Campaign], None]:
    return lambda campaign: setattr(campaign.gateway.faults, name, value)


FAULTS: dict[str, Callable[[Campaign], None]] = {
    "connection reset": lambda campaign: campaign.gateway.drop(),
    "half-open link": lambda campaign: campaign.gateway.freeze(),
    "stalled writes": lambda campaign: campaign.gateway.stop_reading(),
    "end of file under a reply": _end_of_file,
    "slow gateway": _fault("delay", 0.05),
    "slow handling": _fault("data_delay", 0.02),
    "drain": lambda campaign: campaign.gateway.drain(),
    "drains in a row": _drain_in_a_row,
    "gateway restart": lambda campaign: campaign.gateway.gateway_down(),
    "executor restart": _restart_executor,
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
    "poison replies": _refuse,
    "heartbeats unanswered": _fault("mute", {"GATEWAY_HEARTBEAT"}),
    "leases refused": _fault("nack_leases", True),
    "garbage": _garbage,
    "runtime killed": _kill,
    "runtime hangs, and is killed": _hang_and_kill,
    "runtime suspended": _suspend,
    "runtime moves": _move,
    "unforeseen exception": _sabotage,
    "record factory raises": _break_logging,
    "span processor raises": _break_tracing,
}


def heal(campaign: Campaign) -> None:
    """Let everything work again."""
    campaign.saboteur.disarm()
    campaign.gateway.faults.reset()
    logging.setLogRecordFactory(logging.LogRecord)
    _Broken.armed = False
    gateway = campaign.gateway
    _have_up(lambda: gateway._server.api.is_up, gateway.api_up)
    _have_up(lambda: gateway._server.sockets.is_up, gateway.gateway_up)
    for pid in children(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _have_up(is_up: Callable[[], bool], start: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not is_up():
        try:
            start()
        except OSError:
            # Meanwhile the port was given to somebody else's connection.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def observe() -> None:
    """Have every run traced in this process, by a provider that may break."""
    if not isinstance(opentelemetry.trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(_Broken())
        opentelemetry.trace.set_tracer_provider(provider)


class _Broken(SpanProcessor):
    armed = False

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._break()

    def on_end(self, span: ReadableSpan) -> None:
        self._break()

    def _break(self) -> None:
        if self.armed:
            raise OSError("the collector is gone, for the campaign")


def _broken_factory(name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
    # The gateway lives in this process too, and is not the one that is tried.
    if name.startswith("inngest_connect_asgi") and "testing" not in name:
        raise ValueError("a factory of the app's, for the campaign")
    return logging.LogRecord(name, *args, **kwargs)
