"""Signals at the worst moment, to real uvicorn processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from inngest_connect_asgi.testing import LocalGateway

from ..processes import children, wait_gone
from ..servers import Uvicorn

pytestmark = pytest.mark.usefixtures("isolation")

SHUTDOWN_TIMEOUT = 3.0
LIMIT = SHUTDOWN_TIMEOUT + 12.0
"""Seconds: what the worker may take, and what a busy machine adds."""


@pytest.fixture(scope="module")
def exit_codes() -> dict[signal.Signals, int]:
    """What uvicorn itself makes of a signal."""
    codes = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with Uvicorn({"INNGEST_CONNECT_ENABLED": "0", "INNGEST_DEV": "1"}) as server:
            server.wait_for_log("Uvicorn running on")
            server.signal(number)
            codes[number] = server.wait()
    return codes


def start_hangs(gateway: LocalGateway) -> None:
    gateway.faults.start = "hang"


def before_hello(gateway: LocalGateway) -> None:
    gateway.faults.mute = {"GATEWAY_HELLO"}


def after_hello(gateway: LocalGateway) -> None:
    gateway.faults.mute = {"GATEWAY_CONNECTION_READY"}


def start_fails(gateway: LocalGateway) -> None:
    gateway.faults.start = 500


def no_api(gateway: LocalGateway) -> None:
    gateway.api_down()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "trouble", [start_hangs, before_hello, after_hello, start_fails, no_api]
)
def test_a_signal_before_there_is_a_connection(
    gateway: LocalGateway,
    trouble: Callable[[LocalGateway], None],
    number: signal.Signals,
    exit_codes: dict[signal.Signals, int],
) -> None:
    trouble(gateway)
    with Uvicorn(gateway.environ, shutdown_timeout=SHUTDOWN_TIMEOUT) as server:
        server.wait_for_log("Uvicorn running on")
        if trouble in (before_hello, after_hello):
            gateway.wait_until(lambda: gateway.connections)
        if trouble is after_hello:
            gateway.wait_until(lambda: gateway.received("WORKER_CONNECT"))
        if trouble in (start_fails, no_api):
            server.wait_for_log("Could not connect to Inngest")
        ends_well(server, exit_codes, number)


def test_a_signal_while_a_drain_finds_no_other_gateway(
    gateway: LocalGateway, exit_codes: dict[signal.Signals, int]
) -> None:
    with Uvicorn(gateway.environ, shutdown_timeout=SHUTDOWN_TIMEOUT) as server:
        connection = gateway.wait_for_worker()
        gateway.faults.start = "hang"
        gateway.drain()
        server.wait_for_status("/healthz/ready", 503)
        ends_well(server, exit_codes)
        gateway.wait_until(lambda: connection.phase == "closed")


def test_replies_that_can_not_be_delivered_are_named(
    gateway: LocalGateway, exit_codes: dict[signal.Signals, int]
) -> None:
    with Uvicorn(gateway.environ, shutdown_timeout=SHUTDOWN_TIMEOUT) as server:
        gateway.wait_for_worker()
        for _ in range(3):
            gateway.send("hold", {"size": 10})
        gateway.wait_until(lambda: len(gateway.executions) == 3)
        gateway.api_down()
        gateway.drop()
        server.post("/release?count=3")
        server.wait_for_log("Could not flush a reply")
        since = time.monotonic()
        ends_well(server, exit_codes)
        # It tried for as long as it may.
        assert time.monotonic() - since >= SHUTDOWN_TIMEOUT - 0.5
        assert server.log.count("Gave up a reply") == 3
        for run in gateway.runs:
            assert run.id in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal(
    gateway: LocalGateway,
    number: signal.Signals,
    exit_codes: dict[signal.Signals, int],
) -> None:
    with Uvicorn(gateway.environ, shutdown_timeout=SHUTDOWN_TIMEOUT) as server:
        gateway.wait_for_worker()
        gateway.send("wait", {"seconds": 60})
        gateway.wait_until(lambda: gateway.executions)
        pids = children(server.pid)
        server.signal(number)
        gateway.wait_until(lambda: gateway.received("WORKER_PAUSE"))
        server.signal(number)
        assert server.wait(LIMIT) == exit_codes[number]
        for pid in pids:
            wait_gone(pid, 5)
        assert "Traceback" not in server.log


def ends_well(
    server: Uvicorn,
    exit_codes: dict[signal.Signals, int],
    number: signal.Signals = signal.SIGTERM,
) -> None:
    """In time, as uvicorn does, without a traceback and without a child left."""
    pids = children(server.pid)
    server.signal(number)
    code = server.wait(LIMIT)
    assert code == exit_codes[number]
    assert "Traceback" not in server.log
    assert "app: stopped" in server.log
    for pid in pids:
        wait_gone(pid, 5)


def test_an_executor_that_the_app_has_filled_holds_nothing_up(
    gateway: LocalGateway,
) -> None:
    """It is the event loop's own, and empties as the app shuts down, after us."""
    with Uvicorn(
        gateway.environ, full_executor=True, shutdown_timeout=SHUTDOWN_TIMEOUT
    ) as server:
        gateway.wait_for_worker(timeout=30)
        event_id = gateway.send("crunch", {"seconds": 0})
        assert gateway.wait_for_run(event_id).status == "completed"
        server.signal(signal.SIGTERM)
        start = time.monotonic()
        server.wait(40)
        assert time.monotonic() - start < LIMIT
        assert "app: stopped" in server.log
