"""The middleware as each framework's own documentation has it, and without one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import logging
import logging.config
from collections.abc import AsyncIterator, Iterator
from typing import Any

import fastapi
import httpx
import inngest
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from inngest_connect_asgi import (
    ConfigurationError,
    InngestConnectMiddleware,
    StartupError,
    connect_worker,
)
from inngest_connect_asgi.asgi import middleware
from inngest_connect_asgi.isolation import supervisor
from inngest_connect_asgi.messages import Start
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.service import Worker

from ..harness import (
    StartupFailed,
    close_http,
    closings,
    lifespan,
    make_client,
    make_function,
    off_loop,
    run,
)


async def noop(ctx: inngest.Context) -> str:
    return "done"


async def check(app: Any, gateway: LocalGateway) -> None:
    """The app serves, a function runs, and health is answered."""
    async with lifespan(app):
        await off_loop(gateway.wait_for_worker)
        ended = await off_loop(gateway.wait_for_run, gateway.send("test"))
        assert ended.output == "done"
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            assert (await http.get("/")).text == "home"
            assert (await http.get("/healthz/live")).status_code == 200
    (closed,) = closings(gateway)
    assert closed.reason == "WORKER_SHUTDOWN"


def test_starlette(gateway: LocalGateway) -> None:
    async def home(request: Request) -> PlainTextResponse:
        return PlainTextResponse("home")

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        app = Starlette(
            routes=[Route("/", home)],
            middleware=[
                Middleware(InngestConnectMiddleware, client=client, functions=functions)
            ],
        )
        await check(app, gateway)

    run(main)


def test_fastapi(gateway: LocalGateway) -> None:
    async def main() -> None:
        client = make_client(gateway)
        app = fastapi.FastAPI()
        app.add_middleware(
            InngestConnectMiddleware,
            client=client,
            functions=[make_function(client, noop)],
        )

        @app.get("/", response_class=fastapi.responses.PlainTextResponse)
        async def home() -> str:
            return "home"

        await check(app, gateway)

    run(main)


@pytest.mark.parametrize("enabled", ["0", "1"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK's serve
def test_serve_beside_connect_during_a_deploy(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, enabled: str
) -> None:
    """What docs/migration.md says of a deploy, and of the way back."""
    monkeypatch.setenv("INNGEST_CONNECT_ENABLED", enabled)

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        app = fastapi.FastAPI()
        serve = importlib.import_module("inngest.fast_api").serve
        serve(app, client, functions)
        app.add_middleware(InngestConnectMiddleware, client=client, functions=functions)
        transport = httpx.ASGITransport(app)
        async with (
            lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://a") as http,
        ):
            answer = await http.get("/api/inngest")
            assert answer.status_code == 200
            assert answer.json()["function_count"] == 1
            if enabled == "1":
                await off_loop(gateway.wait_for_worker)
                ended = await off_loop(gateway.wait_for_run, gateway.send("test"))
                assert ended.output == "done"
        await close_http(client)

    run(main)
    assert len(gateway.connections) == int(enabled)


def test_litestar(gateway: LocalGateway) -> None:
    """Litestar's ``middleware=`` is for requests; its lifespan is outside of it."""
    litestar = pytest.importorskip("litestar", reason="Litestar was not tested")

    async def main() -> None:
        client = make_client(gateway)

        @litestar.get("/", media_type="text/plain", sync_to_thread=False)
        def home() -> str:
            return "home"

        app = InngestConnectMiddleware(
            litestar.Litestar(route_handlers=[home]),
            client=client,
            functions=[make_function(client, noop)],
        )
        await check(app, gateway)

    run(main)


def test_quart(gateway: LocalGateway) -> None:
    quart = pytest.importorskip("quart", reason="Quart was not tested")

    async def main() -> None:
        client = make_client(gateway)
        app = quart.Quart(__name__)

        @app.get("/")
        async def home() -> str:
            return "home"

        # As Quart's documentation adds ASGI middleware.
        app.asgi_app = InngestConnectMiddleware(
            app.asgi_app, client=client, functions=[make_function(client, noop)]
        )
        await check(app, gateway)

    run(main)


# connect_worker


def test_a_worker_for_as_long_as_a_block_lasts(gateway: LocalGateway) -> None:
    async def main() -> None:
        client = make_client(gateway)
        async with connect_worker(client, [make_function(client, noop)]) as worker:
            await worker.ready()
            ended = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert ended.output == "done"
            while worker.health()["status"] != "pass":
                await asyncio.sleep(0.02)
        assert worker.health()["output"].startswith("stopped")
        (closed,) = await off_loop(closings, gateway)
        assert closed.reason == "WORKER_SHUTDOWN"
        await close_http(client)

    run(main)


def test_a_block_that_raises_stops_its_worker(gateway: LocalGateway) -> None:
    async def main() -> None:
        client = make_client(gateway)

        async def block() -> None:
            async with connect_worker(client, [make_function(client, noop)]) as worker:
                await worker.ready()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await block()
        (closed,) = await off_loop(closings, gateway)
        assert closed.reason == "WORKER_SHUTDOWN"

    run(main)


@pytest.mark.parametrize("make", [Starlette, fastapi.FastAPI])
def test_a_worker_in_a_lifespan_of_the_apps_own(
    gateway: LocalGateway, make: Any
) -> None:
    async def main() -> None:
        client = make_client(gateway)

        @contextlib.asynccontextmanager
        async def lifespan_of_app(app: Any) -> AsyncIterator[None]:
            async with connect_worker(client, [make_function(client, noop)]):
                yield

        async with lifespan(make(lifespan=lifespan_of_app)):
            await off_loop(gateway.wait_for_worker)
            ended = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert ended.output == "done"

    run(main)


def test_ready_has_a_limit_and_says_why(gateway: LocalGateway) -> None:
    gateway.faults.start = 503

    async def main() -> None:
        client = make_client(gateway)
        async with connect_worker(client, [make_function(client, noop)]) as worker:
            with pytest.raises(StartupError, match="503"):
                await worker.ready(2.0)

    run(main)


def test_nobody_waits_for_a_runtime_that_is_given_up(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: Runtime, start: Start) -> None:
        raise RuntimeError("boom")

    async def main() -> None:
        client = make_client(gateway)
        worker = connect_worker(client, [make_function(client, noop)])
        async with worker:
            with pytest.raises(StartupError, match="crashed"):
                await worker.ready()
        await close_http(client)

    monkeypatch.setattr(Runtime, "run", crash)
    monkeypatch.setattr(supervisor, "MAX_CRASHES", 1)
    run(main)


def test_a_start_that_is_cancelled_leaves_nothing_behind(
    gateway: LocalGateway,
) -> None:
    gateway.faults.start = 503

    async def main() -> None:
        client = make_client(gateway)
        worker = connect_worker(
            client, [make_function(client, noop)], startup_timeout=60
        )
        starting = asyncio.ensure_future(worker.start())
        await off_loop(gateway.wait_until, lambda: gateway.seen)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert worker.health()["output"].startswith("stopped")
        await close_http(client)

    run(main)


def test_a_worker_that_does_not_get_ready_in_time_does_not_start(
    gateway: LocalGateway,
) -> None:
    gateway.faults.start = 503

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        with pytest.raises(StartupError, match="startup_timeout"):
            async with connect_worker(client, functions, startup_timeout=2.0):
                raise AssertionError

    run(main)


def test_bad_options_fail_before_the_block(gateway: LocalGateway) -> None:
    with pytest.raises(ConfigurationError, match="no functions"):
        connect_worker(make_client(gateway), [])


def test_the_middleware_fails_as_the_worker_does(gateway: LocalGateway) -> None:
    gateway.faults.start = 503

    async def main() -> None:
        client = make_client(gateway)
        app = InngestConnectMiddleware(
            Starlette(),
            client=client,
            functions=[make_function(client, noop)],
            startup_timeout=2.0,
        )
        with pytest.raises(StartupFailed, match="503"):
            async with lifespan(app):
                raise AssertionError

    run(main)


def test_on_another_event_loop_than_asyncios_it_does_not_start(
    gateway: LocalGateway,
) -> None:
    """As under trio, which steps through coroutines as this does."""
    client = make_client(gateway)
    worker = connect_worker(client, [make_function(client, noop)])
    with pytest.raises(StartupError, match="event loop of asyncio's"):
        worker.start().send(None)


# What nobody foresaw


def break_settings(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def settings(**options: object) -> None:
        raise error

    monkeypatch.setattr(middleware, "settings", settings)


@pytest.mark.parametrize(
    "error", [AttributeError("no such thing"), SystemExit("enough")], ids=repr
)
def test_a_construction_that_raises_fails_the_start_up(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Starlette constructs it where a server would not listen."""
    break_settings(monkeypatch, error)

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        app = fastapi.FastAPI()
        app.add_middleware(InngestConnectMiddleware, client=client, functions=functions)
        with pytest.raises(StartupFailed, match=str(error)):
            async with lifespan(app):
                raise AssertionError
        # Whoever constructs it where everybody listens hears of it there.
        with pytest.raises(type(error)):
            InngestConnectMiddleware(app, client=client, functions=functions)

    run(main)


def test_an_option_that_does_not_exist_fails_the_start_up(
    gateway: LocalGateway,
) -> None:
    async def main() -> None:
        client = make_client(gateway)
        options: dict[str, Any] = {"functoins": [make_function(client, noop)]}
        app = fastapi.FastAPI()
        app.add_middleware(InngestConnectMiddleware, client=client, **options)
        with pytest.raises(StartupFailed, match=r"TypeError.*'functoins'"):
            async with lifespan(app):
                raise AssertionError
        # And should the server serve on, then not as if nothing were.
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            with pytest.raises(TypeError, match="functoins"):
                await http.get("/healthz")

    run(main)


async def django(scope: Scope, receive: Receive, send: Send) -> None:
    """What it does with a scope that it does not know."""
    raise ValueError(f"Django can only handle HTTP, not {scope['type']}.")


def test_health_has_the_reason_of_a_start_that_failed(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(self: Worker) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Worker, "start", start)

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        app = InngestConnectMiddleware(django, client=client, functions=functions)
        with pytest.raises(StartupFailed, match="RuntimeError: can't start new thread"):
            async with lifespan(app):
                raise AssertionError
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            answer = await http.get("/healthz/ready")
            assert answer.status_code == 503
            assert "can't start new thread" in answer.json()["output"]

    run(main)


def test_health_has_the_reason_of_a_worker_that_went_with_its_app(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    crash = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await crash.wait()
        raise RuntimeError("a task group's")

    async def main() -> None:
        client = make_client(gateway)
        functions = [make_function(client, noop)]
        wrapped = InngestConnectMiddleware(app, client=client, functions=functions)
        messages: asyncio.Queue[Any] = asyncio.Queue()
        events: asyncio.Queue[Any] = asyncio.Queue()
        events.put_nowait({"type": "lifespan.startup"})
        serving = asyncio.ensure_future(
            wrapped({"type": "lifespan"}, events.get, messages.put)
        )
        assert (await messages.get())["type"] == "lifespan.startup.complete"
        await off_loop(gateway.wait_for_worker)
        crash.set()
        with pytest.raises(RuntimeError, match="a task group's"):
            await serving
        transport = httpx.ASGITransport(wrapped)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            reason = (await http.get("/healthz/ready")).json()["output"]
        assert reason.startswith("the app's lifespan ended while the app was running")
        assert f"Inngest Connect is not running: {reason}" in caplog.text

    run(main)


# Logging


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root, names = logging.getLogger(), list(logging.Logger.manager.loggerDict)
    disabled = [name for name in names if logging.getLogger(name).disabled]
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in list(logging.Logger.manager.loggerDict):
        logging.getLogger(name).disabled = name in disabled


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize("when", ["before", "during start-up", "later"])
def test_loggers_that_are_disabled_are_told_of(
    gateway: LocalGateway, when: str
) -> None:
    """By what ``fileConfig`` does unless it is asked not to, as Alembic's example."""
    stream = io.StringIO()

    def configure() -> None:
        logging.getLogger("inngest_connect_asgi")
        logging.config.dictConfig(
            {
                "version": 1,
                "handlers": {"all": {"class": "logging.StreamHandler"}},
                "root": {"handlers": ["all"]},
            }
        )
        logging.getLogger().handlers[0].setStream(stream)  # type: ignore[attr-defined]

    @contextlib.asynccontextmanager
    async def own(app: object) -> AsyncIterator[None]:
        if when == "during start-up":
            configure()
        yield

    async def main() -> None:
        client = make_client(gateway)
        app = fastapi.FastAPI(lifespan=own)
        app.add_middleware(
            InngestConnectMiddleware,
            client=client,
            functions=[make_function(client, noop)],
        )
        if when == "before":
            configure()
        transport = httpx.ASGITransport(app)
        async with (
            lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://a") as http,
        ):
            if when == "later":
                assert "logging" not in (await http.get("/healthz")).json()["checks"]
                configure()
            (check,) = (await http.get("/healthz")).json()["checks"]["logging"]
            page = await http.get("/healthz", headers={"accept": "text/html"})
        assert check["status"] == "warn"
        assert "inngest_connect_asgi is disabled" in check["output"]
        assert "disable_existing_loggers=False" in page.text

    run(main)
    told = "Inngest Connect can't log: the logger inngest_connect_asgi is disabled"
    assert (told in stream.getvalue()) == (when != "later")
