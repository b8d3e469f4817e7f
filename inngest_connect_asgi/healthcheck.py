"""Ask a health endpoint, for images that have no curl.

It asks the app itself, so it goes through no proxy, whatever the environment says.
"""

from __future__ import annotations

import http.client
import json
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .errors import ConnectError, describe, one_line

if TYPE_CHECKING:
    import ssl

__all__ = ["DEFAULT_URL", "check"]

DEFAULT_URL = "http://127.0.0.1:8000/healthz"

TIMEOUT = 5.0
"""Seconds for all of it: a socket's own would be for each read, which an answer in
drops never exceeds."""


def check(url: str = DEFAULT_URL) -> int:
    """Print one line on the health behind ``url``.

    Returns:
        The exit code: 0 for a healthy worker, 1 for anything else.
    """
    status, reason = 0, f"no whole answer within {TIMEOUT:g} seconds"
    answers: list[tuple[int, str]] = []
    # One that hangs, in a look-up of a name for instance, is not waited for.
    thread = threading.Thread(target=lambda: answers.append(_ask(url)), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if answers:
        status, reason = answers[0]
    healthy = status == 200
    shown = one_line(url)
    print(f"{'healthy' if healthy else 'unhealthy'}: {reason} ({shown})")
    return 0 if healthy else 1


def _ask(url: str) -> tuple[int, str]:
    """The status, or 0, and a reason. Raises nothing."""
    try:
        return _get(url)
    except (OSError, ValueError, ConnectError, http.client.HTTPException) as error:
        return 0, one_line(str(error)) or describe(error)
    except BaseException as error:
        return 0, describe(error)


def _get(url: str) -> tuple[int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # Its message would repeat a part of the URL.
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError("not an http:// or https:// URL")
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT, context=_trust()
        )
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", (parts.path or "/") + query)
        response = connection.getresponse()
        body = response.read(1024 * 1024)
    finally:
        connection.close()
    return response.status, _reason(body) or f"HTTP status {response.status}"


def _trust() -> ssl.SSLContext:
    # Not at the top: hardly anybody has TLS there, and it would take longer to import
    # than all the rest.
    from . import trust

    return trust.make_context()


def _reason(body: bytes) -> str:
    try:
        report = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(report, dict):
        return ""
    reason = str(report.get("output") or report.get("status") or "")
    return one_line(" ".join(reason.split()))
