"""``python -m inngest_connect_asgi``, as a process."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import inngest
import pytest

from inngest_connect_asgi.commands import doctor
from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.network.access import Network
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.client import Client

from .hostile import Behaviour, HostileServer, answer, drops, tunnel
from .ways import Authority, clean

KEY = "signkey-test-" + "ab" * 16
OTHER_KEY = "signkey-test-" + "cd" * 16


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = clean(os.environ)
    return subprocess.run(
        [sys.executable, "-m", "inngest_connect_asgi", *arguments],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Answers(http.server.BaseHTTPRequestHandler):
    status = 200
    body = b""
    paths: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[tuple[type[Answers], str]]:
    handler = type("Handler", (Answers,), {"paths": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


# healthcheck


@pytest.mark.parametrize(
    ("status", "body", "code", "line"),
    [
        (200, {"status": "pass", "output": "connected"}, 0, "healthy: connected"),
        (200, {"status": "pass"}, 0, "healthy: pass"),
        (503, {"status": "fail", "output": "a\nb"}, 1, "unhealthy: a b"),
        (404, "no report", 1, "unhealthy: HTTP status 404"),
        (302, [], 1, "unhealthy: HTTP status 302"),
    ],
)
def test_healthcheck(
    answers: tuple[type[Answers], str], status: int, body: object, code: int, line: str
) -> None:
    handler, url = answers
    handler.status = status
    handler.body = json.dumps(body).encode()
    result = command("healthcheck", f"{url}/healthz?token=1")
    assert result.returncode == code
    # A query may have a token in it.
    assert result.stdout == f"{line} ({url}/healthz?***)\n"
    assert handler.paths == ["/healthz?token=1"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/healthz",
        "https://127.0.0.1:{port}/healthz",
        "http://me:s3cr3t@127.0.0.1:{port}/healthz",
        "http://me:s3cr3t/x@127.0.0.1/",
        "ftp://host/",
        "nonsense",
        "http://[/",
    ],
)
def test_healthcheck_without_an_answer(url: str) -> None:
    result = command("healthcheck", url.format(port=closed_port()))
    assert result.returncode == 1
    assert result.stdout.startswith("unhealthy: ")
    assert "s3cr3t" not in result.stdout
    assert result.stdout.count("\n") == 1
    assert not result.stderr


@pytest.mark.parametrize(
    ("behave", "code", "line"),
    [
        (drops(b"HTTP/1.1 200 OK\r\n\r\n"), 1, "unhealthy: no whole answer within 5"),
        (drops(b"HTTP/1.1 200 OK\r\n"), 1, "unhealthy: no whole answer within 5"),
        (answer(b"[" * 100_000), 0, "healthy: HTTP status 200"),
    ],
    ids=["body", "head", "nested"],
)
def test_healthcheck_ends_whatever_the_answer(
    behave: Behaviour, code: int, line: str
) -> None:
    with HostileServer(behave) as server:
        result = command("healthcheck", f"{server.origin}/healthz")
    assert result.returncode == code
    assert result.stdout.startswith(line)
    assert not result.stderr


def test_healthcheck_goes_through_no_proxy(answers: tuple[type[Answers], str]) -> None:
    """It asks the app itself, which no proxy of a company can reach."""
    handler, url = answers
    handler.body = b'{"output": "connected"}'
    proxy = f"http://127.0.0.1:{closed_port()}"
    result = command("healthcheck", url, HTTP_PROXY=proxy, http_proxy=proxy)
    assert result.returncode == 0, result.stdout


def test_healthcheck_trusts_as_the_worker_does(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    authority = Authority(tmp_path)
    environ = {**clean(os.environ), "SSL_CERT_FILE": str(authority.file)}
    with tunnel(gateway.api_port, authority.server()) as port:
        url = f"https://127.0.0.1:{port}/"
        trusted = command("healthcheck", url, **environ)
        assert "HTTP status" in trusted.stdout
        untrusted = command("healthcheck", url, SSL_CERT_FILE="/nowhere")
    assert "SSL_CERT_FILE names /nowhere, which is not there" in untrusted.stdout
    assert untrusted.returncode == 1


def test_healthcheck_imports_nothing_slow() -> None:
    code = (
        "import sys, inngest_connect_asgi.__main__ as m;"
        "m.main(['healthcheck', 'http://127.0.0.1:1']);"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(result.stdout.split())
    assert "inngest_connect_asgi.commands.healthcheck" in modules
    slow = {"inngest", "pydantic", "httpx", "websockets", "starlette", "uvicorn"}
    assert not modules & {*slow, "google.protobuf", "asyncio", "argparse"}


def test_usage() -> None:
    assert command("--help").returncode == 0
    for name in ("healthcheck", "doctor"):
        result = command(name, "--help")
        assert (result.returncode, result.stdout[:6]) == (0, "usage:")
    assert command().returncode == 2
    assert command("healthcheck", "one", "two").returncode == 2
    assert "doctor" in command("nonsense").stderr


# doctor


def test_doctor_with_a_dev_server() -> None:
    with LocalGateway() as gateway:
        result = command("doctor", **gateway.environ)
    assert result.returncode == 0, result.stdout
    steps = [line.split()[1].rstrip(":") for line in result.stdout.splitlines()[:-1]]
    assert steps == [
        *("mode", "origin", "options", "signing", "proxy", "trust", "API", "gateway")
    ]


def test_doctor_with_keys() -> None:
    with LocalGateway(signing_keys=(KEY,)) as gateway:
        result = command("doctor", **gateway.environ)
        assert result.returncode == 0, result.stdout
        assert "signkey-test-****, no fallback" in result.stdout
        environ = {
            **gateway.environ,
            "INNGEST_SIGNING_KEY": OTHER_KEY,
            "INNGEST_SIGNING_KEY_FALLBACK": KEY,
        }
        result = command("doctor", **environ)
        assert result.returncode == 0, result.stdout
        assert "rejects INNGEST_SIGNING_KEY\n" in result.stdout
        environ = {**gateway.environ, "INNGEST_SIGNING_KEY": OTHER_KEY}
        rejected = command("doctor", **environ)
        assert rejected.returncode == 1
        assert "no key is accepted (401)" in rejected.stdout
    for secret in ("abab", "cdcd"):
        assert secret not in result.stdout + rejected.stdout


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"INNGEST_DEV": "0"}, "set INNGEST_SIGNING_KEY"),
        ({"INNGEST_DEV": "0", "INNGEST_SIGNING_KEY": "secret"}, "is malformed"),
        ({"INNGEST_DEV": "1", "INNGEST_CONNECT_ENABLED": "0"}, "switches the worker"),
        (
            {"INNGEST_DEV": "1", "INNGEST_CONNECT_MAX_WORKER_CONCURRENCY": "many"},
            "INNGEST_CONNECT_MAX_WORKER_CONCURRENCY must be a whole number",
        ),
        (
            {"INNGEST_DEV": "1", "INNGEST_CONNECT_ISOLATION": "container"},
            'INNGEST_CONNECT_ISOLATION must be "auto", "thread", "interpreter"',
        ),
        ({"INNGEST_DEV": "http://127.0.0.1:9"}, "is the dev server running?"),
    ],
)
def test_doctor_finds_what_is_wrong_here(environ: dict[str, str], line: str) -> None:
    result = command("doctor", **environ)
    assert result.returncode == 1
    assert line in result.stdout
    assert "secret" not in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, "demands a key (401)"),
        (404, "knows nothing of Connect (404)"),
        (429, "too many connections (429)"),
        (500, "answers with status 500"),
        (200, "something that is not Inngest's"),
    ],
)
def test_doctor_finds_what_is_wrong_with_the_api(
    answers: tuple[type[Answers], str], status: int, line: str
) -> None:
    handler, url = answers
    handler.status = status
    handler.body = b"<html>\xff"
    result = command("doctor", INNGEST_DEV=url)
    assert result.returncode == 1
    assert line in result.stdout


def test_doctor_takes_no_gateway_that_a_worker_would_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalGateway() as gateway:
        monkeypatch.setenv("INNGEST_DEV", gateway.origin)
        read = Client.of(inngest.Inngest(app_id="app", logger=None))
        url = f"ws://127.0.0.1:{gateway.gateway_port}"
        ways = Network({})
        start = wire.StartResponse(gateway_endpoint=url)
        secure = replace(read, api_origin="https://api.inngest.com")
        with pytest.raises(doctor.Failed, match="without TLS"):
            asyncio.run(doctor._gateway(start, secure, ways))
        asyncio.run(doctor._gateway(start, read, ways))
        monkeypatch.setenv("INNGEST_CONNECT_GATEWAY_URL", url)
        asyncio.run(doctor._gateway(start, secure, ways))


def test_doctor_finds_what_is_wrong_with_the_gateway() -> None:
    with LocalGateway() as gateway:
        gateway.faults.upgrade = 502
        result = command("doctor", **gateway.environ)
        assert "does not complete the WebSocket upgrade" in result.stdout
        gateway.faults.reset()
        gateway.faults.handshake = "ready_first"
        result = command("doctor", **gateway.environ)
        assert "does not speak Connect" in result.stdout
        assert result.returncode == 1
        gateway._server.api.gateway_url = "ws://me:secret@127.0.0.1/"
        result = command("doctor", **gateway.environ)
        assert "user name or a password" in result.stdout
        assert "secret" not in result.stdout + result.stderr
        assert result.returncode == 1


def test_doctor_tells_what_the_app_says_of_itself(
    answers: tuple[type[Answers], str],
) -> None:
    """A log that the app has disabled says nothing: it can't be seen from outside."""
    handler, url = answers

    def told(report: object, *asked: str) -> list[str]:
        handler.body = json.dumps(report).encode()
        with LocalGateway() as gateway:
            result = command("doctor", *asked, **gateway.environ)
        assert result.returncode == 0, result.stdout
        return [line for line in result.stdout.splitlines() if " app: " in line]

    report = Health(wedge_timeout=None).report(details=True)
    report |= {"status": "pass", "output": "connected to gateway group blue"}
    well = f"ok    app: {url}: {report['output']}"
    assert told(report, url) == [well]
    reason = "the logger is disabled"
    odd = {**report["checks"], "logging": [{"status": "warn", "output": reason}]}
    cant = f"warn  app: it can't log: {reason}"
    assert told({**report, "checks": odd}, url) == [well, cant]
    away = {**report, "status": "warn", "output": "not connected yet"}
    assert told(away, url) == [f"warn  app: {url}: not connected yet"]
    # Without details there is no more to be had.
    assert told({"status": "pass"}, url) == [f"ok    app: {url}: pass"]
    assert told([], url) == [
        f"warn  app: {url} has no report of a worker: HTTP status 200"
    ]
    nobody = f"http://127.0.0.1:{closed_port()}/"
    (line,) = told(report, nobody)
    assert line.startswith(f"warn  app: {nobody} has no report of a worker: ")


def test_doctor_asks_an_app_that_nobody_named(
    answers: tuple[type[Answers], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler, url = answers
    monkeypatch.setattr("inngest_connect_asgi.commands.healthcheck.DEFAULT_URL", url)
    handler.body = json.dumps(Health(wedge_timeout=None).report(details=True)).encode()
    doctor._app(None)
    assert f"warn  app: {url}: " in capsys.readouterr().out
    # Whatever else is there is none of ours.
    handler.body = b'{"status": "pass", "checks": {"logging": 1}}'
    doctor._app(None)
    assert not capsys.readouterr().out
