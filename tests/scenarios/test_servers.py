"""Every server people run, as a real process: what uvicorn's tests show of uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import inngest
import pytest
from uvicorn import Config

from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.testing import LocalGateway

from ..harness import closings, off_loop, worker
from ..hosts import ISOLATIONS
from ..servers import Server, free_port

APP = "tests.server_app:app"
PLAIN = "tests.plain_app:plain"

Command = Callable[[int, int], list[str]]
"""Of a server, for so many workers on a port."""


def uvicorn(workers: int, port: int) -> list[str]:
    return ["uvicorn", APP, f"--port={port}", f"--workers={workers}"]


def uvloop(workers: int, port: int) -> list[str]:
    return [*uvicorn(workers, port), "--loop=uvloop"]


def gunicorn(workers: int, port: int) -> list[str]:
    worker_class = "uvicorn_worker.UvicornWorker"
    return [
        "gunicorn",
        APP,
        f"--worker-class={worker_class}",
        f"--workers={workers}",
        f"--bind=127.0.0.1:{port}",
    ]


def gunicorn_asgi(workers: int, port: int) -> list[str]:
    """With the ASGI worker of its own, which it has from version 24 on."""
    return [
        "gunicorn",
        APP,
        "--worker-class=asgi",
        f"--workers={workers}",
        f"--bind=127.0.0.1:{port}",
    ]


def gunicorn_preloaded(workers: int, port: int) -> list[str]:
    return [*gunicorn(workers, port), "--preload"]


def hypercorn(workers: int, port: int) -> list[str]:
    return ["hypercorn", APP, f"--workers={workers}", f"--bind=127.0.0.1:{port}"]


def granian(workers: int, port: int) -> list[str]:
    return [
        "granian",
        APP,
        "--interface=asgi",
        f"--workers={workers}",
        f"--port={port}",
    ]


SERVERS = [uvicorn, uvloop, gunicorn, gunicorn_asgi, hypercorn, granian]
NEEDS: dict[Command, str] = {
    gunicorn: "uvicorn_worker",
    gunicorn_asgi: "gunicorn.workers.gasgi",
    gunicorn_preloaded: "uvicorn_worker",
}


def serve(
    make: Command,
    gateway: LocalGateway,
    workers: int,
    *arguments: str,
    app: str = APP,
    **options: object,
) -> Server:
    for module in (make.__name__.partition("_")[0], NEEDS.get(make)):
        if module is not None and not is_installed(module):
            pytest.skip(f"{module} is not installed: nothing was tested with it")
    port = free_port()
    words = [app if word == APP else word for word in make(workers, port)]
    command = [*words, *arguments]
    return Server(command, gateway.environ, url=f"http://127.0.0.1:{port}", **options)


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # Not even what it would be in.
        return False


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("make", SERVERS)
def test_one_worker(gateway: LocalGateway, make: Command, isolation: str) -> None:
    with serve(make, gateway, 1, isolation=isolation) as server:
        gateway.wait_for_worker(timeout=30)
        server.wait_for_status("/healthz/ready", 200)
        pid = server.get("/").json()["pid"]
        assert gateway.wait_for_run(gateway.send("noop")).output == pid
        event_id = gateway.send("wait", {"seconds": 1})
        gateway.wait_until(lambda: len(gateway.received("WORKER_REQUEST_ACK")) == 2)
        server.signal(signal.SIGTERM)
        run = gateway.wait_for_run(event_id)
        server.wait(30)
    assert (run.status, run.output, run.attempts) == ("completed", "waited", 1)
    (closed,) = closings(gateway)
    assert (closed.code, closed.reason) == (1000, "WORKER_SHUTDOWN")
    assert server.log.index("app: started") < server.log.index("app: stopped")
    assert "Traceback" not in server.log


@pytest.mark.parametrize("make", SERVERS)
def test_four_workers(gateway: LocalGateway, make: Command) -> None:
    with serve(make, gateway, 4) as server:
        gateway.wait_for_worker(4, timeout=40)
        assert len({c.instance_id for c in gateway.ready_connections}) == 4
        pids = set()
        for connection in gateway.ready_connections:
            delivery = gateway.request("app-noop", connection=connection)
            pids.add(delivery.wait_for_reply(10).body)
        assert len(pids) == 4
        server.signal(signal.SIGTERM)
        server.wait(40)
    reasons = [seen.reason for seen in closings(gateway)]
    assert len(reasons) == 4
    if make is hypercorn:
        # Those that have not ended when the first one has are killed.
        assert "WORKER_SHUTDOWN" in reasons
    else:
        assert reasons == ["WORKER_SHUTDOWN"] * 4


def test_hypercorn_ends_every_worker_with_the_first(gateway: LocalGateway) -> None:
    with serve(hypercorn, gateway, 2) as server:
        gateway.wait_for_worker(2, timeout=40)
        gateway.send("wait", {"seconds": 20})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        (busy,) = {seen.connection for seen in gateway.received("WORKER_REQUEST_ACK")}
        server.signal(signal.SIGTERM)
        server.wait(15)
    reasons = {seen.connection: seen.reason for seen in closings(gateway)}
    assert reasons.pop(busy) == ""
    assert list(reasons.values()) == ["WORKER_SHUTDOWN"]


def test_gunicorn_with_the_app_loaded_before_it_forks(gateway: LocalGateway) -> None:
    """Nothing may have been started, or be shared, by then."""
    with serve(gunicorn_preloaded, gateway, 2, isolation="process") as server:
        gateway.wait_for_worker(2, timeout=40)
        assert len({c.instance_id for c in gateway.ready_connections}) == 2
        assert gateway.wait_for_run(gateway.send("noop")).status == "completed"
        server.signal(signal.SIGTERM)
        server.wait(40)
    reasons = [seen.reason for seen in closings(gateway)]
    assert reasons == ["WORKER_SHUTDOWN"] * 2


def test_daphne_has_no_lifespan_and_it_says_so(gateway: LocalGateway) -> None:
    pytest.importorskip("daphne", reason="nothing was tested with daphne")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Made when it is imported, as asgi.py makes it.
    command = ["daphne", f"--port={port}", "tests.server_app:wrapped"]
    with Server(command, gateway.environ, url=url) as server:
        server.wait_for_log("Listening on TCP")
        server.wait_for_log("Inngest Connect is not running")
        assert server.get("/").status_code == 404
        answer = server.get("/healthz/ready")
        assert answer.status_code == 503
        assert "connect_worker" in answer.json()["output"]
        assert server.log.count("Inngest Connect is not running") == 1
    assert not gateway.connections


def test_under_uvloop_the_runtime_has_a_loop_of_asyncio(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvloop = pytest.importorskip("uvloop", reason="nothing was tested with uvloop")
    loops = []
    original = Runtime.run

    async def run(self: Runtime, *args: object) -> None:
        loops.append(asyncio.get_running_loop())
        await original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Runtime, "run", run)

    async def noop(ctx: inngest.Context) -> str:
        return type(asyncio.get_running_loop()).__module__

    async def main() -> None:
        async with worker(gateway, noop):
            run = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert run.output == "uvloop"

    uvloop.run(main())
    assert isinstance(loops[0], asyncio.SelectorEventLoop)


# What does not start


@pytest.mark.parametrize("lifespan", ["with", "without"])
@pytest.mark.parametrize("make", [uvicorn, gunicorn, gunicorn_asgi, hypercorn, granian])
def test_a_start_that_fails_ends_the_server(
    gateway: LocalGateway, make: Command, lifespan: str
) -> None:
    """Or it would serve on without a worker, and without a word."""
    app = APP if lifespan == "with" else PLAIN
    with serve(make, gateway, 1, app=app, no_threads=True) as server:
        server.wait(30)
    reason = "the Connect worker could not be started: RuntimeError: can't start new"
    assert f"Inngest Connect is not running: {reason}" in server.log
    # In the server's words, too.
    assert server.log.count(reason) > 1
    assert not gateway.connections


# The servers' own clocks: what docs/servers.md says of them


def wait_for_disconnection(gateway: LocalGateway) -> None:
    """Without its having been asked for: the process was killed."""
    gateway.wait_until(lambda: not gateway.ready_connections, 30)
    assert not gateway.received("WORKER_PAUSE")


# From 3.12.1 on asyncio waits for connections before hypercorn looks at its clock.
ENDS_STREAMS = [(uvicorn, "--timeout-graceful-shutdown=1")]
ENDS_NO_STREAM: list[tuple[Command, tuple[str, ...]]] = [(uvicorn, ()), (granian, ())]
if sys.version_info < (3, 12, 1):
    ENDS_STREAMS.append((hypercorn, "--graceful-timeout=1"))
else:
    ENDS_NO_STREAM.append((hypercorn, ("--graceful-timeout=1",)))


@pytest.mark.parametrize(("make", "option"), ENDS_STREAMS)
def test_a_limit_for_open_streams_lets_the_worker_drain(
    gateway: LocalGateway, make: Command, option: str
) -> None:
    with serve(make, gateway, 1, option) as server, contextlib.ExitStack() as stack:
        gateway.wait_for_worker(timeout=30)
        server.wait_for_status("/", 200)
        open_stream(server, stack)
        event_id = gateway.send("wait", {"seconds": 3})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        server.signal(signal.SIGTERM)
        gateway.wait_until(lambda: gateway.received("WORKER_PAUSE"))
        assert gateway.wait_for_run(event_id).output == "waited"
        server.wait(30)
    (closed,) = closings(gateway)
    assert closed.reason == "WORKER_SHUTDOWN"


@pytest.mark.parametrize(("make", "options"), ENDS_NO_STREAM)
def test_an_open_stream_holds_the_shutdown_back(
    gateway: LocalGateway, make: Command, options: tuple[str, ...]
) -> None:
    with serve(make, gateway, 1, *options) as server, contextlib.ExitStack() as stack:
        gateway.wait_for_worker(timeout=30)
        server.wait_for_status("/", 200)
        open_stream(server, stack)
        server.signal(signal.SIGTERM)
        # It does not listen any more, and yet its worker knows of nothing.
        wait_until_refused(server)
        assert gateway.wait_for_run(gateway.send("wait", {"seconds": 1})).attempts == 1
        assert not gateway.received("WORKER_PAUSE")
        stack.close()
        server.wait(30)
    (closed,) = closings(gateway)
    assert closed.reason == "WORKER_SHUTDOWN"


@pytest.mark.parametrize("make", [gunicorn, gunicorn_asgi])
def test_gunicorn_kills_what_streams_for_longer_than_its_graceful_timeout(
    gateway: LocalGateway, make: Command
) -> None:
    with (
        serve(make, gateway, 1, "--graceful-timeout=1") as server,
        contextlib.ExitStack() as stack,
    ):
        gateway.wait_for_worker(timeout=30)
        server.wait_for_status("/", 200)
        open_stream(server, stack)
        server.signal(signal.SIGTERM)
        server.wait(30)
        wait_for_disconnection(gateway)


def open_stream(server: Server, stack: contextlib.ExitStack) -> None:
    http = stack.enter_context(httpx.Client(base_url=server.url))
    answer = stack.enter_context(http.stream("GET", "/events"))
    events = answer.iter_text()
    assert next(events).startswith("data:")
    # An iterator that is let go of closes the stream.
    stack.callback(lambda: events)


def wait_until_refused(server: Server) -> None:
    deadline = time.monotonic() + 20
    with contextlib.suppress(httpx.TransportError):
        while server.get("/").status_code == 200:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("make", [gunicorn, gunicorn_asgi])
def test_gunicorns_timeout_ends_the_drain_of_a_worker_that_is_replaced(
    gateway: LocalGateway, make: Command
) -> None:
    arguments = ("--max-requests=2", "--timeout=2", "--graceful-timeout=60")
    with serve(make, gateway, 1, *arguments) as server:
        first = gateway.wait_for_worker(timeout=30)
        gateway.send("wait", {"seconds": 30})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        for _ in range(3):
            # The last one may come too late.
            with suppress(httpx.HTTPError):
                server.get("/")
        gateway.wait_until(lambda: gateway.received("WORKER_PAUSE"))
        server.wait_for_log("WORKER TIMEOUT")
        gateway.wait_until(lambda: first.phase == "closed")
        (run,) = gateway.runs
        assert run.status == "running"
        assert gateway.wait_for_worker(timeout=30) is not first


def test_gunicorns_timeout_ends_a_worker_whose_loop_is_held_up(
    gateway: LocalGateway,
) -> None:
    with serve(gunicorn, gateway, 1, "--timeout=2", isolation="process") as server:
        first = gateway.wait_for_worker(timeout=30)
        gateway.send("busy", {"seconds": 30})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        server.wait_for_log("WORKER TIMEOUT")
        gateway.wait_until(lambda: first.phase == "closed")
        assert not gateway.received("WORKER_REPLY")


@pytest.mark.parametrize("make", [granian, hypercorn])
def test_a_limit_for_the_apps_shutdown_ends_a_drain(
    gateway: LocalGateway, make: Command, tmp_path: pathlib.Path
) -> None:
    option = "--workers-kill-timeout=1"
    if make is hypercorn:
        file = tmp_path / "hypercorn.toml"
        file.write_text("shutdown_timeout = 1\n")
        option = f"--config={file}"
    with serve(make, gateway, 1, option, shutdown_timeout=60) as server:
        gateway.wait_for_worker(timeout=30)
        gateway.send("wait", {"seconds": 50})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        server.signal(signal.SIGTERM)
        gateway.wait_until(lambda: gateway.received("WORKER_PAUSE"))
        # Long before the function ends, or shutdown_timeout.
        server.wait(30)
    (run,) = gateway.runs
    assert run.status == "running"


@pytest.mark.parametrize("make", [gunicorn, uvicorn, granian])
def test_a_reload_hands_the_probes_port_over(
    gateway: LocalGateway, make: Command
) -> None:
    """The new worker starts while the old one has the port, and drains."""
    if make is uvicorn and not hasattr(Config("a:b"), "timeout_worker_healthcheck"):
        pytest.skip("before 0.37 uvicorn does so in its own time, or never")
    port = free_port()
    # uvicorn has a supervisor only for several.
    workers = 2 if make is uvicorn else 1
    # Or the new worker has five seconds to start up.
    patience = ["--timeout-worker-healthcheck=30"] if make is uvicorn else []
    with serve(make, gateway, workers, *patience, probe=f":{port}") as server:
        gateway.wait_for_worker(workers, timeout=30)
        before = list(gateway.connections)
        first = instance(port)
        run = gateway.send("wait", {"seconds": 3})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        server.signal(signal.SIGHUP)
        assert gateway.wait_for_run(run, 30).attempts == 1
        gateway.wait_until(lambda: all(each.phase == "closed" for each in before), 30)
        gateway.wait_for_worker(workers, timeout=30)
        # The old one lets go of it behind its connection.
        deadline = time.monotonic() + 20
        while instance(port) == first:
            assert time.monotonic() < deadline
        server.signal(signal.SIGTERM)
        server.wait(40)


def instance(port: int) -> str:
    """Which worker answers the probe, as soon as one does."""
    deadline = time.monotonic() + 20
    while True:
        try:
            report = httpx.get(f"http://127.0.0.1:{port}/healthz").json()
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return str(report["serviceId"])
