"""The probe server: health and metrics, off the app's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from ..configuration import Configuration, Probe
from ..ends import spawn, start_thread
from ..errors import describe
from ..libraries import version
from ..state import State
from .endpoints import health_app
from .report import Health, facts

if TYPE_CHECKING:
    from ..integrations.measures import Feed
    from .embedded import Address

__all__ = ["ProbeServer", "start_probe"]

METRICS_PATH = "/metrics"

RETRY = 1.0
"""Seconds after which a port that was taken is tried again."""

Log = Callable[[int, str], None]
"""Takes a level and a message."""


def start_probe(
    configuration: Configuration, probe: Probe, log: Log
) -> ProbeServer | None:
    """Start a probe server on the running loop, or say why there is none.

    Raises nothing: a worker can do without.
    """
    try:
        server = ProbeServer(configuration, probe, log)
        server.start()
    except BaseException as error:
        _leave_out(log, "The probe server", "uvicorn", error)
        return None
    return server


class ProbeServer:
    """Serves :func:`health_app` on the running loop, which is the runtime's.

    And ``/metrics``, where that is wanted. A port that is taken is tried again until
    it is free: the worker that has it may be one that this one replaces.
    """

    def __init__(self, configuration: Configuration, probe: Probe, log: Log) -> None:
        # Not at the top: uvicorn may not be there, or be one that we don't know.
        from .embedded import EmbeddedServer

        self.health = Health(facts(configuration), wedge_timeout=probe.wedge_timeout)
        self._probe = probe
        self._log = log
        self._app = health_app(lambda: self.health, probe.path, details=probe.details)
        self._feed: Feed | None = None
        if probe.metrics:
            try:
                self._add_metrics(configuration)
            except BaseException as error:
                _leave_out(log, METRICS_PATH, "prometheus-client", error)
        self._server = EmbeddedServer(self._app)
        self._task: asyncio.Task[None] | None = None

    def _add_metrics(self, configuration: Configuration) -> None:
        # Not at the top: it may not be installed.
        from .. import prometheus

        metrics = prometheus.ConnectMetrics()

        async def scrape(request: Request) -> Response:
            accept = request.headers.get("accept", "")
            body, media_type = prometheus.scrape(metrics.registry, accept)
            return Response(body, media_type=media_type)

        self._feed = metrics.begin(configuration)
        self._app.add_route(METRICS_PATH, scrape)

    def observe(self, message: object) -> None:
        """Take note of what crosses between app and runtime. Raises nothing."""
        if isinstance(message, State):
            self.health.update(message)
        if self._feed is not None:
            try:
                self._feed.observe(message)
            except Exception as error:
                # Figures are not worth a reply.
                self._feed = None
                _leave_out(self._log, METRICS_PATH, "prometheus-client", error)

    def start(self) -> None:
        """Begin to listen, as soon as the address is free."""
        self._task = spawn(self._listen(), self._ended)

    async def stop(self) -> None:
        """Let go of the port. Raises nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            await self._server.stop()
        except Exception as error:
            self._log(logging.ERROR, f"Stopping the probe server: {describe(error)}")

    async def _listen(self) -> None:
        told = ""
        while True:
            try:
                port, families = await self._try_to_listen()
            except OSError as error:
                told = self._tell_failure(error, told)
                await asyncio.sleep(RETRY)
            else:
                now = "now " if told else ""
                where = f"{_name(self._probe.host, port)}{self._probe.path}"
                text = f"The probe server {now}listens on {where} ({families})"
                self._log(logging.INFO, text)
                return

    async def _try_to_listen(self) -> tuple[int, str]:
        from .embedded import listen_on

        addresses = await _addresses(self._probe.host, self._probe.port)
        listeners = listen_on(addresses)
        try:
            await self._server.start(*listeners)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        names = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
        families = sorted({names[each.family] for each in listeners})
        return listeners[0].getsockname()[1], " and ".join(families)

    def _tell_failure(self, error: OSError, told: str) -> str:
        """Tell it, unless that was the last thing told."""
        reason = error.strerror or str(error)
        if reason != told:
            self._log(
                logging.WARNING,
                "The probe server can't listen on "
                f"{_name(self._probe.host, self._probe.port)}: {reason}. It tries "
                "again until it can: a worker that is being replaced hands its port "
                "over. Where several web workers run on one machine, only one has "
                "the port: run one worker a container, or leave out probe= and use "
                "the app's own port",
            )
        return reason

    def _ended(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            _leave_out(self._log, "The probe server", "uvicorn", error)


async def _addresses(host: str, port: int) -> list[Address]:
    """Those that a host stands for; an empty one, for all of the machine.

    Raises:
        OSError: There is no such host.
    """
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    # A name. Whoever answers for names may take his time, and the runtime has none.
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()
    result: list[Address] = []

    def hand_over(error: BaseException | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(result)
        else:
            found.set_exception(error)

    def ended(error: BaseException | None) -> None:
        # Too late, where the loop is closed: nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(hand_over, error)

    start_thread(
        lambda: result.extend(_look_up(host, port, 0)),
        ended,
        name="inngest-connect-probe",
    )
    return await found


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=flags | socket.AI_PASSIVE
    )
    # In no order that is promised, and now and then twice.
    unique = {(family, address) for family, _, _, _, address in found}
    return sorted(unique, key=lambda each: (each[0] != socket.AF_INET, str(each[1])))


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _leave_out(log: Log, what: str, library: str, error: BaseException) -> None:
    log(
        logging.WARNING,
        f"{what} is left out, with {library} {version(library)}: {describe(error)}",
    )
