"""Ask a health endpoint, for images that have no curl.

It asks the app itself, so it goes through no proxy, whatever the environment says.
"""

from __future__ import annotations

import http.client
import json
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ConnectError, describe, one_line

if TYPE_CHECKING:
    import ssl

__all__ = ["DEFAULT_URL", "check", "report"]

DEFAULT_URL = "http://127.0.0.1:8000/healthz"

TIMEOUT = 5.0
"""Seconds for all of it: a socket's own would be for each read, which an answer in
drops never exceeds."""


def check(url: str = DEFAULT_URL) -> int:
    """Print one line on the health behind ``url``.

    Returns:
        The exit code: 0 for a healthy worker, 1 for anything else.
    """
    status, _, reason = _ask(url)
    healthy = status == 200
    shown = one_line(url)
    print(f"{'healthy' if healthy else 'unhealthy'}: {reason} ({shown})")
    return 0 if healthy else 1


def report(url: str) -> tuple[dict[str, Any], str]:
    """The report that an app serves at ``url``; empty where it serves none.

    Returns:
        The report, and in one line what it says, or why there is none.
    """
    _, found, reason = _ask(url)
    return found, reason


def _ask(url: str) -> tuple[int, dict[str, Any], str]:
    """The status, or 0, the report and a reason. Raises nothing."""
    answers: list[tuple[int, dict[str, Any], str]] = []
    # One that hangs, in a look-up of a name for instance, is not waited for.
    thread = threading.Thread(target=lambda: answers.append(_answer(url)), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if answers:
        return answers[0]
    return 0, {}, f"no whole answer within {TIMEOUT:g} seconds"


def _answer(url: str) -> tuple[int, dict[str, Any], str]:
    try:
        status, body = _get(url)
    except (OSError, ValueError, ConnectError, http.client.HTTPException) as error:
        return 0, {}, one_line(str(error)) or describe(error)
    except BaseException as error:
        return 0, {}, describe(error)
    found = _parse(body)
    return status, found, _reason(found) or f"HTTP status {status}"


def _get(url: str) -> tuple[int, bytes]:
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
        return response.status, response.read(1024 * 1024)
    finally:
        connection.close()


def _trust() -> ssl.SSLContext:
    # Not at the top: hardly anybody has TLS there, and it would take longer to import
    # than all the rest.
    from ..network import trust

    return trust.make_context()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(report: dict[str, Any]) -> str:
    reason = str(report.get("output") or report.get("status") or "")
    return one_line(" ".join(reason.split()))
