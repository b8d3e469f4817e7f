"""Proxies and authorities: one way into the network, for the API and for gateways."""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import logging
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import certifi
import httpx
import pytest
import truststore

from inngest_connect_asgi import ConfigurationError
from inngest_connect_asgi.commands.traps import traps
from inngest_connect_asgi.errors import (
    ConnectError,
    describe,
    format_traceback,
    one_line,
    quoted,
    scrubbed,
)
from inngest_connect_asgi.network import access as network
from inngest_connect_asgi.network import proxies, trust
from inngest_connect_asgi.network.access import Network
from inngest_connect_asgi.protocol import link
from inngest_connect_asgi.testing import LocalGateway

from ..harness import make_function, run, until
from ..hostile import HostileServer
from ..proxies import HttpProxy, SocksProxy
from ..ways import (
    Authority,
    clean,
    doctor,
    go,
    last_error,
    make_client,
    over_tls,
    worker_for,
)

SECRET = "s3cr3t"
ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine of the developer says of networks is not part of a test."""
    for name in os.environ.keys() - clean(os.environ).keys():
        monkeypatch.delenv(name)


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> Authority:
    return Authority(tmp_path)


# Which proxy


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://api.test", {}, None),
        ("https://api.test", {"HTTPS_PROXY": "http://p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ("wss://g.test/x", {"HTTPS_PROXY": "http://p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ("http://api.test", {"HTTPS_PROXY": "http://p:1"}, None),
        ("ws://g.test", {"HTTP_PROXY": "http://p:1"}, "http://p:1 (HTTP_PROXY)"),
        ("ws://g.test", {"HTTPS_PROXY": "http://p:1"}, None),
        ("wss://g.test", {"ALL_PROXY": "http://p:1"}, "http://p:1 (ALL_PROXY)"),
        (
            "wss://g.test",
            {"ALL_PROXY": "http://p:1", "https_proxy": "http://q:2"},
            "http://q:2 (https_proxy)",
        ),
        # Lower case goes first, even if it is empty.
        (
            "https://api.test",
            {"https_proxy": "http://q:2", "HTTPS_PROXY": "http://p:1"},
            "http://q:2 (https_proxy)",
        ),
        (
            "https://api.test",
            {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"},
            "http://q:2 (https_proxy)",
        ),
        ("https://api.test", {"https_proxy": "", "HTTPS_PROXY": "http://p:1"}, None),
        ("https://api.test", {"HTTPS_PROXY": ""}, None),
        ("https://api.test", {"HTTPS_PROXY": " "}, None),
        # Under CGI it is a header of the request.
        ("http://a.test", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None),
        (
            "http://a.test",
            {"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"},
            "http://p:1 (http_proxy)",
        ),
        # These are only somebody's.
        (
            "wss://g.test",
            {"WSS_PROXY": "http://p:1", "SOCKS_PROXY": "http://p:1"},
            None,
        ),
        # As people write them.
        ("https://api.test", {"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ("https://api.test", {"HTTPS_PROXY": "proxy"}, "http://proxy:80"),
        ("https://api.test", {"HTTPS_PROXY": "https://proxy/"}, "https://proxy:443"),
        ("https://api.test", {"HTTPS_PROXY": "SOCKS5://Proxy"}, "socks5://proxy:1080"),
        ("https://api.test", {"HTTPS_PROXY": "socks://p:1/"}, "socks5://p:1"),
        ("https://api.test", {"HTTPS_PROXY": "socks5h://p"}, "socks5h://p:1080"),
        ("https://api.test", {"HTTPS_PROXY": "http://[::1]:1"}, "http://[::1]:1"),
        ("https://api.test", {"HTTPS_PROXY": "http://p:1/squid?x#y"}, "http://p:1 "),
        ("https://api.test", {"HTTPS_PROXY": " http://p:1\n"}, "http://p:1 "),
        ("https://api.test", {"HTTPS_PROXY": "http://bücher.test"}, "http://xn--bcher"),
        # What is no URL of ours has no proxy.
        ("nonsense", {"ALL_PROXY": "http://p:1"}, None),
        ("http://[", {"ALL_PROXY": "http://p:1"}, None),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], expected: str | None) -> None:
    found = proxies.choose(url, environ)
    assert (found is None) == (expected is None)
    if found is not None:
        assert f"{found} ({found.source})".startswith(expected or "")


@pytest.mark.parametrize(
    ("value", "username", "password"),
    [
        ("http://me:pass@p:1", "me", "pass"),
        ("http://token@p:1", "token", ""),
        ("http://me:@p:1", "me", ""),
        ("http://:pass@p:1", "", "pass"),
        ("me:pass@p:1", "me", "pass"),
        ("http://a%40b:p%3A%2Fss@p:1", "a@b", "p:/ss"),
        # They should not, but they do.
        ("http://me:p@ss/w#rd?x@p:1", "me", "p@ss/w#rd?x"),
        ("http://me:100%@p:1", "me", "100%"),
        ("http://me:my pass@p:1", "me", "my pass"),
    ],
)
def test_credentials_of_a_proxy(value: str, username: str, password: str) -> None:
    proxy = proxies.choose("https://api.test", {"HTTPS_PROXY": value})
    assert proxy is not None
    assert (proxy.username, proxy.password) == (username, password)
    assert str(proxy) == "http://p:1"
    assert not password or password not in repr(proxy)


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("kind", [HttpProxy, SocksProxy])
@pytest.mark.parametrize(
    "password", ["p@ss:w%rd!", "%41", "pass/w?r#d", "pass word", "[pass", "pässwort"]
)
def test_any_password_gets_through_or_is_refused_at_start_up(
    gateway: LocalGateway,
    kind: type[HttpProxy | SocksProxy],
    password: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 17.2, websockets takes what a URL has as it is."""
    decodes = network._websockets_decodes()
    plain = password.isascii() and not set(password) & set("/ [")
    decodes = decodes and (password.isascii() or kind is HttpProxy)
    with kind(credentials=("me", password)) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url(f"me:{quote(password, safe='')}"))
        if plain or decodes:
            run(lambda: go(gateway, gateway.origin))
            assert set(proxy.joined) == {gateway.api_port, gateway.gateway_port}
        else:
            with pytest.raises(
                ConfigurationError, match=r"websockets|python-socks"
            ) as caught:
                run(lambda: go(gateway, gateway.origin))
            assert password not in str(caught.value)


def test_a_websockets_that_decodes_nothing_gets_passwords_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "_websockets_decodes", lambda: False)
    ways = Network({"ALL_PROXY": "http://me:p%40ss%25@p:1"})
    assert ways.websocket("ws://g.test") == {"proxy": "http://me:p@ss%@p:1"}
    with pytest.raises(ConfigurationError, match=r"upgrade to websockets 17\.2"):
        network.check("http://a.test", None, {"ALL_PROXY": "http://me:p%2F@p:1"})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("socks4://p:1", "scheme socks4 that is not supported"),
        ("socks4a://p:1", "scheme socks4a that is not supported"),
        (f"{SECRET}://p:1", "a scheme that is not supported"),
        ("http://", "has no host"),
        ("http://:3128", "has no host"),
        (f"http://me:{SECRET}@", "has no host"),
        (f"http://me:{SECRET}@p:many", "a port that is none"),
        (f"http://me:{SECRET}@p:0", "a port that is none"),
        (f"http://me:{SECRET}@p:99999", "a port that is none"),
        (f"http://me:{SECRET}@[::1", "a port that is none"),
        (f"http://me:{SECRET}@p p:1", "a port that is none"),
    ],
)
def test_a_proxy_that_is_none_is_told_of_without_its_password(
    value: str, why: str
) -> None:
    for name in ("HTTPS_PROXY", "all_proxy"):
        with pytest.raises(ConfigurationError) as caught:
            network.check("https://api.test", None, {name: value})
        assert str(caught.value).startswith(f"{name} must be the URL of a proxy")
        assert why in str(caught.value)
        assert SECRET not in format_traceback(caught.value)
        # Where it is not needed, it is nobody's business.
        network.check("https://api.test", None, {name: value, "NO_PROXY": "api.test"})
    network.check("http://api.test", None, {"HTTPS_PROXY": value})


@pytest.mark.parametrize(
    ("pattern", "direct", "proxied"),
    [
        ("*", ["https://api.test", "wss://[::1]:8"], []),
        ("api.test", ["https://api.test", "wss://x.api.test"], ["https://myapi.test"]),
        (
            ".api.test",
            ["https://x.api.test", "https://api.test"],
            ["https://napi.test"],
        ),
        ("*.api.test", ["https://x.api.test"], ["https://napi.test"]),
        ("API.test.", ["https://Api.TEST"], []),
        ("api.test", ["https://api.test."], []),
        ("api.test:8443", ["https://api.test:8443"], ["https://api.test"]),
        ("api.test:443", ["https://api.test", "wss://api.test"], ["wss://api.test:80"]),
        ("a.test , b.test", ["https://a.test", "https://b.test"], ["https://c.test"]),
        ("a.test b.test,", ["https://a.test", "https://b.test"], ["https://c.test"]),
        ("127.0.0.1", ["https://127.0.0.1:9"], ["https://127.0.0.2", "https://a.test"]),
        ("10.0.0.0/8", ["https://10.1.2.3"], ["https://11.0.0.1", "https://10.test"]),
        ("10.0.0.1:8443", ["https://10.0.0.1:8443"], ["https://10.0.0.1"]),
        (
            "::1",
            ["https://[::1]", "wss://[::1]:8"],
            ["https://[::2]", "https://1.1.1.1"],
        ),
        ("[::1]:8", ["https://[::1]:8"], ["https://[::1]"]),
        ("fd00::/8", ["https://[fd12::1]"], ["https://[fe80::1]"]),
        ("https://api.test/", ["https://api.test"], ["https://b.test"]),
        ("0.0.1", [], ["https://127.0.0.1"]),
        ("10.0.0.0/99,<local>,:,[", [], ["https://10.0.0.1", "https://a.test"]),
        ("", [], ["https://a.test"]),
    ],
)
def test_what_no_proxy_names(
    pattern: str, direct: list[str], proxied: list[str]
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        environ = {"ALL_PROXY": "http://p:1", name: pattern}
        for url in direct:
            assert proxies.choose(url, environ) is None, url
        for url in proxied:
            assert proxies.choose(url, environ) is not None, url


def test_the_settings_of_macos_count_where_no_variable_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    named = {"socks": "http://p:1"}
    monkeypatch.setattr(urllib.request, "getproxies", lambda: named)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: host == "b.test")
    found = proxies.choose("wss://a.test", {})
    assert str(found) == "socks5://p:1"
    assert proxies.choose("wss://b.test", {}) is None
    named["https"] = "http://q:2"
    assert str(proxies.choose("wss://a.test", {})) == "http://q:2"
    assert str(proxies.choose("wss://a.test", {"ALL_PROXY": "r:3"})) == "http://r:3"


# What it takes


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name in missing else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (["socksio"], "needs socksio>=1.0"),
        (["python_socks"], "needs python-socks>=2.6"),
        (["python_socks", "socksio"], "needs python-socks>=2.6 and socksio>=1.0"),
    ],
)
def test_a_missing_package_is_named_at_start_up(
    missing: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client("https://api.test")
    functions = [make_function(client, lambda ctx: None, fn_id="noop")]
    without(monkeypatch, *missing)
    monkeypatch.setenv("ALL_PROXY", f"socks5://me:{SECRET}@127.0.0.1:9")
    from inngest_connect_asgi import connect_worker

    with pytest.raises(ConfigurationError) as caught:
        connect_worker(client, functions)
    assert named in str(caught.value)
    assert "ALL_PROXY" in str(caught.value)
    assert 'pip install "inngest-connect-asgi[socks]"' in str(caught.value)
    assert SECRET not in str(caught.value)
    # The gateway's own way, if its name is known.
    monkeypatch.setenv("NO_PROXY", "api.test")
    network.check("https://api.test", None)
    with pytest.raises(ConfigurationError, match=named):
        network.check("https://api.test", "wss://gateway.test")


def test_a_package_that_is_too_old_is_named_at_start_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"ALL_PROXY": "socks5://p"}
    for version, fits in (("2.5.3", False), ("2.6.0", True), ("odd", True)):
        versions = {"python-socks": version}
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, v=versions: v.get(name, "9.9")
        )
        if fits:
            network.check("https://api.test", None, environ)
        else:
            with pytest.raises(ConfigurationError, match=r"needs python-socks>=2\.6"):
                network.check("https://api.test", None, environ)


def test_tls_within_tls_is_refused_where_asyncio_can_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    environ = {"ALL_PROXY": f"https://me:{SECRET}@p"}
    with pytest.raises(ConfigurationError, match=r"Python 3\.11") as caught:
        network.check("https://api.test", None, environ)
    assert "https://p:443" in str(caught.value)
    assert SECRET not in str(caught.value)
    network.check("http://api.test", None, environ)


# Through it


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("kind", "scheme", "user_info"),
    [
        ("http", "http", ""),
        ("http", "http", f"me:{SECRET}"),
        ("http", "http", SECRET),
        ("https", "https", ""),
        ("socks", "socks5", ""),
        ("socks", "socks5", f"me:{SECRET}"),
        ("socks", "socks5h", ""),
    ],
)
def test_the_api_and_the_gateway_are_reached_by_the_same_proxy(
    gateway: LocalGateway,
    authority: Authority,
    kind: str,
    scheme: str,
    user_info: str,
    secure: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "https" and secure and sys.version_info < (3, 11):
        pytest.skip("asyncio has no TLS within TLS")
    if scheme == "socks5h" and httpx.__version__ < "0.28":
        pytest.skip("httpx, and with it the SDK's client, does not know it")
    tls = authority.server()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    credentials = None
    if user_info:
        username, _, password = user_info.partition(":")
        credentials = username, password
    proxy = (
        SocksProxy(credentials=credentials)
        if kind == "socks"
        else HttpProxy(credentials=credentials, tls=tls if kind == "https" else None)
    )
    ports = contextlib.nullcontext((gateway.api_port, gateway.gateway_port))
    with proxy, over_tls(gateway, tls) if secure else ports as (api_port, gateway_port):
        origin = f"http{'s' if secure else ''}://127.0.0.1:{api_port}"
        # Made before: the SDK's own client is not what this is about.
        variable = "HTTPS_PROXY" if secure else "http_proxy"
        monkeypatch.setenv(variable, proxy.url(user_info, scheme))
        run(lambda: go(gateway, origin))
        assert set(proxy.joined) == {api_port, gateway_port}
        assert proxy.names == {"127.0.0.1"}


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("kind", [HttpProxy, SocksProxy])
def test_all_proxy_is_for_both_and_names_are_the_proxys(
    gateway: LocalGateway,
    kind: type[HttpProxy | SocksProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway._server.api.gateway_url = (
        f"ws://localhost:{gateway.gateway_port}/v0/connect"
    )
    with kind() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url())
        run(lambda: go(gateway, f"http://localhost:{gateway.api_port}"))
        assert set(proxy.joined) == {gateway.api_port, gateway.gateway_port}
        assert proxy.names == {"localhost"}


@pytest.mark.usefixtures("isolation")
def test_no_proxy_is_for_both(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpProxy() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        run(lambda: go(gateway, gateway.origin))
        assert not proxy.joined
        # Or for one of them.
        monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{gateway.gateway_port}")
        run(lambda: go(gateway, gateway.origin))
        assert set(proxy.joined) == {gateway.api_port}


# Where it does not let through


FORBIDDEN = b"HTTP/1.1 403 Forbidden by us\r\nContent-Length: 0\r\n\r\n"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("what", ["api", "gateway"])
@pytest.mark.parametrize(
    ("make", "why", "secure"),
    [
        (lambda: HttpProxy(refuse=FORBIDDEN), "403", False),
        (lambda: HttpProxy(refuse=FORBIDDEN), "403", True),
        (lambda: HttpProxy(credentials=("me", "another")), "407", False),
        (lambda: HttpProxy(credentials=("me", "another")), "407", True),
        (lambda: HttpProxy(refuse=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "", False),
        (lambda: SocksProxy(refuse=b"\x02"), "", False),
        (lambda: SocksProxy(credentials=("me", "another")), "", True),
        (None, "", False),
    ],
    ids=["403", "403s", "407", "407s", "nonsense", "socks", "socks407", "nobody"],
)
def test_an_error_names_the_proxy_without_its_password(
    gateway: LocalGateway,
    authority: Authority,
    make: Callable[[], HttpProxy | SocksProxy] | None,
    why: str,
    secure: bool,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    tls = authority.server()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    async def main(api_port: int, name: str) -> None:
        if what == "gateway":
            monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{api_port}")
        origin = f"http{'s' if secure else ''}://127.0.0.1:{api_port}"
        async with worker_for(origin) as worker:
            await until(lambda: f"proxy {name} (ALL_PROXY)" in last_error(worker), 20)
            error = last_error(worker)
            report = json.dumps(worker.health())
        assert why in error
        assert ("gateway" if what == "gateway" else "start API") in error
        assert f"proxy {name} (ALL_PROXY)" in caplog.text
        assert SECRET not in caplog.text + report

    with contextlib.ExitStack() as stack:
        if make is not None:
            proxy = stack.enter_context(make())
            url = proxy.url(f"me:{SECRET}")
        else:
            url = f"http://me:{SECRET}@127.0.0.1:{closed_port()}"
        api_port = gateway.api_port
        if secure:
            api_port, _ = stack.enter_context(over_tls(gateway, tls))
        monkeypatch.setenv("ALL_PROXY", url)
        run(lambda: main(api_port, url.replace(f"me:{SECRET}@", "")))


# Before 17, websockets leaves the connection to such a proxy to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("phase", [link.Phase.STARTING, link.Phase.OPENING])
def test_a_proxy_that_says_nothing_is_named(
    gateway: LocalGateway, phase: link.Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(link.TIMEOUTS, phase, 1.0)

    async def main() -> None:
        async with worker_for(gateway.origin) as worker:
            await until(lambda: "timed out while" in last_error(worker), 30)
            error = last_error(worker)
        assert f"while {phase.value} through the proxy {url}" in error

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("ALL_PROXY", url)
        if phase is link.Phase.OPENING:
            monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{gateway.api_port}")
        run(main)
    gc.collect()


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("what", ["api", "gateway"])
def test_a_connection_that_a_proxy_refuses_is_closed(
    gateway: LocalGateway, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with worker_for(gateway.origin):
            await until(lambda: proxy.left)

    with SocksProxy(refuse=b"\x02") as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url())
        if what == "gateway":
            monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{gateway.api_port}")
        run(main)


@pytest.mark.usefixtures("isolation")
def test_no_password_of_a_proxy_is_logged_in_a_whole_life(
    gateway: LocalGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At DEBUG, where httpcore tells all that it is called with."""
    caplog.set_level(logging.DEBUG)
    with SocksProxy(credentials=("me", SECRET)) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url(f"me:{SECRET}"))
        run(lambda: go(gateway, gateway.origin))
        assert gateway.api_port in proxy.joined
    assert "setup_socks5_connection" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("isolation")
def test_a_password_of_the_origin_is_sent_and_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    heads: list[bytes] = []

    def start(connection: socket.socket, head: bytes) -> None:
        heads.append(head)

    async def main() -> None:
        with HostileServer(start, start=start) as server:
            origin = server.origin.replace("://", f"://me:{SECRET}@")
            async with worker_for(origin) as worker:
                await until(lambda: last_error(worker) != "None")
                report = json.dumps(worker.health())
            assert SECRET not in report + caplog.text

    run(main)
    pair = base64.b64encode(f"me:{SECRET}".encode())
    assert b"authorization: basic " + pair.lower() in heads[0].lower()
    assert b"@" not in heads[0].split(b"\r\n")[0]


# Whom to trust


def handshake(context: ssl.SSLContext, tls: ssl.SSLContext) -> None:
    """Speak TLS with a server, in memory.

    Raises:
        ssl.SSLError: It is not trusted.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = tls.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for each in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
                waiting.remove(each)


def only_in_certifi(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those packages do that put the system's authorities in certifi's place."""
    monkeypatch.setattr(certifi, "where", lambda: str(authority.file))


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("where", ["file", "directory", "certifi"])
def test_the_api_and_the_gateway_are_trusted_alike(
    gateway: LocalGateway,
    authority: Authority,
    where: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if where == "file":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    elif where == "directory":
        if shutil.which("openssl") is None:
            pytest.skip("openssl names the files in it")
        monkeypatch.setenv("SSL_CERT_DIR", f"/nowhere:{authority.hashed()}")
    else:
        only_in_certifi(authority, monkeypatch)
    with over_tls(gateway, authority.server()) as (api_port, _):
        run(lambda: go(gateway, f"https://127.0.0.1:{api_port}"))


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("what", ["api", "gateway"])
def test_who_is_trusted_is_told_where_somebody_is_not(
    gateway: LocalGateway,
    authority: Authority,
    tmp_path: pathlib.Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "another").mkdir()
    another = Authority(tmp_path / "another").server()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    async def main() -> None:
        with over_tls(gateway, another) as (api_port, _):
            origin = f"https://127.0.0.1:{api_port}"
            if what == "gateway":
                origin = gateway.origin
            async with worker_for(origin) as worker:
                await until(lambda: "CERTIFICATE_VERIFY" in last_error(worker), 20)
                told = f"(trusted: SSL_CERT_FILE={authority.file})"
                assert told in last_error(worker)

    run(main)


def system_store() -> pathlib.Path | None:
    """Where this Python's OpenSSL looks without being told."""
    file = pathlib.Path(ssl.get_default_verify_paths().openssl_cafile)
    return file.resolve() if file.exists() else None


def with_store(certificates: pathlib.Path) -> list[str]:
    """Have a command find these certificates in the system's store, and no others.

    Of this machine nothing changes: it sees the file in a namespace of its own.
    """
    store = system_store()
    unshare = ["unshare", "--map-root-user", "--mount"]
    if (
        store is None
        or shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True).returncode
    ):
        pytest.skip("a system's store of our own takes a namespace of our own")
    script = 'mount --bind "$0" "$1"; shift; exec "$@"'
    return [*unshare, "sh", "-c", script, str(certificates), str(store)]


@pytest.mark.parametrize("how", ["thread", "process", "truststore", "doctor"])
def test_the_systems_store_is_trusted(
    gateway: LocalGateway, authority: Authority, how: str
) -> None:
    before = with_store(authority.file)
    with over_tls(gateway, authority.server()) as (api_port, _):
        origin = f"https://127.0.0.1:{api_port}"
        if how == "doctor":
            result = doctor({"INNGEST_DEV": origin}, *before)
        else:
            environ = {
                **clean(os.environ),
                "INNGEST_CONNECT_ISOLATION": "thread" if how == "thread" else "process",
            }
            arguments = ["truststore"] if how == "truststore" else []
            result = subprocess.run(
                [*before, sys.executable, "-m", "tests.ways", origin, *arguments],
                cwd=ROOT,
                env=environ,
                capture_output=True,
                text=True,
                timeout=50,
            )
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def injected() -> Iterator[None]:
    truststore.inject_into_ssl()
    yield
    truststore.extract_from_ssl()


@pytest.mark.usefixtures("isolation", "injected")
def test_truststore_is_used_where_the_app_has_injected_it(
    gateway: LocalGateway,
    authority: Authority,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It would be trusted without.
    only_in_certifi(authority, monkeypatch)

    async def main() -> None:
        with over_tls(gateway, tls) as (api_port, _):
            async with worker_for(f"https://127.0.0.1:{api_port}") as worker:
                await until(lambda: "(trusted: truststore" in last_error(worker), 20)

    truststore.extract_from_ssl()
    tls = authority.server()
    truststore.inject_into_ssl()
    run(main)


def test_a_context_is_made_anew_where_truststore_is_injected_late() -> None:
    ways = Network({})
    before = ways.trust
    assert ways.trust is before
    truststore.inject_into_ssl()
    try:
        assert isinstance(ways.trust, truststore.SSLContext)
        assert trust.description({}).startswith("truststore ")
    finally:
        truststore.extract_from_ssl()


def test_truststore_that_a_child_has_not_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "truststore", None)
    problem = trust.inject_truststore()
    assert problem is not None
    assert "truststore" in problem
    assert not trust.truststore_is_injected()


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "/nowhere/ca.pem, which is not there"),
        ({"SSL_CERT_FILE": "{tmp}/empty"}, "no certificates in PEM"),
        ({"SSL_CERT_FILE": "{tmp}/text"}, "no certificates in PEM"),
        ({"SSL_CERT_FILE": "{tmp}"}, "SSL_CERT_FILE names {tmp}"),
        ({"SSL_CERT_DIR": "/nowhere"}, "no directory that is there: /nowhere"),
        ({"SSL_CERT_DIR": "{tmp}/text"}, "no directory that is there"),
        ({"SSL_CERT_DIR": "{tmp}"}, "openssl rehash"),
        ({"SSL_CERT_FILE": "{ca}", "SSL_CERT_DIR": "/nowhere"}, "no directory"),
    ],
)
def test_an_authority_that_is_none_fails_at_start_up(
    environ: dict[str, str], why: str, tmp_path: pathlib.Path, authority: Authority
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "text").write_text("not a certificate")
    places = {"tmp": tmp_path, "ca": authority.file}
    environ = {name: value.format(**places) for name, value in environ.items()}
    for origin, gateway_url in (
        ("https://api.test", None),
        ("http://127.0.0.1:8288", "wss://gateway.test"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            network.check(origin, gateway_url, environ)
        assert why.format(**places) in str(caught.value)
    proxied = {**environ, "HTTP_PROXY": "https://p"}
    with pytest.raises(ConfigurationError):
        network.check("http://api.test", None, proxied)
    # Without TLS it is nobody's business.
    network.check("http://127.0.0.1:8288", None, environ)


def test_what_is_named_replaces_what_is_there(
    authority: Authority, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another").mkdir()
    another = Authority(tmp_path / "another")
    only_in_certifi(authority, monkeypatch)
    handshake(trust.make_context({}), authority.server())
    handshake(trust.make_context({"SSL_CERT_FILE": ""}), authority.server())
    context = trust.make_context({"SSL_CERT_FILE": str(another.file)})
    handshake(context, another.server())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, authority.server())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(trust.make_context({}), authority.server("elsewhere.test"))


def test_a_certifi_without_its_file_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certifi, "where", lambda: "/nowhere")
    assert trust.make_context({}).verify_mode is ssl.CERT_REQUIRED
    monkeypatch.setitem(sys.modules, "certifi", None)
    assert trust.make_context({}).verify_mode is ssl.CERT_REQUIRED
    assert "certifi" not in trust.description({})


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_variable_that_is_empty_hides_no_store(
    name: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would look for a file without a name."""
    paths = ssl.get_default_verify_paths()
    if name == "SSL_CERT_FILE":
        store = paths._replace(openssl_cafile=str(authority.file))
    else:
        store = paths._replace(openssl_capath=str(authority.hashed()))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: store)
    monkeypatch.setenv(name, "")
    handshake(trust.make_context(), authority.server())
    assert str(authority.file.parent) in trust.description()


@pytest.mark.skipif(not hasattr(ssl, "OPENSSL_VERSION_INFO"), reason="no OpenSSL")
@pytest.mark.usefixtures("isolation")
def test_openssl_is_configured_alike(
    gateway: LocalGateway, authority: Authority, tmp_path: pathlib.Path
) -> None:
    """By a file that forbids what the server wants: it is read in either place."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        textwrap.dedent(
            """\
            openssl_conf = a
            [a]
            ssl_conf = b
            [b]
            system_default = c
            [c]
            Groups = X25519:P-256:brainpoolP256r1
            """
        )
    )
    tls = authority.server()
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    # Offered only if OpenSSL is told to.
    tls.set_ecdh_curve("brainpoolP256r1")
    with over_tls(gateway, tls) as (api_port, _):
        result = subprocess.run(
            [sys.executable, "-m", "tests.ways", f"https://127.0.0.1:{api_port}"],
            cwd=ROOT,
            env={
                **os.environ,
                "SSL_CERT_FILE": str(authority.file),
                "OPENSSL_CONF": str(configuration),
            },
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert result.returncode == 0, result.stdout + result.stderr


# What is written down


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pass@host:1/x", "http://***@host:1/x"),
        ("'http://me:pass@host' isn't", "'http://***@host' isn't"),
        ("http://me:p@ss/w#rd@host", "http://***@host"),
        ("http://token@host", "http://***@host"),
        ("me:pass@host:3128", "***@host:3128"),
        ("wss://host/x?token=abc", "wss://host/x?***"),
        ("(wss://host/x?token=abc&b=c): no", "(wss://host/x?***): no"),
        ("wss://host/x?abc", "wss://host/x?***"),
        ("GET /x?token=abc HTTP/1.1", "GET /x?*** HTTP/1.1"),
        ("Proxy-Authorization: Basic YWJj=", "Proxy-Authorization: Basic ***"),
        ("(b'authorization', b'Basic YWJj')", "(b'authorization', b'Basic ***')"),
        ("'Authorization': 'Bearer abc'", "'Authorization': 'Bearer ***'"),
        ("authorization=abc", "authorization=***"),
        ("signkey-prod-00ff", "signkey-prod-***"),
        # And what is none stays.
        ("why? because", "why? because"),
        ("somebody@example.com", "somebody@example.com"),
        ("http://host:1/x", "http://host:1/x"),
        ('File "/x@y/z.py", line 1', 'File "/x@y/z.py", line 1'),
    ],
)
def test_credentials_are_not_shown(text: str, expected: str) -> None:
    assert scrubbed(text) == expected
    assert one_line(text) == expected


def test_text_from_the_network_is_quoted_and_cut() -> None:
    forged = quoted("nope\nERROR:root:forged\x1b[2J\u202e" + "x" * 10_000_000)
    assert "\n" not in forged
    assert forged.isprintable()
    assert len(forged) < 300
    assert forged.endswith("x…'")
    assert quoted("short") == "'short'"
    assert quoted(b"\xff\x00") == repr("\\xff\x00")
    assert SECRET not in quoted(f"http://me:{SECRET}@host")
    assert quoted("x" * 20, 10) == "'xxxxxxxxx…'"


class Awkward(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def chained() -> BaseException:
    try:
        try:
            raise OSError(111, f"refused by http://me:{SECRET}@host")
        except OSError as error:
            raise ConnectError("no way\nthrough") from error
    except ConnectError as error:
        return error


def test_an_exception_is_described_with_its_causes() -> None:
    assert describe(ValueError("a")) == "ValueError: a"
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(Awkward()) == "Awkward: its text could not be made"
    assert describe(chained()) == (
        "ConnectError: no way\\nthrough "
        "(from ConnectionRefusedError: [Errno 111] refused by http://***@host)"
    )
    assert len(describe(ValueError("x" * 10_000_000))) < 600
    assert SECRET not in format_traceback(chained())
    assert "refused by http://***@host" in format_traceback(chained())
    circle = ValueError("a")
    circle.__cause__ = circle
    assert describe(circle) == "ValueError: a"


def test_no_repr_shows_the_credentials_of_a_url() -> None:
    from inngest_connect_asgi.protocol.actions import Open

    from ..simulation import configuration

    url = f"wss://host/?{SECRET}"
    origin = f"http://me:{SECRET}@host"
    ways = Network({"ALL_PROXY": origin})
    proxy = ways.proxy("http://host")
    assert proxy is not None
    client = ways._httpx_proxy(proxy)
    for thing in (
        Open(1, url),
        configuration(api_origin=origin, gateway_url=url),
        ways.proxy("http://host"),
        ways,
        client,
        client.auth,
        client.raw_auth,
    ):
        assert SECRET not in repr(thing), type(thing)


def test_clients_that_differ_are_named_without_passwords() -> None:
    from inngest_connect_asgi import connect_worker

    first = make_client(f"http://me:{SECRET}@one.test")
    second = make_client("http://two.test")
    second.app_id = "other"
    apps = [
        (client, [make_function(client, lambda ctx: None, fn_id="noop")])
        for client in (first, second)
    ]
    with pytest.raises(ConfigurationError, match="different api_base_url") as caught:
        connect_worker(apps=apps)
    assert SECRET not in str(caught.value)
    assert "one.test" in str(caught.value)


# The doctor


def test_the_doctor_says_which_proxy_and_whom_it_trusts(
    gateway: LocalGateway, authority: Authority
) -> None:
    dev = {"INNGEST_DEV": gateway.origin}
    straight = doctor(dev)
    assert straight.returncode == 0, straight.stdout
    assert "ok    proxy: none, as no variable names one\n" in straight.stdout
    assert "ok    trust: the system's store" in straight.stdout
    assert "certifi" in straight.stdout
    for make in (HttpProxy, SocksProxy):
        with make(credentials=("me", SECRET)) as proxy:
            url = proxy.url(f"me:{SECRET}")
            result = doctor({**dev, "HTTP_PROXY": url, "https_proxy": url})
            assert result.returncode == 0, result.stdout + result.stderr
            assert f"ok    proxy: {proxy.url()} from HTTP_PROXY\n" in result.stdout
            assert result.stdout.count(f"through the proxy {proxy.url()}") == 2
            assert SECRET not in result.stdout + result.stderr
            assert set(proxy.joined) == {gateway.api_port, gateway.gateway_port}
            excepted = doctor({**dev, "HTTP_PROXY": url, "no_proxy": "127.0.0.1"})
            assert "ok    proxy: none, by no_proxy\n" in excepted.stdout
            assert excepted.returncode == 0
            other = doctor({**dev, "HTTPS_PROXY": url})
            assert "proxy: none: HTTPS_PROXY is for other schemes" in other.stdout
    with over_tls(gateway, authority.server()) as (api_port, _):
        origin = {"INNGEST_DEV": f"https://127.0.0.1:{api_port}"}
        result = doctor({**origin, "SSL_CERT_FILE": str(authority.file)})
        assert result.returncode == 0, result.stdout
        assert f"ok    trust: SSL_CERT_FILE={authority.file}\n" in result.stdout
        untrusted = doctor(origin)
        assert untrusted.returncode == 1
        assert "(trusted: the system's store" in untrusted.stdout


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"HTTP_PROXY": "socks4://me:s3cr3t@127.0.0.1:9"},
            "HTTP_PROXY must be the URL",
        ),
        ({"HTTP_PROXY": "http://me:s3cr3t@127.0.0.1:x"}, "HTTP_PROXY must be the URL"),
        ({"HTTP_PROXY": "http://me:s3cr3t@127.0.0.1:9"}, "proxy http://127.0.0.1:9 ("),
        (
            {"ALL_PROXY": "socks5://me:s3cr3t@127.0.0.1:9"},
            "proxy socks5://127.0.0.1:9 ",
        ),
        ({"SSL_CERT_FILE": "/nowhere"}, "SSL_CERT_FILE names /nowhere, which is not"),
        ({"INNGEST_DEV": "http://me:s3cr3t@127.0.0.1:9"}, "http://***@127.0.0.1:9"),
        ({"INNGEST_DEV": "http://me:s3cr3t@127.0.0.1:x"}, "FAIL  "),
        ({"INNGEST_DEV": "http://me:s3cr3t@["}, "FAIL  "),
        (
            {"INNGEST_CONNECT_GATEWAY_URL": "wss://me:s3cr3t@127.0.0.1"},
            "INNGEST_CONNECT_GATEWAY_URL must be a URL",
        ),
    ],
)
def test_the_doctor_ends_in_a_sentence(environ: dict[str, str], line: str) -> None:
    result = doctor({"INNGEST_DEV": "http://127.0.0.1:9", **environ})
    assert result.returncode == 1
    assert line in result.stdout, result.stdout
    assert result.stdout.splitlines()[-1].startswith("FAIL  ")
    assert not result.stderr
    assert SECRET not in result.stdout


def test_the_doctor_shows_no_token_of_a_gateway(gateway: LocalGateway) -> None:
    url = f"ws://127.0.0.1:{gateway.gateway_port}/v0/connect?token={SECRET}"
    result = doctor({"INNGEST_DEV": gateway.origin, "INNGEST_CONNECT_GATEWAY_URL": url})
    assert result.returncode == 0, result.stdout
    assert "/v0/connect?***" in result.stdout
    assert SECRET not in result.stdout


# Traps


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        ({}, None, []),
        (
            {"GUNICORN_CMD_ARGS": "--timeout 20"},
            None,
            ["timeout of 20 s (GUNICORN_CMD"],
        ),
        ({"GUNICORN_CMD_ARGS": "-t20 --bind :80"}, None, ["timeout of 20 s"]),
        ({"GUNICORN_CMD_ARGS": "-t 20"}, None, ["timeout of 20 s"]),
        ({"GUNICORN_CMD_ARGS": "--timeout=30"}, None, []),
        ({"GUNICORN_CMD_ARGS": "--timeout=0"}, None, []),
        ({"GUNICORN_CMD_ARGS": "--timeout=x 'y"}, None, []),
        (
            {"GUNICORN_CMD_ARGS": "--graceful-timeout 5 --timeout 60"},
            None,
            ["graceful_timeout of 5 s"],
        ),
        ({}, "workers = 4\ntimeout = 10\n", ["timeout of 10 s (gunicorn.conf.py)"]),
        ({}, "timeout: int = 10\nname: str", ["timeout of 10 s (gunicorn.conf.py)"]),
        ({}, "timeout = 60\ngraceful_timeout = 60", []),
        ({}, "import os\ntimeout = int(os.environ['X'])", []),
        ({}, "this is not Python", []),
        ({"GUNICORN_CMD_ARGS": "--timeout 90"}, "timeout = 10", []),
        (
            {"WEB_CONCURRENCY": "4", "INNGEST_CONNECT_ISOLATION": "process"},
            None,
            ["--timeout-worker-healthcheck"],
        ),
        (
            {
                "UVICORN_WORKERS": "4",
                "WEB_CONCURRENCY": "1",
                "INNGEST_CONNECT_ISOLATION": "process",
            },
            None,
            ["with 4 workers (UVICORN_WORKERS)"],
        ),
        (
            {
                "UVICORN_WORKERS": "4",
                "UVICORN_TIMEOUT_WORKER_HEALTHCHECK": "60",
                "INNGEST_CONNECT_ISOLATION": "process",
            },
            None,
            [],
        ),
        ({"WEB_CONCURRENCY": "4"}, None, []),
        ({"WEB_CONCURRENCY": "1", "INNGEST_CONNECT_ISOLATION": "process"}, None, []),
    ],
)
def test_traps_of_servers(
    environ: dict[str, str],
    file: str | None,
    expected: list[str],
    tmp_path: pathlib.Path,
) -> None:
    if file is not None:
        (tmp_path / "gunicorn.conf.py").write_text(file)
    found = list(traps(environ, tmp_path))
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def test_the_doctor_warns_of_traps(gateway: LocalGateway) -> None:
    environ = {"INNGEST_DEV": gateway.origin, "GUNICORN_CMD_ARGS": "--timeout 20"}
    result = doctor(environ)
    assert result.returncode == 0
    assert "\nwarn  gunicorn: its timeout of 20 s" in result.stdout


# The documentation


PAGE = (ROOT / "docs" / "network.md").read_text()


def shell_example(part: str) -> str:
    (code,) = [c for c in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if part in c]
    return str(code)


def after(code: str, python: str, cwd: pathlib.Path = ROOT) -> str:
    script = f'{code}\nexec "$0" -c "$1"'
    command = ["sh", "-ec", script, sys.executable, python]
    return subprocess.check_output(command, text=True, cwd=cwd)


def test_the_proxy_of_the_documentation_is_one() -> None:
    python = """
from inngest_connect_asgi.network.access import Network
for url in ("wss://gw2.connect.inngest.com/v0/connect", "https://a.internal.example.com",
            "http://localhost:8288", "https://10.1.2.3"):
    print(Network().via(url))
"""
    lines = after(shell_example("HTTPS_PROXY"), python).splitlines()
    assert lines[1:] == ["", "", ""]
    assert lines[0]
    assert lines[0] in PAGE.replace("proxy\nhttp", "proxy http")


def test_the_bundle_of_the_documentation_is_one(
    authority: Authority, tmp_path: pathlib.Path
) -> None:
    code = shell_example("SSL_CERT_FILE")
    assert "/etc/ssl/certs/ca-certificates.crt" in code
    code = code.replace("/etc/ssl/certs/ca-certificates.crt", certifi.where())
    authority.file.rename(tmp_path / "company-ca.pem")
    python = "import os; print(os.environ['SSL_CERT_FILE'])"
    file = after(code, python, cwd=tmp_path).strip()
    handshake(trust.make_context({"SSL_CERT_FILE": file}), authority.server())


def test_the_extra_of_the_documentation_exists() -> None:
    assert 'pip install "inngest-connect-asgi[socks]"' in PAGE
    found = importlib.metadata.metadata("inngest-connect-asgi")
    assert "socks" in (found.get_all("Provides-Extra") or [])
