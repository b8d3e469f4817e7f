"""The lifespan protocol, spoken between a server, our service and an inner app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from inngest_connect_asgi.errors import StartupError
from inngest_connect_asgi.lifespan import ASGIApp, Lifespan, Receive, Scope, Send

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


class Journal(list[str]):
    """What happened, in order; also the service, which only writes it down."""

    def __init__(self, failure: str | None = None) -> None:
        super().__init__()
        self.failure = failure

    async def start(self) -> Journal:
        if self.failure is not None:
            raise StartupError(self.failure)
        self.append("service started")
        return self

    async def stop(self) -> None:
        self.append("service stopped")


def run(
    app: ASGIApp,
    journal: Journal,
    start: Callable[[], Awaitable[Journal]] | None = None,
) -> None:
    """Be a server: start the app up, shut it down unless its start-up failed."""

    async def serve() -> None:
        to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        to_app.put_nowait(STARTUP)

        async def send(message: object) -> None:
            assert isinstance(message, dict)
            text = message.get("message")
            name = message["type"].removeprefix("lifespan.")
            journal.append(f"{name}: {text}" if text else name)
            if name == "startup.complete":
                to_app.put_nowait(SHUTDOWN)

        lifespan = Lifespan(app, start or journal.start)
        await asyncio.wait_for(
            lifespan.run({"type": "lifespan"}, to_app.get, send), timeout=5
        )

    asyncio.run(serve())


def well_behaved(journal: Journal) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        journal.append("app started")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        journal.append("app stopped")
        await send({"type": "lifespan.shutdown.complete"})

    return app


def test_service_lives_inside_the_app() -> None:
    journal = Journal()
    run(well_behaved(journal), journal)
    assert journal == [
        "app started",
        "service started",
        "startup.complete",
        "service stopped",
        "app stopped",
        "shutdown.complete",
    ]


def test_failed_start_of_the_service_fails_the_start_up_after_the_app_cleaned_up() -> (
    None
):
    journal = Journal(failure="no connection")
    run(well_behaved(journal), journal)
    assert journal == ["app started", "app stopped", "startup.failed: no connection"]


def test_failed_start_up_of_the_app_is_passed_on() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    run(app, journal)
    assert journal == ["startup.failed: no database"]


def test_crash_in_the_start_up_of_the_app_is_passed_on() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        run(app, journal)
    assert journal == []


def test_crash_of_a_running_app_stops_the_service() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        run(app, journal)
    assert journal == ["service started", "startup.complete", "service stopped"]


def test_crash_of_an_app_that_answered_unasked_is_passed_on() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        run(app, journal)
    assert journal == ["service started", "startup.complete", "service stopped"]


def test_crash_in_the_shutdown_of_the_app_is_passed_on() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "no database"})
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        run(app, journal)
    assert journal == [
        "service started",
        "startup.complete",
        "service stopped",
        "shutdown.failed: no database",
    ]


def test_crash_while_the_app_cleans_up_hides_no_failed_start() -> None:
    journal = Journal(failure="no connection")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        run(app, journal)
    assert journal == ["startup.failed: no connection"]


def test_unexpected_error_of_the_service_is_the_apps_to_tell() -> None:
    journal = Journal()

    async def start() -> Journal:
        raise OSError("can't start new thread")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await send({"type": "lifespan.startup.complete"})
        except OSError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

    with pytest.raises(OSError, match="thread"):
        run(app, journal, start)
    assert journal == ["startup.failed: can't start new thread"]


def test_a_server_that_cancels_stops_the_service_before_the_app() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            journal.append("app stopped")

    async def main() -> None:
        to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        to_app.put_nowait(STARTUP)
        completed = asyncio.Event()

        async def send(message: object) -> None:
            completed.set()

        lifespan = Lifespan(app, journal.start)
        task = asyncio.ensure_future(
            lifespan.run({"type": "lifespan"}, to_app.get, send)
        )
        await completed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert journal == ["service started", "service stopped", "app stopped"]


def test_app_that_leaves_after_its_start_up_keeps_its_service() -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        journal.append("app left")

    run(app, journal)
    assert journal == [
        "service started",
        "startup.complete",
        "app left",
        "service stopped",
        "shutdown.complete",
    ]


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError(f"cannot handle scope {scope['type']}")


async def ignores(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def ignores_late(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


@pytest.mark.parametrize("app", [refuses, ignores, ignores_late])
def test_app_without_lifespan_gets_one(app: ASGIApp) -> None:
    journal = Journal()
    run(app, journal)
    assert journal == [
        "service started",
        "startup.complete",
        "service stopped",
        "shutdown.complete",
    ]


@pytest.mark.parametrize("app", [refuses, ignores])
def test_failed_start_of_the_service_without_app_lifespan(app: ASGIApp) -> None:
    journal = Journal(failure="no connection")
    run(app, journal)
    assert journal == ["startup.failed: no connection"]
