"""An app with a worker, in the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import inngest
from starlette.types import ASGIApp, Receive, Scope, Send

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.testing.connection import Seen
from inngest_connect_asgi.testing.deliveries import Delivery

T = TypeVar("T")


async def bare_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that can do nothing, not even lifespan."""
    raise NotImplementedError(scope["type"])


def deliveries_of(gateway: LocalGateway) -> dict[str, Delivery]:
    """All requests to workers, by id, those of executors as well."""
    return gateway._server.router.requests.deliveries


def make_client(gateway: LocalGateway, app_id: str = "app") -> inngest.Inngest:
    return inngest.Inngest(
        app_id=app_id,
        api_base_url=gateway.origin,
        event_api_base_url=gateway.origin,
        is_production=False,
    )


def make_function(
    client: inngest.Inngest,
    handler: Callable[..., Any],
    *,
    fn_id: str = "function",
    event: str = "test",
    **options: Any,
) -> inngest.Function[Any]:
    decorate = client.create_function(
        fn_id=fn_id, trigger=inngest.TriggerEvent(event=event), **options
    )
    return decorate(handler)


class StartupFailed(Exception):
    pass


@contextlib.asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start an app up and shut it down, as a server does.

    Raises:
        StartupFailed: It said ``lifespan.startup.failed``.
    """
    to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.ensure_future(
        app({"type": "lifespan", "state": {}}, to_app.get, from_app.put)
    )
    to_app.put_nowait({"type": "lifespan.startup"})
    message = await from_app.get()
    if message["type"] != "lifespan.startup.complete":
        await task
        raise StartupFailed(message["message"])
    try:
        yield
    finally:
        to_app.put_nowait({"type": "lifespan.shutdown"})
        message = await from_app.get()
        assert message["type"] == "lifespan.shutdown.complete"
        await task


@contextlib.asynccontextmanager
async def worker(
    gateway: LocalGateway, *handlers: Callable[..., Any], **options: Any
) -> AsyncIterator[InngestConnectMiddleware]:
    """A worker with the app ``app`` and functions named after their handlers."""
    client = make_client(gateway)
    functions = [make_function(client, h, fn_id=h.__name__) for h in handlers]
    app = InngestConnectMiddleware(
        bare_app, client=client, functions=functions, **options
    )
    async with lifespan(app):
        await off_loop(gateway.wait_for_worker)
        yield app
    await close_http(client)


async def close_http(client: inngest.Inngest) -> None:
    """Close the SDK's HTTP clients, which it never does itself."""
    await client._http_client._http_client.aclose()
    client._http_client._http_client_sync.close()


async def off_loop(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call what blocks without blocking the app's event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


def closings(gateway: LocalGateway) -> list[Seen]:
    """How every connection there was has ended, once all have."""

    def closed() -> list[Seen]:
        return [seen for seen in gateway.seen if seen.event == "closed"]

    gateway.wait_until(lambda: len(closed()) == len(gateway.connections))
    return closed()


async def until(predicate: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until something is so that nobody tells of."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.02)


def tasks_left() -> set[asyncio.Task[Any]]:
    """Tasks on the running loop that somebody has begun, besides this one."""
    return {
        task
        for task in asyncio.all_tasks() - {asyncio.current_task()}
        # Not those with which the loop itself closes an async generator that the
        # garbage collector has found.
        if inspect.iscoroutine(task.get_coro())
    }


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine, and see that it left no task behind."""

    async def checked() -> T:
        result = await main()
        left = tasks_left()
        assert not left, left
        return result

    return asyncio.run(checked())
