"""The runtime's shell alone, on the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from inngest_connect_asgi.configuration import Probe
from inngest_connect_asgi.messages import (
    Accepted,
    Adopt,
    Delivered,
    Drain,
    FromRuntime,
    Leave,
    Log,
    Ping,
    Pong,
    Request,
    Result,
    Start,
    Starved,
    Wanted,
)
from inngest_connect_asgi.protocol import watch
from inngest_connect_asgi.protocol.actions import (
    Abort,
    Close,
    Finish,
    Send,
    SendReply,
)
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.state import State
from inngest_connect_asgi.testing import LocalGateway

from ..harness import closings, off_loop, run, until
from ..servers import free_port
from ..simulation import DONE, configuration, frame, lease

M = TypeVar("M")


class App:
    """What a runtime has told, and the other half of its messages."""

    def __init__(self, **options: Any) -> None:
        self.told: list[FromRuntime] = []
        self.runtime = Runtime(self.told.append, **options)

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in self.told if isinstance(message, kind)]

    async def wait_for(self, kind: type[M], count: int = 1) -> M:
        await until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    def send(self, *messages: Any) -> None:
        self.runtime.receive(messages)


@contextlib.asynccontextmanager
async def running(
    gateway: LocalGateway, app: App | None = None, **options: object
) -> AsyncIterator[App]:
    """A runtime with a live connection, which is drained in the end."""
    app = app or App()
    start = Start(configuration(api_origin=gateway.origin, **options))
    task = asyncio.ensure_future(app.runtime.run(start))
    await off_loop(gateway.wait_for_worker)
    yield app
    app.send(Drain(0.0))
    await asyncio.wait_for(task, 10)


def test_a_request_and_its_reply(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with running(gateway) as app:
            sent = await off_loop(gateway.request, "app-f")
            request = await app.wait_for(Request)
            await app.wait_for(Accepted)
            app.send(Result(request.lease, DONE))
            delivered = await app.wait_for(Delivered)
            assert delivered.delivery == request.lease.delivery
            reply = await off_loop(sent.wait_for_reply)
            assert reply.body == DONE.body
        assert app.all(State)[-1].connection == "stopped"

    run(main)


def test_a_reply_that_finds_no_connection_is_flushed(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with running(gateway) as app:
            await off_loop(gateway.request, "app-f")
            request = await app.wait_for(Request)
            await app.wait_for(Accepted)
            gateway.faults.start = 500
            await off_loop(gateway.drop)
            await until(lambda: app.all(State)[-1].connection != "ready")
            result = Result(request.lease, DONE)
            app.send(result)
            await app.wait_for(Wanted)
            app.send(result)
            await app.wait_for(Delivered)
            assert gateway.requests("flush")
            gateway.faults.reset()

    run(main)


def test_the_apps_answers_reach_the_core(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with running(gateway) as app:
            ping = await app.wait_for(Ping)
            app.send(Pong(ping.number))
            await app.wait_for(Ping, 2)

    run(main)


def test_an_acknowledgement_waits_until_the_app_has_its_request(
    gateway: LocalGateway,
) -> None:
    waiting: list[Callable[[], None]] = []
    behind = True

    def defer(callback: Callable[[], None]) -> bool:
        if behind:
            waiting.append(callback)
        return behind

    async def main() -> None:
        nonlocal behind
        async with running(gateway, App(defer=defer)) as app:
            sent = await off_loop(gateway.request, "app-f")
            await app.wait_for(Request)
            await until(lambda: waiting)
            assert not gateway.received("WORKER_REQUEST_ACK")
            waiting.pop()()
            await off_loop(sent.wait_for_ack)
            await app.wait_for(Accepted)
            behind = False
            sent = await off_loop(gateway.request, "app-f")
            await off_loop(sent.wait_for_ack)

    run(main)


def test_it_drains_whenever_it_is_told_to(gateway: LocalGateway) -> None:
    async def main() -> None:
        start = Start(configuration(api_origin=gateway.origin))
        early = App()
        early.send(Pong(1), Drain(0.0))
        await asyncio.wait_for(early.runtime.run(start), 10)
        told = App()
        first = Start(start.configuration, drain=Drain(0.0))
        await asyncio.wait_for(told.runtime.run(first), 10)
        for app in (early, told):
            assert app.all(State)[-1].connection == "stopped"
            # Nobody is there any more.
            app.send(Result(lease("late"), DONE))

    run(main)


def test_a_start_call_that_hangs_holds_no_end(gateway: LocalGateway) -> None:
    gateway.faults.start = "hang"

    async def main() -> None:
        app = App()
        start = Start(configuration(api_origin=gateway.origin))
        task = asyncio.ensure_future(app.runtime.run(start))
        await until(lambda: app.runtime._starts)
        app.send(Drain(0.0))
        await asyncio.wait_for(task, 5)

    run(main)


def test_a_start_call_that_fails_is_a_lost_link(gateway: LocalGateway) -> None:
    async def main() -> None:
        app = App()
        start = Start(configuration(api_origin="http://127.0.0.1:1"))
        task = asyncio.ensure_future(app.runtime.run(start))
        await until(lambda: app.told and app.all(State)[-1].last_error is not None)
        app.send(Drain(0.0))
        await asyncio.wait_for(task, 5)

    run(main)


def test_a_connection_that_is_given_up_is_aborted(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with running(gateway) as app:
            await off_loop(gateway.freeze)
            await until(lambda: app.all(State)[-1].connection == "reconnecting")
            assert app.all(State)[-1].last_error == "the gateway answered no heartbeat"
            await off_loop(gateway.wait_for_worker)

    run(main)


def test_starvation_is_told(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STARVED_LIMIT", 0.05)

    async def main() -> None:
        async with running(gateway) as app:
            await app.wait_for(State)
            asyncio.get_running_loop().call_soon(time.sleep, 0.5)
            await app.wait_for(Starved)

    run(main)


def test_the_probe_answers_from_the_runtimes_loop(gateway: LocalGateway) -> None:
    def get(port: int) -> dict[str, Any]:
        url = f"http://127.0.0.1:{port}/healthz"
        with urllib.request.urlopen(url, timeout=5) as answer:
            report: dict[str, Any] = json.load(answer)
            return report

    async def main() -> None:
        probe = Probe("127.0.0.1", free_port(), "/healthz", True, None)
        async with running(gateway, probe=probe) as app:
            await off_loop(gateway.request, "app-f")
            request = await app.wait_for(Request)
            await app.wait_for(Accepted)
            app.send(Result(request.lease, DONE))
            await app.wait_for(Delivered)
            report = await off_loop(get, probe.port)
            assert report["status"] == "pass"

    run(main)


def test_what_is_for_a_link_that_is_no_more_is_for_nobody(
    gateway: LocalGateway,
) -> None:
    async def main() -> None:
        async with running(gateway) as app:
            app.send(Start(configuration()))
            for action in (Close(99, ""), Abort(99), Send(99, b"")):
                app.runtime._do(action)
            app.runtime.sent([SendReply(99, Result(lease("job"), DONE))])
            assert len(gateway.ready_connections) == 1
            app.runtime._do(Finish())
            app.runtime._do(Finish())

    run(main)


# Crashes


def crash_of(app: App, start: Start | None = None) -> BaseException:
    raised: list[BaseException] = []

    async def main() -> None:
        try:
            await asyncio.wait_for(
                app.runtime.run(
                    start or Start(configuration(api_origin="http://x.test:1"))
                ),
                10,
            )
        except BaseException as error:
            raised.append(error)

    run(main)
    return raised[0]


BOOM = RuntimeError("boom")


def fail(*_: object, **__: object) -> Any:
    raise BOOM


@pytest.mark.parametrize("where", ["start", "next_tick", "tick"])
def test_what_the_core_raises_is_a_crash(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Core, where, fail)
    assert crash_of(App()) is BOOM


@pytest.mark.parametrize("where", ["flush"])
def test_what_the_pipe_raises_is_a_crash(where: str) -> None:
    assert crash_of(App(**{where: fail})) is BOOM


def test_a_crash_at_the_start_is_no_matter_of_asyncios_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise ValueError("of its own")

    assert isinstance(crash_of(App(flush=fail)), ValueError)
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_what_comes_early_and_makes_no_sense_is_a_crash() -> None:
    app = App()
    app.runtime.receive(None)  # type: ignore[arg-type]
    assert isinstance(crash_of(app), TypeError)


def test_the_first_crash_counts() -> None:
    app = App()
    app.runtime.crash(BOOM)
    app.runtime.crash(ValueError("later"))
    assert crash_of(app) is BOOM


def test_a_crash_ends_it_from_its_loop(gateway: LocalGateway) -> None:
    async def main() -> None:
        app = App()
        start = Start(configuration(api_origin=gateway.origin))
        task = asyncio.ensure_future(app.runtime.run(start))
        await off_loop(gateway.wait_for_worker)
        app.runtime.crash(BOOM)
        app.runtime.crash(ValueError("later"))
        with pytest.raises(RuntimeError, match="boom"):
            await task
        await off_loop(gateway.wait_until, lambda: not gateway.ready_connections)

    run(main)


def request_frame(request_id: str) -> bytes:
    data = wire.GatewayExecutorRequestData(
        request_id=request_id, lease_id="l", app_name="app", function_slug="app-f"
    )
    return frame(wire.GATEWAY_EXECUTOR_REQUEST, data.SerializeToString())


async def crash_in_a_turn(gateway: LocalGateway, app: App) -> None:
    """Two requests are read at once, and something comes of that."""
    start = Start(configuration(api_origin=gateway.origin))
    task = asyncio.ensure_future(app.runtime.run(start))
    await off_loop(gateway.wait_for_worker)
    app.runtime.received(1, [request_frame("one"), request_frame("two")])
    with pytest.raises(RuntimeError, match="boom"):
        await task
    await off_loop(closings, gateway)


def test_nothing_is_acknowledged_once_it_has_crashed(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would run it, until its lease is over."""
    taken = Core.received

    def received(core: Core, link: int, data: bytes, now: float) -> Any:
        return fail() if b"two" in data else taken(core, link, data, now)

    async def main() -> None:
        app = App()
        monkeypatch.setattr(Core, "received", received)
        await crash_in_a_turn(gateway, app)
        assert len(app.all(Request)) == 1
        assert not gateway.received("WORKER_REQUEST_ACK")

    run(main)


def test_what_was_acknowledged_is_told_though_it_has_crashed(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = Core.sent

    def sent(core: Core, written: Send, now: float) -> Any:
        assert written.delivery is not None
        if written.delivery.request_id == "one":
            fail()
        return reported(core, written, now)

    async def main() -> None:
        app = App()
        monkeypatch.setattr(Core, "sent", sent)
        await crash_in_a_turn(gateway, app)
        acks = [seen.id for seen in gateway.received("WORKER_REQUEST_ACK")]
        assert acks == ["one", "two"]
        assert [each.delivery.request_id for each in app.all(Accepted)] == ["two"]

    run(main)


def test_heartbeats_go_on_while_there_is_more_to_read_in_every_turn(
    gateway: LocalGateway,
) -> None:
    async def main() -> None:
        runtime = Runtime(lambda message: None)
        start = Start(configuration(api_origin=gateway.origin))
        task = asyncio.ensure_future(runtime.run(start))
        flooding = True

        def flood() -> None:
            runtime.receive([])
            if flooding:
                asyncio.get_running_loop().call_soon(flood)

        await until(lambda: gateway.received("WORKER_HEARTBEAT"))
        flood()
        before = len(gateway.received("WORKER_HEARTBEAT"))
        try:
            await until(lambda: len(gateway.received("WORKER_HEARTBEAT")) > before + 3)
        finally:
            flooding = False
            runtime.receive([Drain(0.0)])
            await task

    run(main)


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_one_runtime_goes_on_with_what_another_leaves(gateway: LocalGateway) -> None:
    probe = Probe("127.0.0.1", free_port(), "/healthz", True, None)

    async def main() -> None:
        async with running(gateway, probe=probe) as old:
            sent = await off_loop(gateway.request, "app-f")
            request = await old.wait_for(Request)
            await old.wait_for(Accepted)
            new = App()
            options = configuration(api_origin=gateway.origin, probe=probe)
            begun = Start(options, beside=True)
            task = asyncio.ensure_future(new.runtime.run(begun))
            await off_loop(gateway.wait_for_worker, 2)
            old.send(Leave())
            await until(lambda: old.all(State)[-1].connection == "stopped")
            assert not [log for log in new.all(Log) if log.level > logging.INFO]
        # With the port of the other one.
        new.send(Adopt(requests=(request.lease,)), Result(request.lease, DONE))
        await new.wait_for(Delivered)
        await until(lambda: is_open(probe.port))
        assert (await off_loop(sent.wait_for_reply)).body == DONE.body
        new.send(Drain(0.0))
        await asyncio.wait_for(task, 10)

    run(main)
