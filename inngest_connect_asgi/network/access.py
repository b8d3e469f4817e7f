"""One way into the network, for the API and for gateways.

Two libraries go there, and each reads the environment in its own way. So both are
told not to, and are given what is decided here: which proxy, and whom to trust.
"""

from __future__ import annotations

import base64
import functools
import os
import ssl
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .. import libraries
from ..errors import ConfigurationError, describe, one_line
from . import proxies, trust
from .proxies import Proxy

if TYPE_CHECKING:
    import httpx

__all__ = [
    "INHERITED",
    "Network",
    "check",
    "check_variables",
    "for_a_child",
    "split_credentials",
]

INHERITED = (
    "HOSTALIASES",
    "LOCALDOMAIN",
    "OPENSSL_CONF",
    "OPENSSL_CONF_INCLUDE",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "RES_OPTIONS",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
"""Variables that a process must have from its start to go the same way. No secrets."""

_SOCKS_PACKAGES = {"python_socks": (2, 6), "socksio": (1, 0)}
"""What the extra ``socks`` brings, and from which version on it fits."""


class Network:
    """How a runtime reaches what it speaks to: made once, asked for every URL.

    Args:
        environ: Is read now, and not again.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = dict(environ)
        self._trust: ssl.SSLContext | None = None

    def proxy(self, url: str) -> Proxy | None:
        """The proxy for a URL, or ``None``.

        Raises:
            ConfigurationError: There is one that can't be used.
        """
        proxy = proxies.choose(url, self._environ)
        if proxy is not None:
            _check_proxy(proxy, url)
        return proxy

    def via(self, url: str) -> str:
        """`` through the proxy ...``, for a message, or nothing. Raises nothing."""
        try:
            proxy = proxies.choose(url, self._environ)
        except ConfigurationError:
            return ""
        return "" if proxy is None else f" through the proxy {proxy} ({proxy.source})"

    def way(self, url: str) -> str:
        """Which proxy, and why, for a person.

        Raises:
            ConfigurationError: There is one that can't be used.
        """
        proxy = self.proxy(url)
        if proxy is not None:
            return f"{proxy} from {proxy.source}"
        named = proxies.variables(self._environ)
        others = [variable for name, (variable, _) in named.items() if name != "no"]
        if not others:
            return "none, as no variable names one"
        if "no" in named and self._is_excepted(url):
            return f"none, by {named['no'][0]}"
        return f"none: {', '.join(others)} is for other schemes"

    def _is_excepted(self, url: str) -> bool:
        """Whether there would be a proxy but for NO_PROXY."""
        return proxies.choose(url, _without_exceptions(self._environ)) is not None

    def explain(self, error: BaseException) -> str:
        """What went wrong, in one line without credentials."""
        text = describe(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            text = one_line(
                f"{text} (trusted: {trust.description(self._environ)})", 800
            )
        return text

    @property
    def trust(self) -> ssl.SSLContext:
        """The one context for all: loaded when it is first needed.

        Raises:
            ConfigurationError: The environment names what can't be loaded.
        """
        # An app may inject truststore late, and asyncio takes no context of the class
        # that was there before.
        if self._trust is None or not isinstance(self._trust, ssl.SSLContext):
            self._trust = trust.make_context(self._environ)
        return self._trust

    def http_client(self, origin: str, timeout: float) -> httpx.AsyncClient:
        """A client for one origin, and for no other.

        Args:
            timeout: Seconds.

        Raises:
            ConfigurationError: A proxy or a trust store can't be used.
        """
        import httpx

        proxy = self.proxy(origin)
        # Without TLS there is nobody to trust, and nothing to load.
        secure = origin.lower().startswith("https:")
        return httpx.AsyncClient(
            timeout=timeout,
            trust_env=False,
            verify=self.trust if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            proxy=None if proxy is None else self._httpx_proxy(proxy),
            event_hooks=(
                {"request": [_close_what_is_refused]}
                if proxy is not None and proxy.is_socks
                else {}
            ),
        )

    def _httpx_proxy(self, proxy: Proxy) -> httpx.Proxy:
        import httpx

        # A name is resolved by the proxy, whatever the scheme; the oldest versions
        # know only this one.
        scheme = "socks5" if proxy.is_socks else proxy.scheme
        auth = None
        if proxy.username is not None:
            auth = _SecretText(proxy.username), _SecretText(proxy.password or "")
        return httpx.Proxy(
            f"{scheme}://{proxy.address}",
            auth=auth,
            ssl_context=self.trust if proxy.scheme == "https" else None,
        )

    def websocket(self, url: str) -> dict[str, Any]:
        """Arguments for ``websockets``' ``connect``.

        Raises:
            ConfigurationError: A proxy or a trust store can't be used.
        """
        proxy = self.proxy(url)
        options: dict[str, Any] = {"proxy": None}
        if url.lower().startswith("wss:"):
            options["ssl"] = self.trust
        if proxy is not None:
            # As with httpx, the proxy resolves.
            scheme = "socks5h" if proxy.is_socks else proxy.scheme
            credentials = (
                proxy.credentials if _websockets_decodes() else proxy.raw_credentials
            )
            options["proxy"] = f"{scheme}://{credentials}{proxy.address}"
            if proxy.scheme == "https":
                options["proxy_ssl"] = self.trust
        return options


async def _close_what_is_refused(request: httpx.Request) -> None:
    """Have httpcore leave no socket open where a SOCKS proxy does not let through.

    It would forget the connection to the proxy without closing it, at every attempt.
    """
    stream: Any = None

    async def trace(event: str, info: dict[str, Any]) -> None:
        nonlocal stream
        if event == "socks.connect_tcp.complete":
            stream = info["return_value"]
        elif event == "socks.setup_socks5_connection.failed" and stream is not None:
            await stream.aclose()

    request.extensions["trace"] = trace


class _SecretText(str):
    """What httpx makes of it shows nothing: httpcore logs it at DEBUG, for SOCKS."""

    def __repr__(self) -> str:
        return "'***'"

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return _SecretBytes(super().encode(encoding, errors))


class _SecretBytes(bytes):
    def __repr__(self) -> str:
        return "b'***'"


def check(
    origin: str, gateway_url: str | None, environ: Mapping[str, str] = os.environ
) -> None:
    """Check what the environment says about the way to the API and the gateway.

    Raises:
        ConfigurationError: It names a proxy or an authority that can't be used; the
            message names the variable and the mend.
    """
    network = Network(environ)
    urls = [origin] if gateway_url is None else [origin, gateway_url]
    found = [network.proxy(url) for url in urls]
    if any(url.lower().startswith(("https:", "wss:")) for url in urls) or any(
        proxy is not None and proxy.scheme == "https" for proxy in found
    ):
        trust.check(environ)


def check_variables(environ: Mapping[str, str] = os.environ) -> None:
    """Check all that the environment says, whether or not it is needed here.

    Raises:
        ConfigurationError: As :func:`check` does.
    """
    for scheme in ("http", "https"):
        proxy = proxies.choose(f"{scheme}://host.invalid", _without_exceptions(environ))
        if proxy is not None:
            _check_proxy(proxy, scheme)
    trust.check(environ)


def _without_exceptions(environ: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environ.items() if k.lower() != "no_proxy"}


def _check_proxy(proxy: Proxy, url: str) -> None:
    if proxy.is_socks:
        wanted = dict(_SOCKS_PACKAGES)
        if sys.version_info < (3, 11):
            wanted["async_timeout"] = (4, 0)
        missing = [
            f"{name.replace('_', '-')}>={'.'.join(map(str, version))}"
            for name, version in wanted.items()
            if not _is_there(name, version)
        ]
        if missing:
            packages = " and ".join(missing)
            raise ConfigurationError(
                f"{proxy.source} names a SOCKS proxy, which needs {packages}: "
                'pip install "inngest-connect-asgi[socks]"'
            )
    if not proxy.is_plain and not _websockets_decodes():
        version = libraries.version("websockets")
        raise ConfigurationError(
            f"{proxy.source} has a character in its user name or password that "
            f"websockets {version} can't hand to a proxy: one of / ? # [ ], a blank, "
            "or none of ASCII; upgrade to websockets 17.2, which needs Python 3.11, or "
            "change the password"
        )
    if proxy.is_socks and not proxy.raw_credentials.isascii():
        raise ConfigurationError(
            f"{proxy.source} has a character beyond ASCII in its user name or "
            "password, which python-socks does not send; change it"
        )
    if (
        proxy.scheme == "https"
        and sys.version_info < (3, 11)
        and url.lower().startswith(("https:", "wss:"))
    ):
        raise ConfigurationError(
            f"{proxy.source} names a proxy that is itself reached over TLS, {proxy}; "
            "asyncio can speak TLS within TLS from Python 3.11 on: upgrade Python, or "
            "name an http:// proxy"
        )


@functools.cache
def _websockets_decodes() -> bool:
    """Whether it takes passwords as URLs have them; before 17.2, as they are."""
    try:
        from websockets.proxy import parse_proxy
    except ImportError:
        from websockets.uri import parse_proxy  # type: ignore[attr-defined,no-redef]
    return bool(parse_proxy("http://%61:b@host:1").username == "a")


def _is_there(name: str, version: tuple[int, int]) -> bool:
    if not libraries.is_installed(name):
        return False
    try:
        parts = metadata.version(name.replace("_", "-")).split(".")
        return (int(parts[0]), int(parts[1])) >= version
    except Exception:
        # Vendored, or with a version like no other: whoever did that knows better.
        return True


def for_a_child(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for a process that is to go the same way, not to be seen by others.

    There may be passwords in them.
    """
    return dict(proxies.variables(environ).values())


def split_credentials(origin: str) -> tuple[str, str | None]:
    """An origin without its user name and password, and the header they stand for.

    httpx would log them with every call.
    """
    scheme, separator, rest = origin.partition("://")
    authority, slash, path = rest.partition("/")
    user_info, at, host = authority.rpartition("@")
    if not (separator and at):
        return origin, None
    username, _, password = user_info.partition(":")
    pair = f"{unquote(username)}:{unquote(password)}".encode()
    header = f"Basic {base64.b64encode(pair).decode()}"
    return f"{scheme}{separator}{host}{slash}{path}", header
