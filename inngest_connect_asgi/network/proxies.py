"""Which proxy a URL is reached by: the environment's word, read once and for all."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urlsplit

from ..errors import ConfigurationError

__all__ = ["Proxy", "choose", "variables"]

# wss is chosen like https, and ws like http: both are HTTP at first.
_KINDS = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_TARGET_PORTS = {"http": 80, "https": 443}
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True)
class Proxy:
    """A proxy, and who named it. As a text it has no credentials."""

    scheme: str
    """``http``, ``https``, ``socks5`` or ``socks5h``."""
    host: str
    port: int
    source: str
    """The environment variable."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    """``None`` where there is no user name, and else at least empty."""

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def credentials(self) -> str:
        """``user:password@`` as a URL has it, or nothing."""
        if self.username is None:
            return ""
        return f"{quote(self.username, safe='')}:{quote(self.password or '', safe='')}@"

    @property
    def raw_credentials(self) -> str:
        """The same as they are, for who decodes nothing."""
        return "" if self.username is None else f"{self.username}:{self.password}@"

    @property
    def is_plain(self) -> bool:
        """Whether the credentials stay whole in a URL as they are."""
        raw = f"{self.username or ''}{self.password or ''}"
        return (
            ":" not in (self.username or "")
            and raw.isascii()
            and raw.isprintable()
            and not set(raw) & set("/?#[] ")
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def choose(url: str, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy for an ``http``, ``https``, ``ws`` or ``wss`` URL; ``None``: straight.

    ``HTTPS_PROXY`` is for ``https`` and ``wss``, ``HTTP_PROXY`` for ``http`` and
    ``ws``, ``ALL_PROXY`` for what has none of its own, and ``NO_PROXY`` names what is
    reached without. In lower case, they go before those in upper case.

    Raises:
        ConfigurationError: The variable that counts names no proxy. The message does
            not repeat it: there may be a password in it.
    """
    target = _target(url)
    if target is None:
        return None
    kind, host, port = target
    named = variables(environ)
    proxies = named.keys() - {"no"}
    if not proxies and sys.platform == "darwin":
        return _of_the_system(kind, host)
    name = kind if kind in proxies else "all"
    if name not in proxies:
        return None
    if "no" in named and _excepted(host, port, named["no"][1]):
        return None
    return _parse(*named[name])


def variables(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Those of the environment that name proxies, and their values.

    By ``http``, ``https``, ``all`` and ``no``. The rules are those of urllib: lower
    case goes before upper case, even if it is empty, and ``HTTP_PROXY`` does not count
    under CGI, where it is a header of the request.
    """
    found = {}
    for variable, value in environ.items():
        name, suffix = variable[:-6].lower(), variable[-6:].lower()
        if suffix == "_proxy" and name in ("http", "https", "all", "no") and value:
            found[name] = variable, value
    if "REQUEST_METHOD" in environ:
        found.pop("http", None)
    for name in ("http", "https", "all", "no"):
        if (lower := environ.get(f"{name}_proxy")) is not None:
            found.pop(name, None)
            if lower:
                found[name] = f"{name}_proxy", lower
    return {name: pair for name, pair in found.items() if pair[1].strip()}


def _target(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    kind = _KINDS.get(parts.scheme)
    if kind is None or not host:
        return None
    return kind, host.rstrip("."), port or _TARGET_PORTS[kind]


def _of_the_system(kind: str, host: str) -> Proxy | None:
    """What is set in macOS' network settings, where no variable is."""
    named = urllib.request.getproxies()
    value = named.get(kind)
    if value is None and (socks := named.get("socks")) is not None:
        value = "socks5://" + socks.rpartition("://")[2]
    if value is None or urllib.request.proxy_bypass(host):
        return None
    return _parse("the system's network settings", value)


def _parse(source: str, value: str) -> Proxy:
    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(
            f"{source} must be the URL of a proxy, such as "
            f"http://proxy.example.com:3128; this one {why}"
        )

    value = value.strip()
    scheme, separator, rest = value.partition("://")
    if not separator:
        # As curl and urllib have it.
        scheme, rest = "http", value
    scheme = scheme.lower()
    if scheme == "socks":
        # What desktops set; nobody means version 4.
        scheme = "socks5"
    if scheme not in _PORTS:
        # Repeated only if it can't be anything else.
        what = f"scheme {scheme}" if re.fullmatch(r"socks\w{1,2}", scheme) else "scheme"
        raise wrong(
            f"has a {what} that is not supported; http, https, socks5 and socks5h are"
        )
    # A user name or a password may have any character in it, though it should not.
    user_info, at, rest = rest.rpartition("@")
    try:
        parts = urlsplit("//" + re.split(r"[/?#\\]", rest, maxsplit=1)[0])
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        raise wrong("has a host or a port that is none") from None
    if not host or port == 0 or not host.isprintable() or " " in host:
        raise wrong("has no host" if not host else "has a host or a port that is none")
    proxy = Proxy(scheme, host, port or _PORTS[scheme], source)
    if not at:
        return proxy
    username, _, password = user_info.partition(":")
    return replace(proxy, username=unquote(username), password=unquote(password))


def _excepted(host: str, port: int, patterns: str) -> bool:
    """Whether NO_PROXY names a host: itself, its domain, its network, or all."""
    address = _address(host)
    for pattern in re.split(r"[\s,]+", patterns.lower()):
        # Not meant to be URLs, but written as such.
        pattern = (
            pattern.rpartition("://")[2].rstrip("/") if "://" in pattern else pattern
        )
        if not pattern:
            continue
        if pattern == "*":
            return True
        name, wanted = _split_port(pattern)
        if wanted is not None and wanted != port:
            continue
        if address is not None:
            try:
                network = ipaddress.ip_network(name, strict=False)
            except ValueError:
                continue
            if address.version == network.version and address in network:
                return True
            continue
        domain = name.removeprefix("*").strip(".")
        if domain and (host == domain or host.endswith("." + domain)):
            return True
    return False


def _split_port(pattern: str) -> tuple[str, int | None]:
    if pattern.startswith("["):
        name, _, rest = pattern[1:].partition("]")
        port = rest.removeprefix(":")
    elif pattern.count(":") == 1:
        name, _, port = pattern.partition(":")
    else:
        return pattern, None
    return name, int(port) if port.isdecimal() else None


def _address(
    host: str,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
