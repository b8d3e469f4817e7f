"""The health page, as text and in a browser."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import http.server
import pathlib
import re
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from inngest_connect_asgi.health import page
from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.state import InFlight, State
from inngest_connect_asgi.testing import LocalGateway

from .servers import Uvicorn

NOW = 1_800_000_000.0
HOSTILE = "<script>alert('x')</script>\"'&\x00\u202e\n" + "x" * 500

READY = State(
    "ready",
    at=NOW,
    connection_id="01CONNECTION",
    gateway_group="group",
    connected_at=NOW - 60,
    heartbeat_interval=10.0,
    heartbeat_sent_at=NOW - 1,
    heartbeat_answered_at=NOW - 1,
    round_trip=0.02,
)


def make_health(*states: State) -> Health:
    health = Health({"instance_id": "web-1"}, wedge_timeout=60, clock=lambda: NOW)
    for state in states:
        health.update(state)
    return health


class Document(html.parser.HTMLParser):
    """Sees that every element is closed, and what there is."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def render(health: Health) -> Document:
    return Document(page.render(health, now=NOW))


@pytest.mark.parametrize(
    ("health", "title", "reason"),
    [
        (make_health(READY), "ready", "Connected; heartbeats are answered"),
        (make_health(), "not ready", "Not connected yet"),
        (
            make_health(replace(READY, connection="reconnecting", last_error="broke")),
            "not ready",
            "The connection was lost; reconnecting: broke",
        ),
        (
            make_health(replace(READY, app_waiting_since=NOW - 100)),
            "dead",
            "The app's event loop has not answered for 100 s",
        ),
        (make_health(replace(READY, paused=True)), "not ready", "Paused"),
    ],
)
def test_the_verdict_comes_first(health: Health, title: str, reason: str) -> None:
    document = render(health)
    head = document.text.lstrip()
    assert head.startswith(f"{title} ")
    assert reason in document.text


def test_a_wedged_app_is_so_since_it_last_answered() -> None:
    health = make_health(replace(READY, app_waiting_since=NOW - 100, app_lag=0.01))
    text = render(health).text
    assert "for 1 min 40 s" in text
    assert "App's loop lag1 min 40 s" in text


def test_the_title_has_no_markup() -> None:
    text = page.render(make_health(READY), now=NOW)
    assert "<title>ready · Inngest Connect web-1</title>" in text


def test_a_crashed_and_an_unstarted_worker() -> None:
    crashed = make_health(READY)
    crashed.crash("Traceback:\n  secret locals\nKeyError: 'x'\n")
    text = render(crashed).text
    assert "Only a restart mends this" in text
    assert "secret locals" not in text
    unstarted = make_health()
    unstarted.not_started = "switched off"
    assert "Not running: switched off" in render(unstarted).text


def test_what_comes_from_the_network_is_escaped_and_short() -> None:
    running = InFlight(HOSTILE, HOSTILE, HOSTILE, NOW - 5)
    state = replace(
        READY,
        connection="reconnecting",
        connection_id=HOSTILE,
        gateway_group=HOSTILE,
        last_error=HOSTILE,
        last_error_at=NOW,
        in_flight=(running,),
        requests_in_flight=1,
    )
    health = make_health(READY, state)
    health.facts = {"instance_id": HOSTILE, HOSTILE: HOSTILE}
    document = render(health)
    assert "script" not in document.tags
    assert "x" * 300 not in document.text
    assert "\u202e" not in document.text
    assert "\x00" not in document.text


def test_nothing_runs_and_nothing_is_fetched() -> None:
    document = render(make_health(READY))
    assert not document.tags & {"script", "img", "link", "iframe", "a", "form"}
    assert not document.attributes & {"href", "src", "style", "onload", "onclick"}
    text = page.render(make_health(READY), now=NOW)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.HEADERS["content-security-policy"]
    assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_plots_have_gaps_where_nothing_was_measured() -> None:
    health = make_health()
    for at in [*range(0, 100, 5), *range(300, 400, 5)]:
        health.update(replace(READY, at=NOW - 600 + at, app_lag=0.001 * at))
    text = page.render(health, now=NOW)
    lines = re.findall(r'<path class="area" d="[^"]*"/><path d="([^"]*)"', text)
    assert [line.count("M") for line in lines] == [2, 2, 2]


def test_more_requests_than_are_shown() -> None:
    running = tuple(InFlight(f"r{n}", f"run{n}", "app-f", NOW - n) for n in range(100))
    state = replace(READY, in_flight=running, requests_in_flight=5000)
    text = render(make_health(state)).text
    assert "Requests in flight: 5000" in text
    assert "And 4900 more" in text


# In a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: the page was not looked at"
)


def browse(
    url: str, directory: pathlib.Path, *arguments: str
) -> tuple[tuple[int, ...], str]:
    """The colour of the first pixel, and what the browser complained about."""
    assert CHROMIUM is not None
    picture = directory / "page.png"
    browser = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--window-size=1000,1400",
            f"--user-data-dir={directory / 'profile'}",
            f"--screenshot={picture}",
            *arguments,
            url,
        ],
        capture_output=True,
        text=True,
        timeout=50,
    )
    console = [line for line in browser.stderr.splitlines() if "CONSOLE" in line]
    return first_pixel(picture.read_bytes()), "\n".join(console)


def first_pixel(png: bytes) -> tuple[int, ...]:
    position, data = 8, b""
    while position < len(png):
        (length,) = struct.unpack_from("!I", png, position)
        if png[position + 4 : position + 8] == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += 12 + length
    # Behind the filter of its row, which never changes a first pixel.
    return tuple(zlib.decompress(data)[1:4])


@needs_chromium
@pytest.mark.parametrize(
    ("arguments", "background"),
    [
        ((), (0xF4, 0xF5, 0xF7)),
        (("--blink-settings=preferredColorScheme=0",), (0x10, 0x13, 0x18)),
    ],
    ids=["light", "dark"],
)
def test_a_browser_shows_it(
    gateway: LocalGateway,
    tmp_path: pathlib.Path,
    arguments: tuple[str, ...],
    background: tuple[int, ...],
) -> None:
    with Uvicorn(gateway.environ) as server:
        server.wait_for_status("/healthz/ready", 200)
        pixel, console = browse(f"{server.url}/healthz", tmp_path, *arguments)
    assert not console
    assert pixel == background


@pytest.fixture
def strict_server() -> Iterator[str]:
    """Serves the page with a policy that its style does not fulfil."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.render(make_health(READY), now=NOW).encode()
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-security-policy", "default-src 'none'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@needs_chromium
def test_a_browser_would_complain(strict_server: str, tmp_path: pathlib.Path) -> None:
    pixel, console = browse(strict_server, tmp_path)
    assert "Content Security Policy" in console
    assert pixel != (0xF4, 0xF5, 0xF7)
