"""The health endpoints, as a Starlette app."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from . import page
from .report import Health, Verdict

__all__ = ["health_app", "paths"]

HEALTH_JSON = "application/health+json"
_HEADERS = {"cache-control": "no-store"}


def paths(path: str) -> tuple[str, str, str]:
    """The report, and the verdicts for probes."""
    return path, f"{path}/live", f"{path}/ready"


def health_app(health: Callable[[], Health], path: str, *, details: bool) -> Starlette:
    """Serve ``path``, ``path/live`` and ``path/ready`` for GET and HEAD.

    Args:
        health: The health to serve, at the moment it is asked for.
        path: Where, as ``/healthz``.
        details: Whether to say more than the status.
    """

    async def report(request: Request) -> Response:
        now = health()
        status = 503 if now.status() == "fail" else 200
        if details and "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(page.render(now), status, page.HEADERS | _HEADERS)
        return _json(now.report(details=details), status)

    async def live(request: Request) -> Response:
        return _verdict(health().live())

    async def ready(request: Request) -> Response:
        return _verdict(health().ready())

    def _verdict(verdict: Verdict) -> Response:
        body = {"status": "pass" if verdict.healthy else "fail"}
        if details:
            body["output"] = verdict.reason
        return _json(body, 200 if verdict.healthy else 503)

    endpoints = zip(paths(path), (report, live, ready), strict=True)
    return Starlette(routes=[Route(*each) for each in endpoints])


def _json(body: object, status: int) -> Response:
    return Response(
        json.dumps(body, indent=2) + "\n",
        status,
        headers=_HEADERS,
        media_type=HEALTH_JSON,
    )
