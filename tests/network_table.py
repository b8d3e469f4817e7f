"""What gets through which proxy, as a table of the documentation.

    python -m tests.network_table            prints it
    python -m tests.network_table --write    writes it into docs/network.md

Runs a worker for each cell, against LocalGateway, through a proxy on loopback. The page
has a place for each Python that it is made with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from unittest import mock

from inngest_connect_asgi import ConfigurationError, StartupError
from inngest_connect_asgi.testing import LocalGateway

from .proxies import HttpProxy, SocksProxy
from .ways import Authority, clean, go, over_tls

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "network.md"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
BEGIN, END = (f"<!-- Python {VERSION}: {what} -->\n" for what in ("begin", "end"))

Proxy = HttpProxy | SocksProxy
CREDENTIALS = ("user", "p@ss%word")
USER_INFO = "user:p%40ss%25word"

ROWS: list[tuple[str, str, Callable[[Authority], Proxy], str]] = [
    ("none", "", lambda _: HttpProxy(), ""),
    ("`http://`", "http", lambda _: HttpProxy(), ""),
    ("`http://user:password@`", "http", lambda _: _with(HttpProxy), USER_INFO),
    ("`https://`", "https", lambda a: HttpProxy(tls=a.server()), ""),
    ("`socks5://`", "socks5", lambda _: SocksProxy(), ""),
    ("`socks5://user:password@`", "socks5", lambda _: _with(SocksProxy), USER_INFO),
    ("`socks5h://`", "socks5h", lambda _: SocksProxy(), ""),
]
COLUMNS = [
    (isolation, secure)
    for isolation in ("thread", "process")
    for secure in (True, False)
]
PACKAGES = ("httpx", "websockets", "python-socks", "socksio", "certifi")


def _with(kind: type[HttpProxy] | type[SocksProxy]) -> Proxy:
    return kind(credentials=CREDENTIALS)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, {**clean(os.environ), **variables}, clear=True):
        yield


def cell(
    gateway: LocalGateway,
    authority: Authority,
    proxy: Proxy,
    url: str,
    isolation: str,
    secure: bool,
) -> str:
    """What went through the proxy: API, gateway, both, or neither."""
    variables = {"SSL_CERT_FILE": str(authority.file)}
    variables["INNGEST_CONNECT_ISOLATION"] = isolation
    if url:
        variables["HTTPS_PROXY" if secure else "HTTP_PROXY"] = url
    plain = contextlib.nullcontext((gateway.api_port, gateway.gateway_port))
    tls = over_tls(gateway, authority.server()) if secure else plain
    proxy.joined.clear()
    with environment(**variables), tls as (api_port, gateway_port):
        origin = f"http{'s' if secure else ''}://127.0.0.1:{api_port}"
        try:
            asyncio.run(go(gateway, origin))
        except ConfigurationError:
            return "refused at start-up"
        except StartupError as error:
            return f"FAILS: {error}"
        except ValueError:
            return "refused by httpx"
    names = {api_port: "API", gateway_port: "gateway"}
    through = [name for port, name in names.items() if port in proxy.joined]
    return " and ".join(through) or "straight"


def table() -> str:
    """The table, and what it was made with."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    head = ["proxy", *(f"{i}, {'TLS' if s else 'plain'}" for i, s in COLUMNS)]
    lines = [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    with tempfile.TemporaryDirectory() as directory, LocalGateway() as gateway:
        authority = Authority(pathlib.Path(directory))
        for name, scheme, make, user_info in ROWS:
            with make(authority) as proxy:
                url = proxy.url(user_info, scheme) if scheme else ""
                cells = [
                    cell(gateway, authority, proxy, url, *column) for column in COLUMNS
                ]
            lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += ["", f"With Python {platform.python_version()}, {versions}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    made = table()
    print(made)
    if "--write" in arguments:
        text = PAGE.read_text()
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise SystemExit(f"{PAGE} has no place for it")
        PAGE.write_text(f"{before}{begin}\n{made}\n{end}{after}")
    return 1 if "FAILS" in made else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
