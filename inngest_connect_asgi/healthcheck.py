"""Ask a health endpoint, for images that have no curl."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

__all__ = ["DEFAULT_URL", "check"]

DEFAULT_URL = "http://127.0.0.1:8000/healthz"

TIMEOUT = 5.0
"""Seconds."""


def check(url: str = DEFAULT_URL) -> int:
    """Print one line on the health behind ``url``.

    Returns:
        The exit code: 0 for a healthy worker, 1 for anything else.
    """
    try:
        status, reason = _get(url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        status, reason = 0, str(error) or type(error).__name__
    healthy = status == 200
    print(f"{'healthy' if healthy else 'unhealthy'}: {reason} ({url})")
    return 0 if healthy else 1


def _get(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// URL")
    secure = parts.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(parts.hostname, parts.port, timeout=TIMEOUT)
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", (parts.path or "/") + query)
        response = connection.getresponse()
        body = response.read(1024 * 1024)
    finally:
        connection.close()
    return response.status, _reason(body) or f"HTTP status {response.status}"


def _reason(body: bytes) -> str:
    try:
        report = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(report, dict):
        return ""
    reason = str(report.get("output") or report.get("status") or "")
    return " ".join(reason.split())
