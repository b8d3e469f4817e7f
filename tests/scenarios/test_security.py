"""What a hostile network can not do, and what is never written down."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import os
import pathlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import inngest
import pytest

from inngest_connect_asgi import connect_worker
from inngest_connect_asgi.messages import (
    Drain,
    FromRuntime,
    Log,
    Outcome,
    Result,
    Start,
    Undelivered,
    Wanted,
)
from inngest_connect_asgi.protocol import link
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.runtime import api, gateway_socket
from inngest_connect_asgi.runtime.gateway_socket import MAX_MESSAGE_SIZE
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.state import State
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.client import hash_signing_key

from ..harness import close_http, make_client, make_function, off_loop, run, until
from ..hostile import Behaviour, HostileServer, answer, drops, endless, tunnel
from ..hosts import the_interpreter
from ..processes import children
from ..simulation import DONE, configuration, lease
from ..ways import Authority, last_error

KEY = "signkey-test-" + "5e" * 7 + "c4e7" * 5
OTHER_KEY = "signkey-test-" + "0b5c" * 8


async def noop(ctx: inngest.Context) -> str:
    return "done"


# TLS


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def cloud() -> Iterator[LocalGateway]:
    """A gateway that wants a key."""
    with LocalGateway(
        heartbeat_interval="200ms", extend_lease_interval="100ms", signing_keys=(KEY,)
    ) as gateway:
        yield gateway


def production(origin: str, key: str = KEY) -> inngest.Inngest:
    return inngest.Inngest(
        app_id="app",
        api_base_url=origin,
        event_api_base_url=origin,
        is_production=True,
        signing_key=key,
        event_key="event",
        logger=None,
    )


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("what", ["api", "gateway", "name"])
def test_a_server_that_is_not_trusted_is_not_spoken_to(
    cloud: LocalGateway,
    authority: Authority,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if what == "name":
        # Trusted, but somebody else's.
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    tls = authority.server("elsewhere.test" if what == "name" else "127.0.0.1")

    async def main() -> None:
        with (
            tunnel(cloud.api_port, tls) as api_port,
            tunnel(cloud.gateway_port, tls) as gateway_port,
        ):
            cloud._server.api.gateway_url = f"wss://127.0.0.1:{gateway_port}/v0/connect"
            origin = f"https://127.0.0.1:{api_port}"
            client = production(cloud.origin if what == "gateway" else origin)
            async with connect_worker(
                client, [make_function(client, noop, fn_id="noop")]
            ) as worker:
                await until(lambda: "certificate verify failed" in last_error(worker))
                who = "gateway" if what == "gateway" else "start API"
                assert who in last_error(worker)
            await close_http(client)
        assert not cloud.connections
        assert bool(cloud.requests("start")) == (what == "gateway")

    run(main)


@pytest.mark.usefixtures("isolation")
def test_an_authority_of_ones_own_is_trusted_where_the_environment_names_it(
    cloud: LocalGateway, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    tls = authority.server()

    async def main() -> None:
        with (
            tunnel(cloud.api_port, tls) as api_port,
            tunnel(cloud.gateway_port, tls) as gateway_port,
        ):
            cloud._server.api.gateway_url = f"wss://127.0.0.1:{gateway_port}/v0/connect"
            client = production(f"https://127.0.0.1:{api_port}")
            async with connect_worker(
                client, [make_function(client, noop, fn_id="noop")]
            ) as worker:
                await worker.ready(20)
                await off_loop(cloud.wait_for_worker)
                delivery = cloud.request("app-noop")
                reply = await off_loop(delivery.wait_for_reply)
                assert reply.status == wire.DONE
            await close_http(client)

    run(main)


# Limits


class Shell:
    """A runtime alone, and what it tells."""

    def __init__(self, origin: str, results: tuple[Result, ...] = ()) -> None:
        self.told: list[FromRuntime] = []
        self._results = {result.lease.delivery: result for result in results}
        self._start = Start(
            configuration(api_origin=origin),
            undelivered=tuple(
                Undelivered(result.lease, len(result.outcome.body))
                for result in results
            ),
        )
        self._runtime = Runtime(self._tell)

    def _tell(self, message: FromRuntime) -> None:
        self.told.append(message)
        if isinstance(message, Wanted):
            result = self._results[message.delivery]
            asyncio.get_running_loop().call_soon(self._runtime.receive, [result])

    async def __aenter__(self) -> Shell:
        self._task = asyncio.ensure_future(self._runtime.run(self._start))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._runtime.receive([Drain(0.0)])
        await self._task

    @property
    def last_error(self) -> str:
        states = [each for each in self.told if isinstance(each, State)]
        return str(states[-1].last_error) if states else ""

    @property
    def log(self) -> str:
        return "\n".join(each.message for each in self.told if isinstance(each, Log))


BOMB = gzip.compress(bytes(64 * 1024 * 1024))
OK = b"HTTP/1.1 200 OK\r\n"


def silent(connection: socket.socket, head: bytes) -> None:
    connection.recv(1)


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (answer(BOMB, "Content-Encoding: gzip"), "compressed"),
        (answer(BOMB, "content-encoding: br, GZIP"), "compressed"),
        (endless(OK + b"\r\n", b"x" * 65536), "too long"),
        (endless(OK + b"X-A: ", b"x" * 65536), "RemoteProtocolError"),
        (endless(OK, b"X-A: x\r\n" * 1000), "RemoteProtocolError"),
        (drops(OK + b"\r\n"), "timed out while starting"),
        (drops(OK, b"X-A: x\r\n"), "timed out while starting"),
        (silent, "timed out while starting"),
        (answer(status="307 Temporary Redirect"), "answered 307"),
    ],
)
def test_the_start_api_can_not_fill_the_memory_or_hold_up_the_worker(
    start: Behaviour, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(link.TIMEOUTS, link.Phase.STARTING, 1.0)

    async def main() -> None:
        with HostileServer(silent, start=start) as server:
            async with Shell(server.origin) as shell:
                await until(lambda: error in shell.last_error)
                await until(lambda: server.starts >= 2)

    run(main)


def test_answers_are_asked_for_as_they_are() -> None:
    asked: list[bytes] = []

    def start(connection: socket.socket, head: bytes) -> None:
        asked.append(head)

    async def main() -> None:
        with HostileServer(silent, start=start) as server:
            async with Shell(server.origin):
                await until(lambda: asked)

    run(main)
    lines = asked[0].lower().split(b"\r\n")
    assert [each for each in lines if each.startswith(b"accept-encoding")] == [
        b"accept-encoding: identity"
    ]


@pytest.mark.parametrize(
    ("flush", "error"),
    [
        (answer(BOMB, "Content-Encoding: gzip"), "compressed"),
        (endless(OK + b"\r\n", b"x" * 65536), "too long"),
        (drops(OK + b"\r\n"), "TimeoutError"),
    ],
)
def test_the_flush_api_can_not_keep_a_reply(
    flush: Behaviour, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "HTTP_TIMEOUT", 0.5)

    async def main() -> None:
        def serve(connection: socket.socket, head: bytes) -> None:
            (flush if b"/v0/connect/flush" in head else silent)(connection, head)

        with HostileServer(serve) as server:
            async with Shell(server.origin, (Result(lease("r"), DONE),)) as shell:
                await until(lambda: error in shell.log)
                # And it is tried again.
                await until(lambda: sum(b"flush" in head for head in server.heads) >= 2)

    run(main)


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"


@pytest.mark.parametrize(
    ("upgrade", "error"),
    [
        # What is over a limit is thrown away, until the time is up.
        (endless(SWITCHING, b"X-A: x\r\n" * 1000), "timed out while opening"),
        (endless(SWITCHING + b"X-A: ", b"x" * 65536), "timed out while opening"),
        (endless(b"", b"x" * 65536), "timed out while opening"),
        (drops(SWITCHING, b"X-A: x\r\n"), "timed out while opening"),
        (drops(b"HTTP/1.1 503 No\r\n\r\n"), "timed out while opening"),
        (endless(b"HTTP/1.1 503 No\r\n\r\n", b"x" * 65536), "timed out while opening"),
        (silent, "timed out while opening"),
        (
            answer(BOMB, "Content-Encoding: gzip", status="503 No"),
            "the gateway answered 503",
        ),
        (
            answer(
                b"",
                "Upgrade: websocket",
                "Connection: Upgrade",
                status="101 Switching Protocols",
            ),
            "the gateway could not be reached",
        ),
    ],
)
def test_the_upgrade_can_not_fill_the_memory_or_hold_up_the_worker(
    upgrade: Behaviour, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(link.TIMEOUTS, link.Phase.OPENING, 1.0)

    async def main() -> None:
        with HostileServer(upgrade) as server:
            async with Shell(server.origin) as shell:
                await until(lambda: error in shell.last_error)
                await until(lambda: len(server.heads) >= 2)

    run(main)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("target", ["itself", "another", "plain"])
def test_a_gateway_that_points_elsewhere_is_not_followed(
    target: str, secure: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    tls = authority.server() if secure else None

    async def main() -> None:
        other = HostileServer(silent, tls=None if target == "plain" else tls)
        with other:

            def redirect(connection: socket.socket, head: bytes) -> None:
                url = "/" if target == "itself" else other.gateway_url
                behave = answer(b"", f"Location: {url}", status="302 Found")
                behave(connection, head)

            with HostileServer(redirect, tls=tls) as server:
                async with Shell(server.origin) as shell:
                    await until(lambda: "the gateway answered 302" in shell.last_error)
                    await until(lambda: server.starts >= 3)
                # One upgrade for each start call, and none over there.
                assert len(server.heads) <= server.starts
                assert not other.heads

    run(main)


def test_a_message_over_the_limit_costs_one_connection(isolation: str) -> None:
    async def main(gateway: LocalGateway) -> None:
        client = make_client(gateway)
        async with connect_worker(
            client, [make_function(client, noop, fn_id="noop")]
        ) as worker:
            await worker.ready(20)
            first = await off_loop(gateway.wait_for_worker)
            # The largest that is taken, and one byte more.
            await off_loop(gateway.send_raw, b"x" * MAX_MESSAGE_SIZE)
            await off_loop(gateway.request("app-noop").wait_for_reply)
            assert gateway.connections == [first]
            await off_loop(gateway.send_raw, b"x" * (MAX_MESSAGE_SIZE + 1))
            await off_loop(gateway.wait_until, lambda: first.phase == "closed")
            assert first.close_code == 1009
            await off_loop(gateway.wait_for_worker)
            await off_loop(gateway.request("app-noop").wait_for_reply)
        await close_http(client)

    # To read such a message takes a while.
    with LocalGateway() as gateway:
        run(lambda: main(gateway))


# Secrets


def forms(secret: str) -> set[str]:
    """How a secret may look in a log, in pieces that are long enough to tell."""
    raw = secret.encode()
    pieces = {secret[i : i + 12] for i in range(len(secret) - 11)}
    hexadecimal = {raw[i : i + 8].hex() for i in range(len(raw) - 7)}
    spaced = {raw[i : i + 8].hex(" ") for i in range(len(raw) - 7)}
    encoded = set()
    for shift in range(3):
        text = base64.b64encode(raw[shift : shift + (len(raw) - shift) // 3 * 3])
        encoded |= {text.decode()[i : i + 12] for i in range(len(text) - 11)}
    return pieces | hexadecimal | spaced | encoded


def found(secrets: set[str], text: str) -> set[str]:
    lower = text.lower()
    return {
        form
        for secret in secrets
        for form in forms(secret)
        if form in text or form.lower() in lower
    }


class Everything(logging.Handler):
    """Each record, with all that is in it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter())
        self.names: set[str] = set()
        self.parts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.threadName == "local-gateway":
            # What the server logs is the server's.
            return
        self.names.add(record.name)
        self.parts += [self.format(record), repr(vars(record))]


@pytest.fixture
def everything() -> Iterator[Everything]:
    """All that is logged, by anyone, at any level."""
    handler, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


def crash(isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isolation == "process":
        (child,) = children(os.getpid())
        os.kill(child, signal.SIGKILL)
        return
    if isolation == "interpreter":
        the_interpreter().kill()
        return
    tick = Core.tick

    def broken(self: Core, now: float) -> Any:
        monkeypatch.setattr(Core, "tick", tick)
        # Locals and arguments are what a traceback might show.
        raise RuntimeError(self)

    monkeypatch.setattr(Core, "tick", broken)


def test_no_secret_is_logged_in_a_whole_life(
    cloud: LocalGateway,
    isolation: str,
    everything: Everything,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports: list[str] = []

    async def main() -> None:
        client = production(cloud.origin)
        leave = asyncio.Event()

        async def hold(ctx: inngest.Context) -> str:
            await leave.wait()
            return "done"

        functions = [make_function(client, f, fn_id=f.__name__) for f in (noop, hold)]
        cloud.accept(OTHER_KEY)
        # Short, so that a dump of a frame would show all of it.
        async with connect_worker(client, functions, instance_id="i") as worker:
            await until(lambda: "INNGEST_SIGNING_KEY" in last_error(worker))
            reports.append(json.dumps(worker.health()))
            # What comes next would be half a minute away.
        cloud.accept(KEY)
        async with connect_worker(client, functions, instance_id="i") as worker:
            await off_loop(cloud.wait_for_worker)
            await off_loop(cloud.request("app-noop").wait_for_reply)
            held = cloud.request("app-hold")
            await off_loop(held.wait_for_ack)
            await off_loop(cloud.drain)
            await off_loop(cloud.wait_until, lambda: len(cloud.connections) == 2)
            await off_loop(cloud.wait_for_worker)
            cloud.drop()
            await off_loop(cloud.wait_until, lambda: len(cloud.connections) == 3)
            await off_loop(cloud.wait_for_worker)
            crash(isolation, monkeypatch)
            await off_loop(cloud.wait_until, lambda: len(cloud.connections) == 4)
            await off_loop(cloud.wait_for_worker)
            cloud.faults.start = cloud.faults.flush = 500
            cloud.drop()
            leave.set()
            await off_loop(cloud.wait_until, lambda: cloud.requests("flush"))
            cloud.faults.reset()
            await off_loop(held.wait_for_reply, 20)
            reports.append(json.dumps(worker.health()))
        await close_http(client)

    run(main)
    secrets = {
        each.removeprefix("signkey-test-") for each in (KEY, hash_signing_key(KEY))
    }
    for connection in cloud.connections:
        auth = connection.hello.auth_data
        assert auth is not None
        secrets |= {auth.session_token, auth.sync_token}
    assert len(secrets) == 2 + 2 * len(cloud.connections)
    # They were listened to, or nothing is shown.
    assert {"inngest_connect_asgi", "httpcore.http11"} <= everything.names
    text = "\n".join([*everything.parts, *reports])
    assert "The Connect runtime crashed" in text
    assert "Could not flush a reply" in text
    assert not found(secrets, text)


def test_a_secret_that_was_logged_would_be_found() -> None:
    token = "Zk3_rT9wq-LmN0pXy7"
    for text in (
        f"authorization: {token}",
        repr({"token": token.encode()}),
        token.encode().hex(" ").upper(),
        (b"\n\x05" + token.encode() + b"\x12").hex(),
        base64.b64encode(b"a" + token.encode()).decode(),
        base64.b64encode(b"ab" + token.encode()).decode(),
    ):
        assert found({token}, text), text
    assert not found({token}, "Zk3_rT9wq and LmN0pXy7")


def test_no_repr_shows_a_secret() -> None:
    from inngest_connect_asgi.protocol.actions import Flush, Send, SendReply, StartLink
    from inngest_connect_asgi.worker.config import settings

    client = production("https://api.test")
    client_of = settings(
        client=client,
        functions=[make_function(client, noop, fn_id="noop")],
        apps=None,
        isolation=None,
        instance_id=None,
        max_worker_concurrency=None,
        gateway_url=None,
        startup_timeout=None,
        shutdown_timeout=1.0,
        stall_timeout=None,
        wedge_timeout=None,
        probe=None,
        reply_buffer_size=2**24,
        outcome_buffer_size=2**24,
        health_path=None,
        health_details=True,
    )
    made = client_of.configuration()
    key = made.signing_key
    assert key is not None
    start = wire.StartResponse(session_token="session-token-1", sync_token="sync-tok-1")
    things: list[object] = [
        client_of,
        client_of.runners[0].client,
        made,
        Start(made, environ={"HTTPS_PROXY": f"http://me:{key}@proxy"}),
        StartLink(1, b"", key),
        Flush(Result(lease("r"), Outcome(200, key.encode())), key),
        SendReply(1, Result(lease("r"), Outcome(200, key.encode()))),
        Send(1, start.SerializeToString()),
        Core(made),
        link.Link(1, 0.0),
    ]
    secrets = {KEY[13:], key[13:], "session-token-1"}
    for thing in things:
        assert not found(secrets, repr(thing)), type(thing)


def test_websockets_has_no_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert not gateway_socket.LOGGER.isEnabledFor(logging.DEBUG)
    assert gateway_socket.LOGGER.isEnabledFor(logging.INFO)
