"""The probe server's port, and what may be odd about uvicorn."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from inngest_connect_asgi.configuration import Configuration, Probe
from inngest_connect_asgi.health import embedded, probe
from inngest_connect_asgi.health.embedded import listen_on
from inngest_connect_asgi.health.probe import ProbeServer, start_probe
from inngest_connect_asgi.state import State
from inngest_connect_asgi.testing import LocalGateway

from .harness import off_loop, run, until, worker
from .scenarios.test_frameworks import noop
from .servers import free_port

IPV4, IPV6 = "127.0.0.1", "[::1]"
HAS_IPV6 = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


def configuration() -> Configuration:
    return Configuration((), "http://127.0.0.1:9", "web-1", "0.5.9")


class Lines(list[str]):
    def __call__(self, level: int, message: str) -> None:
        self.append(message)


@contextlib.asynccontextmanager
async def probing(host: str, port: int) -> AsyncIterator[tuple[ProbeServer, Lines]]:
    lines = Lines()
    server = start_probe(
        configuration(), Probe(host, port, "/healthz", True, None), lines
    )
    assert server is not None
    try:
        yield server, lines
    finally:
        await server.stop()


async def answers(host: str, port: int) -> bool:
    async with httpx.AsyncClient() as http:
        try:
            url = f"http://{host}:{port}/healthz/live"
            return (await http.get(url)).status_code == 200
        except httpx.TransportError:
            return False


# Addresses


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", {IPV4, IPV6}),
        ("0.0.0.0", {IPV4}),
        ("::", {IPV6}),
        ("127.0.0.1", {IPV4}),
        ("::1", {IPV6}),
    ],
)
def test_both_families_where_both_are_meant(host: str, expected: set[str]) -> None:
    async def main() -> None:
        port = free_port()
        async with probing(host, port) as (_, lines):
            await until(lambda: lines)
            (line,) = lines
            assert f"listens on {f'[{host}]' if ':' in host else host}:{port}/" in line
            assert ("IPv6" in line) == (IPV6 in expected)
            assert {each for each in (IPV4, IPV6) if await answers(each, port)} == (
                expected
            )
        assert not await answers(IPV4, port)
        assert not await answers(IPV6, port)

    run(main)


def test_a_name_is_looked_up_elsewhere() -> None:
    async def main() -> None:
        port = free_port()
        async with probing("localhost", port) as (_, lines):
            await until(lambda: lines)
            assert await answers("localhost", port)

    run(main)


def test_a_name_that_does_not_resolve_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "RETRY", 0.01)
    original, asked = socket.getaddrinfo, list[object]()

    def getaddrinfo(host: str | None, *arguments: Any, **options: Any) -> Any:
        if host == "pod-1" and not options["flags"] & socket.AI_NUMERICHOST:
            asked.append(host)
            if len(asked) < 3:
                raise socket.gaierror(socket.EAI_AGAIN, "not yet")
            host = IPV4
        return original(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        port = free_port()
        async with probing("pod-1", port) as (_, lines):
            await until(lambda: len(lines) == 2)
            assert "not yet" in lines[0]
            assert "now listens" in lines[1]
            assert await answers(IPV4, port)

    run(main)


@pytest.mark.parametrize(
    "number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL], ids=errno.errorcode.get
)
@pytest.mark.parametrize("missing", [socket.AF_INET, socket.AF_INET6])
def test_a_machine_without_one_of_them(
    monkeypatch: pytest.MonkeyPatch, missing: socket.AddressFamily, number: int
) -> None:
    port, original = free_port(), socket.create_server

    def create_server(
        address: Any, *, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        if family == missing:
            raise OSError(number, "no such thing here")
        return original(address, family=family)

    monkeypatch.setattr(socket, "create_server", create_server)

    async def main() -> None:
        async with probing("", port) as (_, lines):
            await until(lambda: lines)
            assert "listens" in lines[0]
            there = IPV6 if missing == socket.AF_INET else IPV4
            assert await answers(there, port)

    if missing == socket.AF_INET6 or HAS_IPV6:
        run(main)


@needs_ipv6
def test_all_of_the_port_or_none_of_it() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        both: Any = [
            (socket.AF_INET, ("0.0.0.0", port)),
            (socket.AF_INET6, ("::", port, 0, 0)),
        ]
        with pytest.raises(OSError, match="in use"):
            listen_on(both)
        # It let go of the other one.
        listen_on(both[:1])[0].close()


def test_an_address_of_no_such_machine_is_told() -> None:
    async def main() -> None:
        async with probing("192.0.2.1", free_port()) as (_, lines):
            await until(lambda: lines)
            assert "can't listen on 192.0.2.1" in lines[0]

    run(main)


# A port that is taken


@pytest.mark.parametrize("host", ["", IPV4])
def test_a_port_that_is_taken_is_listened_on_once_it_is_free(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(probe, "RETRY", 0.01)

    async def main() -> None:
        with socket.create_server((IPV4, 0)) as taken:
            port = taken.getsockname()[1]
            tries = count_tries(monkeypatch)
            async with probing(host, port) as (server, lines):
                await until(lambda: len(tries) > 3)
                # Told once, and not with every try.
                assert len(lines) == 1
                assert "can't listen" in lines[0]
                assert "tries again" in lines[0]
                server.observe(State("ready", at=1.0, requests_done=7))
                taken.close()
                await until(lambda: len(lines) == 2)
                assert "now listens on" in lines[1]
                async with httpx.AsyncClient() as http:
                    report = (await http.get(f"http://{IPV4}:{port}/healthz")).json()
                # It knows what happened in the meantime.
                assert report["checks"]["requests:done"] == [{"observedValue": 7}]

    run(main)


def test_whoever_waits_for_a_port_can_be_stopped() -> None:
    async def main() -> None:
        with socket.create_server((IPV4, 0)) as taken:
            port = taken.getsockname()[1]
            async with probing(IPV4, port) as (_, lines):
                await until(lambda: lines)
            assert len(lines) == 1
        assert not await answers(IPV4, port)

    run(main)


def count_tries(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    tries: list[object] = []
    original = embedded.listen_on

    def counted(addresses: Any) -> list[socket.socket]:
        tries.append(addresses)
        return original(addresses)

    monkeypatch.setattr(embedded, "listen_on", counted)
    return tries


def test_a_worker_that_drains_answers_until_it_is_gone(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    base = f"http://127.0.0.1:{port}/healthz"

    async def hold(ctx: object) -> str:
        await let_go.wait()
        return "done"

    let_go = asyncio.Event()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as first, httpx.AsyncClient() as http:
            await first.enter_async_context(worker(gateway, hold, probe=f":{port}"))
            await until(lambda: "probe server listens" in caplog.text)
            name = (await http.get(base)).json()["serviceId"]
            event_id = gateway.send("test")
            await off_loop(
                gateway.wait_until, lambda: gateway.received("WORKER_REQUEST_ACK")
            )
            second = worker(gateway, noop, probe=f"127.0.0.1:{port}")
            async with second:
                await until(lambda: "can't listen" in caplog.text)
                leaving = asyncio.ensure_future(first.aclose())
                await off_loop(
                    gateway.wait_until, lambda: gateway.received("WORKER_PAUSE")
                )
                answer = await http.get(base + "/ready")
                assert answer.status_code == 503
                assert "shutting down" in answer.json()["output"]
                assert (await http.get(base)).json()["serviceId"] == name
                let_go.set()
                await leaving
                await until(lambda: "now listens" in caplog.text)
                assert (await http.get(base)).json()["serviceId"] != name
                await off_loop(gateway.wait_for_run, event_id)

    run(main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to test without fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_of_the_process_does_not_hold_the_port() -> None:
    async def main() -> None:
        port = free_port()
        async with probing(IPV4, port) as (_, lines):
            await until(lambda: lines)
            pid = os.fork()
            if pid == 0:
                signal.pause()
            assert await answers(IPV4, port)
        try:
            socket.create_server((IPV4, port)).close()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    run(main)


# What is optional


def no_uvicorn(monkeypatch: pytest.MonkeyPatch) -> str:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "uvicorn":
            raise ImportError("no uvicorn here")
        return original(name, *arguments)

    monkeypatch.delitem(sys.modules, embedded.__name__)
    monkeypatch.setattr(builtins, "__import__", refuse)
    return "no uvicorn here"


def other_configuration(monkeypatch: pytest.MonkeyPatch) -> str:
    def config(app: object, **options: object) -> None:
        raise TypeError("no such option: ws")

    monkeypatch.setattr(uvicorn, "Config", config)
    return "no such option: ws"


def exits(monkeypatch: pytest.MonkeyPatch) -> str:
    def load(self: object) -> None:
        sys.exit("can't load it")

    monkeypatch.setattr(uvicorn.Config, "load", load)
    return "can't load it"


def late(monkeypatch: pytest.MonkeyPatch) -> str:
    async def start(self: object, *listeners: object) -> None:
        raise AttributeError("no such protocol")

    monkeypatch.setattr(embedded.EmbeddedServer, "start", start)
    return "no such protocol"


@pytest.mark.parametrize("odd", [no_uvicorn, other_configuration, exits, late])
def test_a_uvicorn_that_nobody_knows_is_left_out(
    gateway: LocalGateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    odd: Callable[[pytest.MonkeyPatch], str],
) -> None:
    """The gateway has one of its own, and so is there before."""

    async def main() -> None:
        reason = odd(monkeypatch)
        async with worker(gateway, noop, probe=f"127.0.0.1:{free_port()}"):
            ended = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert ended.output == "done"
            await until(lambda: reason in caplog.text)

    run(main)
    (line,) = [r.message for r in caplog.records if "left out" in r.message]
    assert "with uvicorn " in line


def test_metrics_that_fail_leave_health(monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus = pytest.importorskip("inngest_connect_asgi.prometheus")

    class Feed:
        def observe(self, message: object) -> None:
            raise ValueError("no such metric")

    monkeypatch.setattr(prometheus.ConnectMetrics, "begin", lambda *_: Feed())

    async def main() -> None:
        lines, port = Lines(), free_port()
        wanted = Probe(IPV4, port, "/healthz", True, None, metrics=True)
        server = start_probe(configuration(), wanted, lines)
        assert server is not None
        server.observe(State("ready"))
        server.observe(State("ready"))
        await until(lambda: len(lines) == 2)
        assert "/metrics is left out, with prometheus-client" in lines[0]
        assert await answers(IPV4, port)
        await server.stop()

    run(main)


@pytest.mark.parametrize("turns", range(8))
def test_what_is_accepted_as_it_stops_is_closed(turns: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def main() -> None:
        server = embedded.EmbeddedServer(app)
        listener = embedded.listen("127.0.0.1", 0)
        await server.start(listener)
        with socket.create_connection(listener.getsockname(), timeout=5) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.stop()
            with contextlib.suppress(ConnectionResetError):
                assert await off_loop(client.recv, 1) == b""

    run(main)
