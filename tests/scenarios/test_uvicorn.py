"""The middleware under real uvicorn processes, with real signals."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import pytest

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway

from ..harness import closings
from ..hosts import ISOLATIONS
from ..servers import Metronome, Uvicorn, silence

SECONDS = 8
"""For how long a function holds up its event loop."""


@pytest.fixture
def slow_gateway() -> Iterator[LocalGateway]:
    with LocalGateway(
        heartbeat_interval="1s", extend_lease_interval="1s", lease_duration=4.0
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("function", ["sleep", "busy"])
def test_heartbeats_and_leases_go_on_while_the_apps_loop_is_held_up(
    slow_gateway: LocalGateway, function: str
) -> None:
    gateway = slow_gateway
    with Uvicorn(gateway.environ), Metronome() as metronome:
        gateway.wait_for_worker()
        since = time.monotonic()
        event_id = gateway.send(function, {"seconds": SECONDS})
        run = gateway.wait_for_run(event_id, SECONDS + 20)
        until = time.monotonic()
    assert (run.status, run.attempts) == ("completed", 1)
    assert until - since >= SECONDS
    beats = gateway.received("WORKER_HEARTBEAT")
    assert silence(beats, since, until) < 1.5 + metronome.lateness
    extensions = gateway.received("WORKER_REQUEST_EXTEND_LEASE")
    assert len(extensions) >= SECONDS - 1 - metronome.lateness
    assert not [seen for seen in gateway.seen if seen.event == "lease"]
    assert len(gateway.connections) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_run_in_flight_finish(
    gateway: LocalGateway, number: signal.Signals
) -> None:
    with Uvicorn(gateway.environ) as server:
        connection = gateway.wait_for_worker()
        event_id = gateway.send("wait", {"seconds": 2})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        server.signal(number)
        server.wait_for_log("Waiting for application shutdown")
        gateway.wait_until(lambda: gateway.received("WORKER_PAUSE"))
        (paused,) = gateway.received("WORKER_PAUSE")
        run = gateway.wait_for_run(event_id)
        # How uvicorn ends after a graceful shutdown is its own business.
        code = server.wait()
        again = Uvicorn({"INNGEST_CONNECT_ENABLED": "0", **gateway.environ})
        with again:
            again.wait_for_log("Uvicorn running on")
            again.signal(number)
            assert again.wait() == code
    assert (run.status, run.output, run.attempts) == ("completed", "waited", 1)
    (replied,) = gateway.received("WORKER_REPLY")
    assert paused.time < replied.time
    for kind in ("WORKER_HEARTBEAT", "WORKER_REQUEST_EXTEND_LEASE"):
        assert any(
            paused.time < seen.time < replied.time for seen in gateway.received(kind)
        )
    (closed,) = closings(gateway)
    assert closed.connection is connection
    assert (closed.code, closed.reason) == (1000, "WORKER_SHUTDOWN")
    assert "Traceback" not in server.log
    assert server.log.index("app: started") < server.log.index("app: stopped")


def test_the_web_app_is_served_beside_the_worker(gateway: LocalGateway) -> None:
    with Uvicorn(gateway.environ) as server:
        gateway.wait_for_worker()
        assert server.get("/").json() == {"pid": server.pid}
        run = gateway.wait_for_run(gateway.send("noop"))
        assert run.output == server.pid
        server.wait_for_status("/healthz/ready", 200)


def test_the_web_app_is_served_while_inngest_is_away() -> None:
    with Uvicorn({"INNGEST_DEV": "http://127.0.0.1:9"}) as server:
        assert server.get("/").status_code == 200
        server.wait_for_log("Could not connect to Inngest")
        server.signal(signal.SIGTERM)
        server.wait()
        assert "app: stopped" in server.log
        assert "Traceback" not in server.log


def test_every_worker_process_is_an_instance_of_its_own(
    gateway: LocalGateway,
) -> None:
    with Uvicorn(gateway.environ, "--workers", "2") as server:
        gateway.wait_for_worker(2, timeout=30)
        hellos = [seen.message for seen in gateway.received("WORKER_CONNECT")]
        names = set()
        for hello in hellos:
            assert isinstance(hello, wire.WorkerConnectRequestData)
            names.add(hello.instance_id)
        assert len(names) == 2
        server.signal(signal.SIGTERM)
        server.wait()
    reasons = [seen.reason for seen in closings(gateway)]
    assert reasons == ["WORKER_SHUTDOWN"] * 2


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_reload_drains_the_old_worker_and_starts_another(
    gateway: LocalGateway, tmp_path: pathlib.Path, isolation: str
) -> None:
    source = tmp_path / "source.py"
    source.touch()
    arguments = ("--reload", "--reload-dir", str(tmp_path), "--app-dir", ".")
    with Uvicorn(gateway.environ, *arguments, isolation=isolation) as server:
        first = gateway.wait_for_worker(timeout=30)
        # Uvicorn looks for newer times, and first has to look once.
        server.wait_for_log("Application startup complete")
        newer = source.stat().st_mtime + 1
        while len(gateway.connections) == 1:
            newer += 1
            os.utime(source, (newer, newer))
            with contextlib.suppress(TimeoutError):
                gateway.wait_until(lambda: len(gateway.connections) == 2, 3)
        second = gateway.wait_for_worker(timeout=30)
        assert first is not second
        gateway.wait_until(lambda: first.phase == "closed")
        assert first.close_reason == "WORKER_SHUTDOWN"
        server.signal(signal.SIGTERM)
        server.wait()


def test_without_lifespan_it_says_so_once(gateway: LocalGateway) -> None:
    with Uvicorn(gateway.environ, "--lifespan", "off") as server:
        for _ in range(3):
            assert server.get("/").status_code == 200
        report = server.get("/healthz/ready")
        assert report.status_code == 503
        assert "lifespan" in report.json()["output"]
        assert server.log.count("Inngest Connect is not running") == 1
    assert not gateway.connections


def test_mounted_under_another_app_it_says_so_once(gateway: LocalGateway) -> None:
    with Uvicorn(gateway.environ, app="tests.server_app:mounted") as server:
        for _ in range(3):
            assert server.get("/sub/").status_code == 200
        assert "mounted" in server.get("/sub/healthz/ready").json()["output"]
        assert server.log.count("Inngest Connect is not running") == 1
    assert not gateway.connections


def test_switched_off(gateway: LocalGateway) -> None:
    environ = {"INNGEST_CONNECT_ENABLED": "0", **gateway.environ}
    with Uvicorn(environ) as server:
        assert server.get("/").status_code == 200
        assert "INNGEST_CONNECT_ENABLED" in server.get("/healthz").json()["output"]
        server.signal(signal.SIGTERM)
        server.wait()
        assert "app: stopped" in server.log
        assert "not running" not in server.log
    assert not gateway.connections


def test_bad_configuration_fails_the_start_up(gateway: LocalGateway) -> None:
    with Uvicorn(gateway.environ, max_worker_concurrency=0) as server:
        assert server.wait() != 0
        assert "max_worker_concurrency must be at least 1" in server.log
        assert "Uvicorn running on" not in server.log


def test_a_start_up_that_waits_in_vain_fails() -> None:
    with Uvicorn({"INNGEST_DEV": "http://127.0.0.1:9"}, startup_timeout=0.5) as server:
        assert server.wait() != 0
        assert "within 0.5 seconds (startup_timeout)" in server.log
        assert "app: stopped" in server.log


# Its supervisor, for --workers: what docs/servers.md says of it


def version() -> tuple[int, ...]:
    return tuple(map(int, importlib.metadata.version("uvicorn").split(".")[:2]))


@pytest.mark.skipif(version() < (0, 37), reason="uvicorn 0.37 made it an option")
@pytest.mark.parametrize("limit", [1, 60])
def test_a_worker_that_keeps_the_gil_is_killed_after_the_healthchecks_timeout(
    gateway: LocalGateway, limit: int
) -> None:
    """In spite of process isolation, which keeps the connection alone alive."""
    arguments = ("--workers=2", f"--timeout-worker-healthcheck={limit}")
    with Uvicorn(gateway.environ, *arguments, isolation="process") as server:
        gateway.wait_for_worker(2, timeout=30)
        event_id = gateway.send("seize", {"seconds": 3})
        if limit == 1:
            server.wait_for_log("died")
            assert not gateway.received("WORKER_REPLY")
        else:
            assert gateway.wait_for_run(event_id, 30).attempts == 1
        server.signal(signal.SIGTERM)
        server.wait(30)


@pytest.mark.skipif(version() < (0, 50), reason="it was otherwise before uvicorn 0.50")
def test_a_start_up_that_fails_takes_the_other_workers_down(
    gateway: LocalGateway,
) -> None:
    with Uvicorn(gateway.environ, "--workers=2", startup_timeout=1) as server:
        gateway.wait_for_worker(2, timeout=30)
        gateway.api_down()
        os.kill(server.get("/").json()["pid"], signal.SIGKILL)
        server.wait_for_log("within 1 seconds (startup_timeout)")
        # And it calls that a success.
        assert server.wait(30) == 0
    assert "WORKER_SHUTDOWN" in [seen.reason for seen in closings(gateway)]


@pytest.mark.skipif(version() < (0, 51), reason="it was otherwise before uvicorn 0.51")
def test_a_restart_waits_no_longer_than_the_healthchecks_timeout(
    gateway: LocalGateway,
) -> None:
    arguments = ("--workers=2", "--timeout-worker-healthcheck=1")
    with Uvicorn(gateway.environ, *arguments, startup_timeout=30) as server:
        gateway.wait_for_worker(2, timeout=30)
        before = gateway.ready_connections
        gateway.api_down()
        server.signal(signal.SIGHUP)
        server.wait_for_log("was not ready in time")
        assert gateway.ready_connections == before
        server.signal(signal.SIGTERM)
        server.wait(30)
