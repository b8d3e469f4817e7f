"""Which URLs a gateway may have."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["gateway_scheme"]

MAX_LENGTH = 2048
"""Characters."""


def gateway_scheme(url: str) -> str:
    """Check a URL, and return its scheme: ``ws`` or ``wss``.

    Raises:
        ValueError: ``url`` is no gateway's; says why, and does not repeat it.
    """
    if len(url) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("not made of printable ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # Its message would repeat a part of the URL.
        raise ValueError("not a URL") from None
    if parts.scheme not in ("ws", "wss"):
        raise ValueError("not a ws:// or wss:// URL")
    if not host or port == 0:
        raise ValueError("without a host, or with a port that is none")
    if "@" in parts.netloc:
        raise ValueError("with a user name or a password in it")
    if parts.fragment:
        raise ValueError("with a fragment, which no WebSocket URL has")
    return parts.scheme
