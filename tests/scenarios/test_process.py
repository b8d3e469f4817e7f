"""The runtime in a process of its own: what it is proof against, and its end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import pathlib
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from typing import Any

import httpx
import inngest
import pytest

from inngest_connect_asgi import (
    ConfigurationError,
    InngestConnectMiddleware,
    StartupError,
    connect_worker,
    logs,
)
from inngest_connect_asgi.isolation import pipe
from inngest_connect_asgi.isolation.far_end import LogForwarder
from inngest_connect_asgi.messages import Accepted, FromRuntime, Log, Request
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.taking import Taking
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import State
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.testing.router import Delivery
from inngest_connect_asgi.worker.outcomes import MAX_BODY_SIZE
from inngest_connect_asgi.worker.service import Worker

from ..harness import (
    bare_app,
    close_http,
    closings,
    lifespan,
    make_client,
    make_function,
    off_loop,
    run,
    until,
    worker,
)
from ..hosts import ISOLATIONS, the_interpreter
from ..processes import (
    children,
    descriptors,
    environment,
    own_memory,
    peak_memory,
    the_child,
    wait_gone,
)
from ..servers import Metronome, Uvicorn, free_port, silence

KEY = "signkey-test-" + "ab" * 16


async def noop(ctx: inngest.Context) -> str:
    return "done"


async def replaced(gateway: LocalGateway) -> None:
    """Wait until a second connection is there for the first."""
    await off_loop(
        gateway.wait_until,
        lambda: len(gateway.connections) == 2 and gateway.ready_connections,
    )


def call_request(data: dict[str, object]) -> bytes:
    """The body of a request whose event has this data."""
    event = {"name": "test", "data": data, "id": "e", "ts": 1}
    events = [{**event, "data": {}}]
    ctx = {
        "attempt": 0,
        "disable_immediate_execution": False,
        "run_id": "run",
        "stack": {"stack": [], "current": 0},
    }
    payload = {"ctx": ctx, "event": event, "events": events, "steps": {}}
    return json.dumps({**payload, "use_api": False}).encode()


# What it is


def test_it_imports_no_more_than_it_needs() -> None:
    code = "import sys, inngest_connect_asgi.isolation.child; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(result.stdout.split())
    assert "websockets.asyncio.client" in modules
    assert not modules & {"inngest", "pydantic", "fastapi", "starlette", "uvicorn"}


def test_it_is_small(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with worker(gateway, noop, isolation="process"):
            assert own_memory(the_child()) < 40e6

    run(main)


def test_no_secret_is_in_its_arguments_or_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host")
    monkeypatch.setenv("wss_proxy", "http://user:password@127.0.0.1:9")

    async def main() -> None:
        with LocalGateway(signing_keys=(KEY,)) as gateway:
            for name, value in gateway.environ.items():
                monkeypatch.setenv(name, value)
            client = inngest.Inngest(app_id="app", logger=None)
            app = InngestConnectMiddleware(
                bare_app,
                client=client,
                functions=[make_function(client, noop)],
                isolation="process",
            )
            async with lifespan(app):
                await off_loop(gateway.wait_for_worker)
                seen = environment(the_child())
                assert app._settings is not None
                hashed = app._settings.configuration().signing_key
            assert "inngest_connect_asgi.isolation.child" in seen
            assert hashed is not None
            for secret in (KEY, "ab" * 16, hashed, "password", "INNGEST"):
                assert secret not in seen
            await close_http(client)

    run(main)


def test_it_has_none_of_its_parents_descriptors(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    async def main() -> None:
        with (tmp_path / "open").open("w") as file, socket.socket() as mine:
            os.set_inheritable(file.fileno(), True)
            os.set_inheritable(mine.fileno(), True)
            ours = {
                name
                for name in descriptors(os.getpid()).values()
                if name.startswith(("/", "socket:", "pipe:"))
            }
            async with worker(gateway, noop, isolation="process"):
                theirs = descriptors(the_child())
        assert str(tmp_path / "open") in ours
        # Standard error is the parent's, on purpose.
        shared = ours & set(theirs.values())
        assert shared <= {"/dev/null", theirs[2]}

    run(main)


def test_its_log_records_come_out_of_the_apps_logging(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with worker(gateway, noop, isolation="process"):
            await off_loop(gateway.drop)
            await replaced(gateway)

    run(main)
    records = {record.getMessage(): record for record in caplog.records}
    connected = records["Connected to Inngest"]
    assert (connected.name, connected.levelno) == ("inngest_connect_asgi", logging.INFO)
    assert connected.__dict__["connection_id"] == gateway.connections[-1].id
    lost = next(text for text in records if text.startswith("Lost the connection"))
    assert records[lost].levelno == logging.WARNING
    assert any(r.name == "httpx" for t, r in records.items() if "connect/start" in t)


def test_a_log_record_crosses_whole_and_as_plain_data() -> None:
    told: queue.SimpleQueue[FromRuntime] = queue.SimpleQueue()
    log = logging.getLogger("of the child")
    log.propagate = False
    log.setLevel(logging.DEBUG)
    log.addHandler(handler := LogForwarder(told.put))
    handler.setFormatter(logging.Formatter("%(message)s"))
    extra = {"attempt": 3, "url": "ws://a", "reason": None, "socket": object()}
    log.debug("opened %s", "it", extra=extra)
    try:
        raise ZeroDivisionError("of mine")
    except ZeroDivisionError:
        log.exception("it broke")
    opened, broke = (pickle.loads(pickle.dumps(told.get_nowait())) for _ in range(2))
    plain = {"attempt": 3, "url": "ws://a", "reason": None}
    made = opened.at
    assert opened == Log(logging.DEBUG, "opened it", plain, "of the child", made)
    assert isinstance(made, float)
    assert (broke.level, broke.name) == (logging.ERROR, "of the child")
    first, *rest = broke.message.splitlines()
    assert (first, rest[-1]) == ("it broke", "ZeroDivisionError: of mine")


def test_a_log_record_bears_the_time_at_which_it_was_made() -> None:
    record = logs.record(logging.INFO, "of the child", at=1000000000.25)
    formatter = logging.Formatter("%(asctime)s")
    formatter.converter = time.gmtime
    assert formatter.format(record) == "2001-09-09 01:46:40,250"
    assert record.relativeCreated < 0


def test_a_log_record_that_is_wrong_hurts_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: queue.SimpleQueue[FromRuntime] = queue.SimpleQueue()
    record = logging.makeLogRecord({"msg": "%d", "args": ("no number",)})
    LogForwarder(told.put).handle(record)
    assert told.empty()
    assert "Logging error" in capsys.readouterr().err


# What it is proof against


@pytest.fixture
def slow_gateway() -> Any:
    with LocalGateway(
        heartbeat_interval="1s", extend_lease_interval="1s", lease_duration=4.0
    ) as gateway:
        yield gateway


def check_nothing_was_missed(
    gateway: LocalGateway, since: float, until: float, lateness: float
) -> None:
    beats = gateway.received("WORKER_HEARTBEAT")
    assert silence(beats, since, until) < 1.2 + lateness
    assert not [seen for seen in gateway.seen if seen.event == "lease"]
    assert len(gateway.connections) == 1


@pytest.mark.parametrize("isolation", ISOLATIONS[1:])
def test_native_code_that_keeps_the_gil(
    slow_gateway: LocalGateway, isolation: str
) -> None:
    gateway = slow_gateway
    with Uvicorn(gateway.environ, isolation=isolation), Metronome() as metronome:
        gateway.wait_for_worker()
        since = time.monotonic()
        event_id = gateway.send("seize", {"seconds": 8})
        ended = gateway.wait_for_run(event_id, 50)
        until = time.monotonic()
    assert (ended.status, ended.attempts) == ("completed", 1)
    assert until - since > 8
    check_nothing_was_missed(gateway, since, until, metronome.lateness)
    extensions = gateway.received("WORKER_REQUEST_EXTEND_LEASE")
    assert len(extensions) >= int(until - since) - 1 - metronome.lateness


def test_in_a_thread_such_code_is_told_of_once_with_the_cure(
    slow_gateway: LocalGateway,
) -> None:
    gateway = slow_gateway
    with Uvicorn(gateway.environ, isolation="thread") as server:
        gateway.wait_for_worker()
        for _ in range(2):
            gateway.wait_for_run(gateway.send("seize", {"seconds": 2}), 30)
        server.wait_for_log("got no time to run for")
        server.wait_for_log('isolation="process" keeps the connection out of reach')
        assert server.log.count("got no time to run for") == 1


def test_eight_functions_that_compute_at_once(slow_gateway: LocalGateway) -> None:
    gateway = slow_gateway
    environ = {**gateway.environ, "INNGEST_THREAD_POOL_MAX_WORKERS": "8"}
    with Uvicorn(environ, isolation="process"), Metronome() as metronome:
        gateway.wait_for_worker()
        since = time.monotonic()
        ids = [gateway.send("crunch", {"seconds": 5}) for _ in range(8)]
        runs = [gateway.wait_for_run(event_id, 50) for event_id in ids]
        until = time.monotonic()
    assert {ended.status for ended in runs} == {"completed"}
    check_nothing_was_missed(gateway, since, until, metronome.lateness)


@pytest.mark.parametrize("isolation", ISOLATIONS[1:])
def test_a_probe_is_answered_while_the_gil_is_held(
    slow_gateway: LocalGateway, isolation: str
) -> None:
    gateway = slow_gateway
    port = free_port()
    options = {"isolation": isolation, "probe": f"127.0.0.1:{port}"}
    base = f"http://127.0.0.1:{port}/healthz"
    with Uvicorn(gateway.environ, **options) as server, httpx.Client() as http:
        gateway.wait_for_worker()
        server.wait_for_status("/healthz/ready", 200)
        event_id = gateway.send("seize", {"seconds": 3})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        answers = 0
        while gateway.runs[-1].status == "running":
            assert http.get(f"{base}/ready").status_code == 200
            assert http.get(f"{base}/live").status_code == 200
            answers += 1
        assert gateway.wait_for_run(event_id).status == "completed"
        assert answers > 5


@pytest.mark.timeout(120)
def test_fifty_large_requests_and_replies_at_once(slow_gateway: LocalGateway) -> None:
    """As large as a reply may be, and a request that brings as much."""
    gateway = slow_gateway
    size, count = MAX_BODY_SIZE - 2, 50
    memory = []

    async def echo(ctx: inngest.Context) -> object:
        return ctx.event.data["text"]

    async def main() -> None:
        payload = call_request({"text": "x" * size})
        async with worker(gateway, echo, isolation="process"):
            child = the_child()
            memory.append(own_memory(child))
            since = time.monotonic()
            deliveries = [
                await off_loop(gateway.request, "app-echo", payload)
                for _ in range(count)
            ]
            for delivery in deliveries:
                reply = await off_loop(delivery.wait_for_reply, 90)
                assert reply.status == wire.DONE
                assert len(reply.body) == MAX_BODY_SIZE
            ended = time.monotonic()
            memory.append(peak_memory(child))
            # Nothing of them is kept, once the gateway has the last reply.
            await until(lambda: own_memory(child) < memory[0] + 3 * size)
        # The gateway shares this process with the functions, and notes some late.
        times = [seen.time for seen in gateway.received("WORKER_HEARTBEAT")]
        assert len([t for t in times if since < t < ended]) >= (ended - since) // 3
        assert not [seen for seen in gateway.seen if seen.event == "lease"]
        assert len(gateway.connections) == 1

    run(main)
    before, peak = memory
    # Each payload once on its way in and once on its way out, at the very most.
    assert peak - before < 2 * count * size


# Its life and death


def test_killed_with_twenty_runs_in_flight_it_loses_none(
    gateway: LocalGateway,
) -> None:
    async def main() -> None:
        leave = asyncio.Event()
        calls = 0

        async def hold(ctx: inngest.Context) -> str:
            nonlocal calls
            calls += 1
            await leave.wait()
            return "done"

        async with worker(gateway, hold, isolation="process"):
            deliveries = [gateway.request("app-hold") for _ in range(20)]
            # A request that is acknowledged, but has not reached the app yet, would
            # be the server's to send again once its lease has run out.
            await until(lambda: calls == 20)
            first = the_child()
            os.kill(first, signal.SIGKILL)
            # Half of them end while nobody is there to send their replies.
            await off_loop(wait_gone, first, 5)
            leave.set()
            for delivery in deliveries:
                assert (await off_loop(delivery.wait_for_reply, 15)).status == wire.DONE
            assert the_child() != first
        assert calls == 20
        assert set(gateway.executions.values()) == {1}
        assert set(gateway.replies) == {d.request_id for d in deliveries}

    run(main)


async def beats(gateway: LocalGateway, count: int) -> None:
    """Wait for so many heartbeats."""
    before = len(gateway.received("WORKER_HEARTBEAT"))
    await off_loop(
        gateway.wait_until,
        lambda: len(gateway.received("WORKER_HEARTBEAT")) >= before + count,
    )


def test_nothing_is_acknowledged_that_has_not_left_the_child(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = threading.Event()
    reading = Worker._tell

    def tell(worker: Worker, message: FromRuntime) -> None:
        if isinstance(message, Request):
            read.wait()
        reading(worker, message)

    monkeypatch.setattr(Worker, "_tell", tell)

    async def main(gateway: LocalGateway) -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> None:
            nonlocal calls
            calls += 1

        def send(request_id: str | None = None) -> Delivery:
            payload = call_request({"x": "x" * pipe.PIPE_SIZE})
            return gateway.request("app-count", payload, request_id=request_id)

        async with worker(gateway, count, isolation="process"):
            first = the_child()
            # Alone, lest it wait for room with the others that it came with.
            sent = [send()]
            try:
                await off_loop(sent[0].wait_for_ack)
                sent += [send() for _ in range(7)]
                # It has read the requests before it sends the second of these.
                await beats(gateway, 2)
                os.kill(first, signal.SIGKILL)
                await off_loop(wait_gone, first, 5)
            finally:
                read.set()
            await replaced(gateway)
            assert not all(each.acked_by for each in sent)
            for each in sent:
                # Of one that it had just acknowledged, the app may not have heard.
                if not each.acked_by or each.request.run_id in caplog.text:
                    send(each.request_id)
                assert (await off_loop(each.wait_for_reply, 15)).status == wire.DONE
        assert calls == len(sent)

    with LocalGateway(heartbeat_interval="200ms") as gateway:
        run(lambda: main(gateway))


@pytest.mark.parametrize("fails_on", [Request, Accepted, State])
def test_what_a_child_has_said_is_heard_whatever_the_app_fails_on(
    monkeypatch: pytest.MonkeyPatch, fails_on: type
) -> None:
    """All is acknowledged, and in the pipe, when the app's side fails on a message."""
    read = threading.Event()
    reading = Worker._tell
    failed = False

    def tell(worker: Worker, message: FromRuntime) -> None:
        nonlocal failed
        if isinstance(message, Request):
            read.wait()
        if read.is_set() and isinstance(message, fails_on) and not failed:
            failed = True
            raise RuntimeError("of the app's side")
        reading(worker, message)

    monkeypatch.setattr(Worker, "_tell", tell)

    async def main(gateway: LocalGateway) -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> None:
            nonlocal calls
            calls += 1

        async with worker(gateway, count, isolation="process"):
            sent = [gateway.request("app-count") for _ in range(20)]
            try:
                for each in sent:
                    await off_loop(each.wait_for_ack)
                # Of the last, it has said so before it sends the second of these.
                await beats(gateway, 2)
            finally:
                read.set()
            await replaced(gateway)
            for each in sent:
                assert (await off_loop(each.wait_for_reply, 15)).status == wire.DONE
        assert calls == len(sent)
        assert failed

    with LocalGateway(heartbeat_interval="200ms", lease_duration=60.0) as gateway:
        run(lambda: main(gateway))


def test_a_new_child_takes_over_the_leases(gateway: LocalGateway) -> None:
    async def main() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold(ctx: inngest.Context) -> str:
            entered.set()
            await leave.wait()
            return "done"

        async with worker(gateway, hold, isolation="process"):
            event_id = gateway.send("test")
            await entered.wait()
            os.kill(the_child(), signal.SIGKILL)
            await replaced(gateway)
            second = gateway.ready_connections[-1]
            await off_loop(
                gateway.wait_until,
                lambda: gateway.received("WORKER_REQUEST_EXTEND_LEASE", second),
            )
            leave.set()
            ended = await off_loop(gateway.wait_for_run, event_id)
            assert (ended.status, ended.attempts) == ("completed", 1)
        assert set(gateway.executions.values()) == {1}

    run(main)


def test_a_new_child_runs_nothing_that_is_over(gateway: LocalGateway) -> None:
    async def main() -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> None:
            nonlocal calls
            calls += 1

        async with worker(gateway, count, isolation="process"):
            delivery = gateway.request("app-count")
            await off_loop(delivery.wait_for_reply)
            os.kill(the_child(), signal.SIGKILL)
            await replaced(gateway)
            gateway.request("app-count", request_id=delivery.request_id)
            await off_loop(gateway.wait_until, lambda: len(delivery.acked_by) == 2)
            other = gateway.request("app-count")
            await off_loop(other.wait_for_reply)
        assert calls == 2

    run(main)


def test_a_thread_that_crashes_is_replaced_and_loses_nothing(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = crash_once(monkeypatch)

    async def main() -> None:
        leave = asyncio.Event()
        calls = 0

        async def hold(ctx: inngest.Context) -> str:
            nonlocal calls
            calls += 1
            await leave.wait()
            return "done"

        async with worker(gateway, hold, isolation="thread"):
            deliveries = [gateway.request("app-hold") for _ in range(20)]
            await until(lambda: calls == 20)
            crash.set()
            await off_loop(gateway.wait_until, lambda: not crash.is_set())
            leave.set()
            for delivery in deliveries:
                assert (await off_loop(delivery.wait_for_reply, 15)).status == wire.DONE
        assert set(gateway.executions.values()) == {1}

    run(main)


def crash_once(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that ends a runtime in a thread of the tests' own process when set."""
    crash = threading.Event()
    original = Core.tick

    def tick(self: Core, now: float) -> Any:
        if crash.is_set():
            crash.clear()
            raise RuntimeError("a bug")
        return original(self, now)

    monkeypatch.setattr(Core, "tick", tick)
    return crash


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_one_that_dies_during_shutdown_is_replaced_and_loses_nothing(
    isolation: str, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = crash_once(monkeypatch)

    async def main() -> None:
        leave = asyncio.Event()

        async def hold(ctx: inngest.Context) -> str:
            await leave.wait()
            return "done"

        async def die() -> None:
            paused = gateway.received
            await off_loop(gateway.wait_until, lambda: paused("WORKER_PAUSE"))
            if isolation == "process":
                os.kill(the_child(), signal.SIGKILL)
            elif isolation == "interpreter":
                the_interpreter().kill()
            else:
                crash.set()
            # The next one takes no requests either.
            await off_loop(gateway.wait_until, lambda: len(paused("WORKER_PAUSE")) == 2)
            leave.set()

        async with worker(gateway, hold, isolation=isolation, shutdown_timeout=20.0):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            dying = asyncio.ensure_future(die())
        await dying
        assert delivery.reply is not None
        assert delivery.reply.status == wire.DONE
        assert closings(gateway)[-1].reason == "WORKER_SHUTDOWN"

    run(main)


def test_what_it_leaves_when_it_is_not_replaced_is_named(
    gateway: LocalGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crash = crash_once(monkeypatch)
    monkeypatch.setattr("inngest_connect_asgi.isolation.supervisor.MAX_CRASHES", 1)

    async def main() -> None:
        async def hold(ctx: inngest.Context) -> None:
            await asyncio.Event().wait()

        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            crash.set()
            await until(lambda: "No runtime is left" in caplog.text)
        (named,) = [r for r in caplog.records if "No runtime is left" in r.message]
        assert vars(named)["request_id"] == delivery.request_id
        assert delivery.request.run_id in named.message

    run(main)


def test_one_that_dies_as_it_takes_a_request_leaves_it_to_the_server(
    gateway: LocalGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    acknowledged = Taking.acknowledged

    def die(taking: Taking, *args: Any) -> None:
        monkeypatch.setattr(Taking, "acknowledged", acknowledged)
        raise RuntimeError("a bug, between the acknowledgement and its accounting")

    async def main() -> None:
        calls = 0

        async def count(ctx: inngest.Context) -> str:
            nonlocal calls
            calls += 1
            return "done"

        async with worker(gateway, count, isolation="thread"):
            monkeypatch.setattr(Taking, "acknowledged", die)
            delivery = gateway.request("app-count")
            await off_loop(delivery.wait_for_ack)
            await until(lambda: "died as it took a request" in caplog.text, 15)
        # Its lease is extended whether or not the server has the acknowledgement.
        assert (calls, delivery.extensions, delivery.replies) == (0, 0, 0)

    run(main)


def test_after_ten_deaths_in_a_row_it_gives_up_and_live_fails(
    gateway: LocalGateway,
    isolation: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for place in ("launch", "interpreter"):
        monkeypatch.setattr(
            f"inngest_connect_asgi.isolation.{place}.ENTRY", "there_is_no_such_module"
        )
    monkeypatch.setattr(Core, "start", None)
    # How long each delay is, the supervisor's tests say.
    monkeypatch.setattr(
        "inngest_connect_asgi.isolation.supervisor.RESPAWN_FIRST", 0.001
    )
    monkeypatch.setattr("inngest_connect_asgi.isolation.supervisor.RESPAWN_CAP", 0.001)

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        app = InngestConnectMiddleware(bare_app, client=client, functions=functions)
        transport = httpx.ASGITransport(app)
        async with (
            lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://a") as http,
        ):
            await until(lambda: "will not be started again" in caplog.text)
            assert (await http.get("/healthz/live")).status_code == 503
            assert (await http.get("/healthz")).json()["status"] == "fail"
        async with connect_worker(client, functions) as worker:
            with pytest.raises(StartupError, match="crashed"):
                await worker.ready()
        await close_http(client)

    run(main)
    errors = [r for r in caplog.records if "The Connect runtime crashed" in r.message]
    assert [r.levelno for r in errors] == ([logging.ERROR] * 9 + [logging.CRITICAL]) * 2


def test_while_it_is_gone_the_worker_is_not_ready(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inngest_connect_asgi.isolation.supervisor.RESPAWN_FIRST", 60.0)
    monkeypatch.setattr("inngest_connect_asgi.isolation.supervisor.RESPAWN_CAP", 60.0)

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        async with connect_worker(client, functions, isolation="process") as worker:
            await worker.ready()
            await until(lambda: worker.health()["status"] == "pass")
            os.kill(the_child(), signal.SIGKILL)
            await until(lambda: "the runtime crashed" in worker.health()["output"])
            assert worker.health()["status"] == "warn"
        await close_http(client)

    run(main)


@pytest.mark.timeout(120)
def test_stopped_and_killed_with_a_full_pipe_it_is_replaced_every_time() -> None:
    """Of the replies that wait for its pipe, none is lost."""
    rounds, count = 4, 2

    async def main(gateway: LocalGateway) -> None:
        go = threading.Event()
        entered = threading.Semaphore(0)

        def large(ctx: inngest.ContextSync) -> str:
            entered.release()
            go.wait()
            return "x" * (MAX_BODY_SIZE - 2)

        def has_connected(times: int) -> bool:
            return len(gateway.connections) == times and bool(gateway.ready_connections)

        async with worker(gateway, large, isolation="process"):
            for number in range(1, rounds + 1):
                go.clear()
                deliveries = [gateway.request("app-large") for _ in range(count)]
                for _ in deliveries:
                    assert await off_loop(entered.acquire, timeout=20)
                child = the_child()
                os.kill(child, signal.SIGSTOP)
                go.set()
                await until(partial(is_full, child))
                os.kill(child, signal.SIGKILL)
                replaced = partial(has_connected, number + 1)
                await off_loop(gateway.wait_until, replaced, 20)
                for each in deliveries:
                    reply = await off_loop(each.wait_for_reply, 30)
                    assert len(reply.body) == MAX_BODY_SIZE
        assert set(gateway.executions.values()) == {1}

    # Which of the pipes is full only the host knows.
    def is_full(child: int) -> bool:
        return any(
            not select.select([], [fd], [], 0)[1]
            for fd, name in descriptors(os.getpid()).items()
            if name.startswith("pipe:") and name in descriptors(child).values()
            if is_for_writing(fd)
        )

    with LocalGateway(heartbeat_interval="200ms", lease_duration=60.0) as gateway:
        run(lambda: main(gateway))


def is_for_writing(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


def test_one_that_hangs_is_replaced_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("inngest_connect_asgi.isolation.ear.SILENCE", 5.0)

    async def main(gateway: LocalGateway) -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold(ctx: inngest.Context) -> str:
            entered.set()
            await leave.wait()
            return "done"

        async with worker(gateway, hold, isolation="process"):
            delivery = gateway.request("app-hold")
            await entered.wait()
            os.kill(the_child(), signal.SIGSTOP)
            await off_loop(
                gateway.wait_until,
                lambda: len(gateway.connections) == 2 and gateway.ready_connections,
                30,
            )
            leave.set()
            reply = await off_loop(delivery.wait_for_reply, 15)
            assert reply.status == wire.DONE
        assert "said nothing for 5 s; it was killed" in caplog.text
        assert set(gateway.executions.values()) == {1}

    with LocalGateway(heartbeat_interval="200ms", lease_duration=60.0) as gateway:
        run(lambda: main(gateway))


def test_killed_with_its_parent_alive_to_a_fork_it_is_gone(
    gateway: LocalGateway,
) -> None:
    """A fork of the parent keeps the pipe open, and must not keep the child."""
    with Uvicorn(gateway.environ, isolation="process", fork=True) as server:
        gateway.wait_for_worker()
        server.wait_for_log("forked: ")
        fork = int(server.log.partition("forked: ")[2].split()[0])
        try:
            (child,) = [pid for pid in children(server.pid) if pid != fork]
            with Metronome() as metronome:
                server.signal(signal.SIGKILL)
                took = wait_gone(child, 10)
            assert took < 1.0 + metronome.lateness
        finally:
            os.kill(fork, signal.SIGKILL)


def test_when_its_parent_is_killed_it_is_gone(gateway: LocalGateway) -> None:
    with Uvicorn(gateway.environ, isolation="process") as server:
        connection = gateway.wait_for_worker()
        child = the_child(server.pid)
        with Metronome() as metronome:
            server.signal(signal.SIGKILL)
            took = wait_gone(child, 10)
        assert took < 1.0 + metronome.lateness
        gateway.wait_until(lambda: connection.phase == "closed")


def test_ctrl_c_reaches_the_whole_group_and_the_run_ends_well(
    gateway: LocalGateway,
) -> None:
    with Uvicorn(gateway.environ, isolation="process") as server:
        gateway.wait_for_worker()
        child = the_child(server.pid)
        event_id = gateway.send("wait", {"seconds": 2})
        gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
        os.killpg(server.pid, signal.SIGINT)
        os.kill(child, signal.SIGINT)  # as if it were in the group
        os.kill(child, signal.SIGTERM)
        ended = gateway.wait_for_run(event_id)
        server.wait()
        wait_gone(child, 5)
    assert (ended.status, ended.attempts) == ("completed", 1)
    (closed,) = closings(gateway)
    assert closed.reason == "WORKER_SHUTDOWN"


def test_a_package_that_was_upgraded_beneath_it_says_so(
    gateway: LocalGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("inngest_connect_asgi.isolation.ear.VERSION", 0)

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        app = InngestConnectMiddleware(
            bare_app, client=client, functions=functions, isolation="process"
        )
        async with lifespan(app):
            await until(lambda: "upgraded beneath a running app" in caplog.text)

    run(main)


def test_several_web_workers_have_a_child_each(gateway: LocalGateway) -> None:
    arguments = ("--workers", "2")
    with Uvicorn(gateway.environ, *arguments, isolation="process") as server:
        gateway.wait_for_worker(2, timeout=30)
        assert len({c.instance_id for c in gateway.ready_connections}) == 2
        server.signal(signal.SIGTERM)
        server.wait()
    reasons = [seen.reason for seen in closings(gateway)]
    assert reasons == ["WORKER_SHUTDOWN"] * 2


def test_a_script_without_an_import_guard(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import inngest
            import uvicorn
            from inngest_connect_asgi import InngestConnectMiddleware

            print("run as", __name__, flush=True)
            client = inngest.Inngest(app_id="app", logger=None)

            @client.create_function(
                fn_id="noop", trigger=inngest.TriggerEvent(event="noop")
            )
            async def noop(ctx):
                return "done"

            async def app(scope, receive, send):
                raise NotImplementedError

            app = InngestConnectMiddleware(app, client=client, functions=[noop])
            uvicorn.run(app, port=0)
            """
        )
    )
    # Not the script's directory, and so not on its path; nor on the child's.
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    if sys.version_info >= (3, 11):
        (directory / "websockets.py").write_text("raise SystemExit('a stranger')")
    process = subprocess.Popen(
        [sys.executable, script],
        env={
            **os.environ,
            **gateway.environ,
            "INNGEST_CONNECT_ISOLATION": "process",
        },
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            gateway.wait_for_worker()
            ended = gateway.wait_for_run(gateway.send("noop"))
            assert ended.output == "done"
            process.send_signal(signal.SIGTERM)
        except BaseException:
            process.kill()
            raise
        assert process.stdout is not None
        output = process.stdout.read()
    assert output.count("run as") == 1


SCRIPT = """
import asyncio, os, sys, inngest

sys.path.insert(0, "")  # as uvicorn does
os.rmdir(os.getcwd())
from inngest_connect_asgi import connect_worker

client = inngest.Inngest(app_id="app", logger=None)

async def noop(ctx):
    pass

trigger = inngest.TriggerEvent(event="noop")
functions = [client.create_function(fn_id="noop", trigger=trigger)(noop)]

async def main():
    async with connect_worker(client, functions, isolation="process") as worker:
        await worker.ready(20)

asyncio.run(main())
"""


def test_it_survives_that_its_working_directory_was_removed(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "release"
    directory.mkdir()
    subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **gateway.environ},
        cwd=directory,
        check=True,
    )
    assert not directory.exists()


@pytest.mark.parametrize("how", ["frozen", "", None, "/there/is/none"])
def test_a_frozen_program_is_told_what_it_can_not_have(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", how)
    client = make_client(gateway)
    functions = [make_function(client, noop)]
    with pytest.raises(ConfigurationError, match="frozen"):
        InngestConnectMiddleware(
            bare_app, client=client, functions=functions, isolation="process"
        )
