"""Every server people run, as a real process: what uvicorn's tests show of uvicorn."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from collections.abc import Callable

import inngest
import pytest

from inngest_connect_asgi.runtime import Runtime
from inngest_connect_asgi.testing import LocalGateway

from .harness import closings, off_loop, worker
from .servers import Server, free_port

APP = "tests.server_app:app"


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


SERVERS = [uvicorn, uvloop, gunicorn, hypercorn, granian]
NEEDS: dict[Callable[[int, int], list[str]], str] = {
    gunicorn: "uvicorn_worker",
    gunicorn_preloaded: "uvicorn_worker",
}


def serve(
    make: Callable[[int, int], list[str]],
    gateway: LocalGateway,
    workers: int,
    **options: object,
) -> Server:
    if importlib.util.find_spec(NEEDS.get(make, make.__name__)) is None:
        pytest.skip(f"{make.__name__} is not installed: nothing was tested with it")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    return Server(make(workers, port), gateway.environ, url=url, **options)


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("make", SERVERS)
def test_one_worker(
    gateway: LocalGateway, make: Callable[[int, int], list[str]], isolation: str
) -> None:
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
def test_four_workers(
    gateway: LocalGateway, make: Callable[[int, int], list[str]]
) -> None:
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
    assert reasons == ["WORKER_SHUTDOWN"] * 4


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
