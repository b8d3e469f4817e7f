"""The health endpoints: what they say in every state a worker can be in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import platform
import socket
import threading
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import httpx
import inngest
import pytest
from starlette.applications import Starlette

from inngest_connect_asgi import ConfigurationError, InngestConnectMiddleware
from inngest_connect_asgi.health import endpoints
from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.state import InFlight, State
from inngest_connect_asgi.testing import LocalGateway

from .harness import bare_app, lifespan, make_client, make_function, off_loop, run
from .servers import free_port

KEY = "signkey-test-" + "ab" * 16
OTHER_KEY = "signkey-test-" + "cd" * 16


# The judgement, by an artificial clock


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def make_health(wedge_timeout: float | None = 300.0) -> tuple[Health, Clock]:
    clock = Clock()
    health = Health({"instance_id": "i"}, wedge_timeout=wedge_timeout, clock=clock)
    return health, clock


def connected(clock: Clock, **changes: Any) -> State:
    defaults: dict[str, Any] = {
        "connection": "ready",
        "at": clock.now,
        "connected_at": clock.now - 60,
        "heartbeat_interval": 10.0,
        "heartbeat_sent_at": clock.now - 1,
        "heartbeat_answered_at": clock.now - 1,
        "round_trip": 0.02,
    }
    return State(**(defaults | changes))


def test_ready_while_heartbeats_are_answered() -> None:
    health, clock = make_health()
    assert health.ready().reason == "not connected yet"
    health.update(connected(clock))
    assert health.ready().healthy
    assert health.status() == "pass"


def test_a_silent_runtime_is_not_ready_whatever_it_said_last() -> None:
    health, clock = make_health()
    health.update(connected(clock))
    clock.now += 11
    assert not health.ready().healthy
    assert health.ready().reason == "no heartbeat was sent for 12.0 s"
    assert health.live().healthy


def test_a_clock_that_is_set_changes_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    health = Health(wedge_timeout=60)
    health.update(connected(Clock(), at=Clock.now, app_waiting_since=Clock.now))
    for time_of_day in (0.0, 1e10):
        monkeypatch.setattr(time, "time", lambda t=time_of_day: t)
        assert health.ready().healthy
        assert health.live().healthy
        assert 0 <= health.now() - Clock.now < 30
        checks = health.report(details=True)["checks"]
        assert 60 <= checks["connection:uptime"][0]["observedValue"] < 90


def test_samples_go_on_when_the_clock_is_set_back() -> None:
    health, clock = make_health()
    health.update(connected(clock))
    health.update(connected(clock, at=clock.now - 3600))
    assert len(health.samples) == 2


def test_a_worker_that_is_started_anew_has_not_crashed() -> None:
    health, _ = make_health()
    health.crash("Traceback")
    health.begin({})
    assert health.live().healthy


def test_an_answer_that_is_on_its_way_is_not_missing() -> None:
    health, clock = make_health()
    waiting = {
        "heartbeat_sent_at": clock.now,
        "heartbeat_answered_at": clock.now - 10,
        "heartbeats_unanswered": 1,
    }
    health.update(connected(clock, **waiting))
    assert health.ready().healthy
    clock.now += 2
    assert health.ready().reason == "no heartbeat was answered for 12.0 s"


def test_a_connection_without_a_first_answer_is_not_ready() -> None:
    health, clock = make_health()
    fresh = {"heartbeat_answered_at": None, "heartbeats_unanswered": 1}
    health.update(connected(clock, **fresh))
    assert health.ready().reason == "no heartbeat was answered yet"


@pytest.mark.parametrize(
    ("connection", "reason"),
    [
        ("draining", "the gateway is closing; moving to another one"),
        ("reconnecting", "the connection was lost; reconnecting: it broke"),
        ("stopping", "the app is shutting down"),
        ("stopped", "stopped"),
    ],
)
def test_every_other_state_is_not_ready_but_alive(connection: str, reason: str) -> None:
    health, clock = make_health()
    health.update(connected(clock, connection=connection, last_error="it broke"))
    verdict = health.ready()
    assert not verdict.healthy
    assert verdict.reason.startswith(reason)
    assert health.live().healthy
    assert health.status() == "warn"


def test_a_wedged_app_is_dead() -> None:
    health, clock = make_health(wedge_timeout=60)
    health.update(connected(clock, app_waiting_since=clock.now))
    assert health.live().healthy
    clock.now += 61
    assert health.live().reason == "the app's event loop has not answered for 61 s"
    assert health.status() == "fail"
    lag = health.report(details=True)["checks"]["app:lag"][0]
    assert (lag["observedValue"], lag["status"]) == (61, "fail")
    health.update(connected(clock, app_lag=61.0))
    assert health.live().healthy  # it answers again, if it took its time


def test_without_a_limit_an_app_is_never_wedged() -> None:
    health, clock = make_health(wedge_timeout=None)
    health.update(connected(clock, app_waiting_since=clock.now))
    clock.now += 100_000
    assert health.live().healthy


def test_a_runtime_that_is_given_up_is_dead() -> None:
    health, clock = make_health()
    health.update(connected(clock))
    health.crash("Traceback")
    assert not health.live().healthy
    assert not health.ready().healthy
    assert health.status() == "fail"
    assert "crashed" in health.report(details=True)["output"]


def test_the_report_has_all_that_one_asks_at_night() -> None:
    health, clock = make_health()
    running = InFlight("request", "run", "app-f", clock.now - 30)
    health.update(
        connected(
            clock,
            connection_id="01ABC",
            gateway_group="group",
            in_flight=(running,),
            requests_in_flight=1,
            replies_given_up=2,
            last_error="it broke",
            last_error_at=clock.now - 100,
        )
    )
    report = health.report(details=True)
    assert report["status"] == "pass"
    checks = {name: value[0] for name, value in report["checks"].items()}
    state = checks["connection:state"]
    assert (state["componentId"], state["gatewayGroup"]) == ("01ABC", "group")
    assert (state["lastError"], state["observedValue"]) == ("it broke", "ready")
    assert checks["connection:uptime"]["observedValue"] == 60
    assert checks["heartbeats:roundTrip"]["observedValue"] == 0.02
    assert checks["requests:oldest"]["observedValue"] == 30
    assert checks["replies:givenUp"]["observedValue"] == 2
    assert {name for name in checks if name.startswith("leases:")} == {
        "leases:held",
        "leases:extended",
        "leases:lost",
    }
    assert state["time"] == "1970-01-12T13:46:40.000Z"
    assert state["lastErrorTime"] == "1970-01-12T13:45:00.000Z"
    json.dumps(report)


def test_events_and_samples_are_kept_for_a_while() -> None:
    health, clock = make_health()
    for _ in range(2000):
        clock.now += 0.5
        health.update(connected(clock))
    assert len(health.events) == 1
    assert 590 <= len(health.samples) <= 610
    for _ in range(100):
        health.update(connected(clock, connection="reconnecting"))
        health.update(connected(clock))
    assert len(health.events) == 50


# The endpoints, over LocalGateway


class Probe:
    """Asks the endpoints of an app, without a server between."""

    def __init__(self, app: Any) -> None:
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://app.test"
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self._http.get(path, headers=headers)

    async def until(self, path: str, status: int, text: str = "") -> str:
        """Ask until the answer is as wanted; returns its reason."""
        deadline = time.monotonic() + 10
        while True:
            answer = await self.get(path)
            reason = str(answer.json().get("output"))
            if answer.status_code == status and text in reason:
                return reason
            assert time.monotonic() < deadline, (answer.status_code, reason)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def probed(
    gateway: LocalGateway, *handlers: Any, **options: Any
) -> AsyncIterator[Probe]:
    client = make_client(gateway)
    functions = [make_function(client, h, fn_id=h.__name__) for h in handlers]
    app = InngestConnectMiddleware(
        bare_app, client=client, functions=functions, **options
    )
    async with lifespan(app):
        yield Probe(app)


async def noop(ctx: inngest.Context) -> None:
    pass


def test_a_worker_that_never_connected(gateway: LocalGateway) -> None:
    gateway.faults.start = 503

    async def main() -> None:
        async with probed(gateway, noop) as probe:
            await probe.until("/healthz/ready", 503, "the start API answered 503")
            assert (await probe.get("/healthz/live")).status_code == 200
            report = await probe.get("/healthz")
            assert (report.status_code, report.json()["status"]) == (200, "warn")

    run(main)


def test_a_worker_that_is_connected(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with probed(gateway, noop, instance_id="web-1") as probe:
            await probe.until("/healthz/ready", 200)
            report = await probe.get("/healthz")
            assert report.headers["content-type"] == "application/health+json"
            assert report.headers["cache-control"] == "no-store"
            assert report.json()["status"] == "pass"
            assert report.json()["serviceId"] == "web-1"
            assert report.json()["version"] == version("inngest-connect-asgi")
            notes = report.json()["notes"]
            assert f"inngest {version('inngest')}" in notes
            assert f"python {platform.python_version()}" in notes
            interval = report.json()["checks"]["heartbeats:interval"][0]
            assert interval == {"observedValue": 0.2, "observedUnit": "s"}

    run(main)


def test_a_slow_gateway_shows_in_the_round_trip(gateway: LocalGateway) -> None:
    gateway.faults.delay = 0.1

    async def main() -> None:
        async with probed(gateway, noop) as probe:
            await probe.until("/healthz/ready", 200)
            checks = (await probe.get("/healthz")).json()["checks"]
            assert checks["heartbeats:roundTrip"][0]["observedValue"] >= 0.1
            delivery = gateway.request("app-noop")
            await off_loop(delivery.wait_for_reply)

    run(main)


def test_leases_that_ran_out_are_lost_in_the_report(gateway: LocalGateway) -> None:
    async def main() -> None:
        leave = asyncio.Event()

        async def hold(ctx: inngest.Context) -> None:
            await leave.wait()

        async with probed(gateway, hold) as probe:
            await off_loop(gateway.wait_for_worker)
            delivery = gateway.request("app-hold")
            await off_loop(gateway.wait_until, lambda: delivery.extensions)
            await off_loop(gateway.expire_leases)
            await off_loop(gateway.wait_until, lambda: delivery.nacks)
            while True:
                checks = (await probe.get("/healthz")).json()["checks"]
                if checks["leases:lost"][0]["observedValue"] == 1:
                    break
                await asyncio.sleep(0.02)
            assert checks["leases:held"][0]["observedValue"] == 0
            assert checks["leases:extended"][0]["observedValue"] >= 1
            leave.set()
            await off_loop(delivery.wait_for_reply)

    run(main)


def test_heartbeats_that_are_not_answered(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with probed(gateway, noop) as probe:
            await probe.until("/healthz/ready", 200)
            gateway.faults.mute = {"GATEWAY_HEARTBEAT"}
            await probe.until("/healthz/ready", 503)
            assert (await probe.get("/healthz/live")).status_code == 200
            gateway.faults.reset()
            await probe.until("/healthz/ready", 200)
            checks = (await probe.get("/healthz")).json()["checks"]
            assert checks["heartbeats:missed"][0]["observedValue"] >= 1
            assert checks["connection:reconnects"][0]["observedValue"] >= 1

    run(main)


def test_a_worker_whose_gateway_drains(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with probed(gateway, noop) as probe:
            await probe.until("/healthz/ready", 200)
            gateway.faults.start = 503
            await off_loop(gateway.drain)
            await probe.until("/healthz/ready", 503, "the gateway is closing")
            gateway.faults.reset()
            await probe.until("/healthz/ready", 200)

    run(main)


def test_a_worker_that_reconnects(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with probed(gateway, noop) as probe:
            await probe.until("/healthz/ready", 200)
            gateway.faults.start = 503
            await off_loop(gateway.drop)
            await probe.until("/healthz/ready", 503, "reconnecting")
            gateway.faults.reset()
            await probe.until("/healthz/ready", 200)

    run(main)


def test_a_worker_with_a_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with LocalGateway(signing_keys=(KEY,)) as gateway:
            for name, value in gateway.environ.items():
                monkeypatch.setenv(name, value)
            client = inngest.Inngest(app_id="app", signing_key=OTHER_KEY)
            app = InngestConnectMiddleware(
                bare_app, client=client, functions=[make_function(client, noop)]
            )
            async with lifespan(app):
                probe = Probe(app)
                await probe.until("/healthz/ready", 503, "rejected the signing key")
                text = (await probe.get("/healthz")).text
                text += (await probe.get("/healthz", accept="text/html")).text
            assert "rejected the signing key" in text
            assert "cdcd" not in text
            hashed = client_key(app)
            assert hashed not in text

    run(main)


def client_key(app: InngestConnectMiddleware) -> str:
    assert app._settings is not None
    key = app._settings.configuration().signing_key
    assert key is not None
    return key


def test_a_worker_that_shuts_down(gateway: LocalGateway) -> None:
    async def main() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold(ctx: inngest.Context) -> None:
            entered.set()
            await leave.wait()

        client = make_client(gateway)
        app = InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[make_function(client, hold, fn_id="hold")],
        )
        probe = Probe(app)

        async def serve() -> None:
            async with lifespan(app):
                await off_loop(gateway.wait_for_worker)
                gateway.request("app-hold")
                await entered.wait()

        serving = asyncio.ensure_future(serve())
        await probe.until("/healthz/ready", 503, "shutting down")
        assert (await probe.get("/healthz/live")).status_code == 200
        leave.set()
        await serving
        reason = await probe.until("/healthz/ready", 503)
        assert reason == "stopped"

    run(main)


def test_requests_in_flight_are_in_the_report(gateway: LocalGateway) -> None:
    async def main() -> None:
        leave = asyncio.Event()

        async def hold(ctx: inngest.Context) -> None:
            await leave.wait()

        async with probed(gateway, hold) as probe:
            await off_loop(gateway.wait_for_worker)
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            while True:
                checks = (await probe.get("/healthz")).json()["checks"]
                if checks["requests:inFlight"][0]["observedValue"] == 1:
                    break
                await asyncio.sleep(0.02)
            assert checks["requests:oldest"][0]["observedValue"] >= 0
            html = (await probe.get("/healthz", accept="text/html")).text
            assert "app-hold" in html
            leave.set()
            await off_loop(delivery.wait_for_reply)

    run(main)


# The endpoints, as such


@pytest.mark.parametrize("path", ["/healthz", "/healthz/live", "/healthz/ready"])
def test_get_and_head_and_nothing_else(path: str) -> None:
    async def main() -> None:
        app = InngestConnectMiddleware(Starlette(), enabled=False)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            got, head = await http.get(path), await http.head(path)
            assert got.status_code == head.status_code
            assert got.content
            assert not head.content
            assert got.headers["cache-control"] == "no-store"
            assert head.headers["cache-control"] == "no-store"
            assert (await http.post(path)).status_code == 405

    run(main)


def test_the_path_may_be_elsewhere_or_nowhere(gateway: LocalGateway) -> None:
    async def main() -> None:
        inner = Starlette()
        moved = Probe(
            InngestConnectMiddleware(inner, enabled=False, health_path="/status")
        )
        assert (await moved.get("/status/live")).status_code == 200
        assert (await moved.get("/healthz")).status_code == 404
        nowhere = Probe(
            InngestConnectMiddleware(inner, enabled=False, health_path=None)
        )
        assert (await nowhere.get("/healthz")).status_code == 404

    run(main)


@pytest.mark.parametrize(
    ("root_path", "path"),
    [
        ("/api", "/api/healthz/live"),
        ("/api", "/healthz/live"),
        ("/", "/healthz/live"),
        ("/health", "/healthz/live"),
        ("/health", "/health/healthz/live"),
    ],
)
def test_where_the_app_is_mounted_makes_no_difference(
    root_path: str, path: str
) -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(
            InngestConnectMiddleware(Starlette(), enabled=False), root_path=root_path
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            assert (await http.get(path)).status_code == 200
            assert (await http.get(f"/x{path}")).status_code == 404

    run(main)


def test_without_details_there_is_the_status_and_no_more(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with probed(gateway, noop, health_details=False) as probe:
            while (await probe.get("/healthz/ready")).status_code != 200:
                await asyncio.sleep(0.02)
            for path in ("/healthz", "/healthz/live", "/healthz/ready"):
                answer = await probe.get(path, accept="text/html")
                assert answer.json() == {"status": "pass"}

    run(main)


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_the_report_of_a_dead_worker_is_a_failure_to_whoever_asks(accept: str) -> None:
    async def main() -> None:
        health, _ = make_health()
        health.crash("Traceback")
        probe = Probe(endpoints.health_app(lambda: health, "/healthz", details=True))
        assert (await probe.get("/healthz", accept=accept)).status_code == 503

    run(main)


def test_switched_off_it_says_exactly_that() -> None:
    async def main() -> None:
        probe = Probe(InngestConnectMiddleware(Starlette(), enabled=False))
        answer = await probe.get("/healthz/ready")
        assert answer.status_code == 503
        assert answer.json()["output"].startswith("switched off")
        assert (await probe.get("/healthz/live")).status_code == 200
        html = (await probe.get("/healthz", accept="text/html")).text
        assert "switched off" in html

    run(main)


# The app's event loop, and the probe server


async def ask(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(f"http://127.0.0.1:{port}{path}")


def hold_up_the_loop(thread: threading.Thread) -> None:
    thread.join()


def test_the_probe_server_answers_while_the_apps_loop_is_held_up(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    answers: list[dict[str, Any]] = []

    def ask_from_elsewhere() -> None:
        """While the only thing that the app's loop does is wait for this."""
        deadline = time.monotonic() + 10
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            while time.monotonic() < deadline:
                assert http.get("/healthz/ready").status_code == 200
                assert http.get("/healthz/live").status_code == 200
                report = http.get("/healthz").json()
                answers.append(report)
                if report["checks"]["app:lag"][0]["observedValue"] > 1.2:
                    return
                time.sleep(0.05)

    async def main() -> None:
        options: dict[str, Any] = {"probe": f"127.0.0.1:{port}", "health_path": None}
        async with probed(gateway, noop, **options):
            await off_loop(gateway.wait_for_worker)
            while (await ask(port, "/healthz/ready")).status_code != 200:
                await asyncio.sleep(0.02)

            thread = threading.Thread(target=ask_from_elsewhere)
            thread.start()
            hold_up_the_loop(thread)
            await asyncio.sleep(0)
        with pytest.raises(httpx.ConnectError):
            await ask(port, "/healthz")

    run(main)
    assert answers[-1]["checks"]["app:lag"][0]["observedValue"] > 1.2
    (line,) = [r.message for r in caplog.records if "has not answered" in r.message]
    # Not only what the standard library does there.
    assert "it is in " in line
    assert f", called by hold_up_the_loop ({__file__}:" in line


def test_a_wedged_app_is_dead_until_it_answers(gateway: LocalGateway) -> None:
    port = free_port()

    def ask_until_dead() -> None:
        deadline = time.monotonic() + 10
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            while http.get("/healthz/live").status_code == 200:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            reason = http.get("/healthz/live").json()["output"]
            assert "event loop has not answered" in reason
            assert http.get("/healthz").status_code == 503
            reasons.append(reason)

    reasons: list[str] = []

    async def main() -> None:
        options: dict[str, Any] = {"probe": f"127.0.0.1:{port}", "wedge_timeout": 0.5}
        async with probed(gateway, noop, **options) as probe:
            await probe.until("/healthz/ready", 200)
            thread = threading.Thread(target=ask_until_dead)
            thread.start()
            hold_up_the_loop(thread)
            while (await ask(port, "/healthz/live")).status_code != 200:
                await asyncio.sleep(0.02)

    run(main)
    assert reasons


def test_a_stalled_app_takes_no_requests_until_it_answers(
    gateway: LocalGateway,
) -> None:
    async def main() -> None:
        async with probed(gateway, noop, stall_timeout=0.5) as probe:
            await probe.until("/healthz/ready", 200)
            first = gateway.ready_connections[-1]
            # The loop is this test's own, and waits for what only a stall brings.
            gateway.wait_until(lambda: first.phase == "paused")
            second = await off_loop(gateway.wait_for_worker)
            assert second is not first
            await probe.until("/healthz/ready", 200)
            delivery = gateway.request("app-noop")
            await off_loop(delivery.wait_for_reply)

    run(main)


def test_a_log_filter_that_raises_ends_no_other_line(
    gateway: LocalGateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Picky(logging.Filter):
        seen = 0

        def filter(self, record: logging.LogRecord) -> bool:
            self.seen += 1
            if self.seen == 1:
                raise ValueError
            return True

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    picky = Picky()
    logger = logging.getLogger("inngest_connect_asgi")
    logger.addFilter(picky)

    async def main() -> None:
        async with probed(gateway, noop) as probe:
            await probe.until("/healthz/ready", 200)
            await off_loop(gateway.drain)
            await off_loop(gateway.wait_until, lambda: len(gateway.connections) == 2)
            await probe.until("/healthz/ready", 200)

    try:
        run(main)
    finally:
        logger.removeFilter(picky)
    assert picky.seen > 1
    assert [r for r in caplog.records if r.name == logger.name]


def test_a_port_that_is_taken_is_a_warning(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            async with probed(gateway, noop, probe=f"127.0.0.1:{port}") as probe:
                await probe.until("/healthz/ready", 200)

    run(main)
    (line,) = [r.message for r in caplog.records if "can't listen" in r.message]
    assert "run one worker a container" in line


def test_the_probe_server_leaves_the_apps_logging_alone(
    gateway: LocalGateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    # Whatever another test has left it at.
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    port = free_port()

    async def main() -> None:
        async with probed(gateway, noop, probe=f"127.0.0.1:{port}") as probe:
            await probe.until("/healthz/ready", 200)
            assert (await ask(port, "/healthz")).status_code == 200

    run(main)
    assert logging.getLogger("uvicorn.access").propagate
    assert not [r for r in caplog.records if r.name.startswith("uvicorn")]
    assert f"listens on 127.0.0.1:{port}/healthz" in caplog.text


@pytest.mark.parametrize("address", ["8081", "host", ":port", ":70000", ""])
def test_a_probe_address_that_makes_no_sense(
    gateway: LocalGateway, address: str
) -> None:
    client = make_client(gateway)
    with pytest.raises(ConfigurationError, match="probe must be a port"):
        InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[make_function(client, noop)],
            probe=address,
        )
