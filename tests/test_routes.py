"""An app with a route of its own where the health endpoints answer."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import fastapi
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.asgi.routes import shadowed
from inngest_connect_asgi.health.endpoints import paths
from inngest_connect_asgi.testing import LocalGateway

from .harness import close_http, lifespan, make_client, make_function, run
from .scenarios.test_frameworks import noop

PATHS = list(paths("/healthz"))


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("mine")


def found(app: object, base: str = "/healthz") -> list[str]:
    return shadowed(app, base, paths(base))


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], []),
        ([Route("/", page), Route("/health", page)], []),
        ([Route("/healthz", page)], PATHS[:1]),
        # Ours answers there, if only that it does not take it.
        ([Route("/healthz", page, methods=["POST"])], PATHS[:1]),
        ([Route("/healthz/live", page)], PATHS[1:2]),
        ([Route("/healthz/{what}", page)], PATHS[1:]),
        ([Mount("/healthz", PlainTextResponse("all of it"))], PATHS[1:]),
        ([Mount("/", routes=[Route("/healthz", page)])], PATHS[:1]),
        ([Mount("/api", routes=[Route("/healthz", page)])], []),
        ([WebSocketRoute("/healthz", page)], []),
        # Whatever comes.
        ([Route("/{path:path}", page)], []),
        ([Route("/{one}", page), Route("/{one}/{two}", page)], []),
        ([Mount("/", StaticFiles(directory="."))], []),
        ([Route("/healthz", page), Route("/{path:path}", page)], PATHS[:1]),
    ],
)
def test_starlette(routes: list[BaseRoute], expected: list[str]) -> None:
    assert found(Starlette(routes=routes)) == expected
    assert found(GZipMiddleware(Starlette(routes=routes))) == expected


def test_fastapi() -> None:
    app, router = FastAPI(), APIRouter(prefix="/status")
    router.get("/ready")(page)
    app.include_router(router)
    app.mount("/sub", FastAPI())
    assert found(app, "/status") == ["/status/ready"]
    assert found(app, "/docs") == ["/docs"]
    assert found(app) == []


def test_litestar() -> None:
    litestar = pytest.importorskip("litestar", reason="nothing was tested with it")

    async def mine() -> str:
        return "mine"

    routes = [
        litestar.get("/healthz/live")(mine),
        litestar.post("/healthz/ready")(mine),
        litestar.get("/")(mine),
    ]
    app = litestar.Litestar(routes)
    assert found(GZipMiddleware(app)) == PATHS[1:]
    assert found(app, "/status") == []


def test_quart() -> None:
    quart = pytest.importorskip("quart", reason="nothing was tested with it")
    app = quart.Quart("shop")

    async def mine(**names: str) -> str:
        return "mine"

    app.route("/healthz")(mine)
    app.route("/healthz/live", methods=["POST"])(mine)
    app.route("/<path:name>", endpoint="whatever")(mine)
    assert found(app.asgi_app) == PATHS[:2]
    assert found(app, "/status") == []


async def bare(*_: object) -> None: ...


class Odd:
    """Looks like something that it is not."""

    def __init__(self, routes: object) -> None:
        self.routes = routes
        self.app = self

    async def __call__(self, *_: object) -> None: ...


class Refuses:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "app",
    [bare, None, Odd(3), Odd([3]), Odd({"/healthz": page}), Refuses()],
    ids=["bare", "none", "number", "of numbers", "of strings", "refuses"],
)
def test_of_other_apps_nothing_is_known(app: object) -> None:
    assert found(app) == []


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("how", ["added", "around", "among others"])
def test_the_app_is_told_at_start_up(
    gateway: LocalGateway,
    caplog: pytest.LogCaptureFixture,
    how: str,
    enabled: bool,
) -> None:
    async def main() -> None:
        client = make_client(gateway)
        app = FastAPI()
        app.get("/healthz")(page)
        options: dict[str, Any] = {
            "client": client,
            "functions": [make_function(client, noop)],
            "enabled": enabled,
        }
        served: Any = app
        if how == "around":
            served = InngestConnectMiddleware(app, **options)
        else:
            app.add_middleware(InngestConnectMiddleware, **options)
        if how == "among others":

            async def passes(request: Request, call_next: Callable[..., Any]) -> Any:
                return await call_next(request)

            app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
        async with lifespan(served):
            pass
        await close_http(client)

    run(main)
    (line,) = [r.message for r in caplog.records if "route of its own" in r.message]
    assert "/healthz," in line
    assert "health_path=" in line


def test_nothing_is_said_where_there_is_nothing(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        client = make_client(gateway)
        app = fastapi.FastAPI()
        app.get("/healthz")(page)
        app.add_middleware(
            InngestConnectMiddleware,
            client=client,
            functions=[make_function(client, noop)],
            health_path="/status",
        )
        async with lifespan(app):
            pass
        await close_http(client)

    run(main)
    assert not [r for r in caplog.records if "route of its own" in r.message]


DJANGO = """
import sys
from django.conf import settings
settings.configure(ROOT_URLCONF="urls", SECRET_KEY="x", ALLOWED_HOSTS=["*"])
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import include, path, re_path
sys.modules["urls"] = sys.modules["__main__"]
view = lambda request: HttpResponse("mine")
urlpatterns = {
    "none": [],
    "exact": [path("healthz", view)],
    "pattern": [re_path("^healthz/(live|ready)$", view)],
    "included": [path("healthz/", include([path("live", view)]))],
    "all": [re_path("^.*$", view)],
    "broken": 3,
}[sys.argv[1]]
from inngest_connect_asgi.asgi.routes import shadowed
from starlette.middleware.gzip import GZipMiddleware
import json
paths = "/healthz", "/healthz/live", "/healthz/ready"
print(json.dumps(shadowed(GZipMiddleware(get_asgi_application()), paths[0], paths)))
"""


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ("none", []),
        ("exact", PATHS[:1]),
        ("pattern", PATHS[1:]),
        ("included", PATHS[1:2]),
        ("all", []),
        ("broken", []),
    ],
)
def test_django(urls: str, expected: list[str], tmp_path: pathlib.Path) -> None:
    pytest.importorskip("django", reason="nothing was tested with Django")
    command = [sys.executable, "-c", DJANGO, urls]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    assert json.loads(output) == expected
