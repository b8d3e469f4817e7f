"""The lifespan protocol, spoken between a server, our service and an inner app."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from inngest_connect_asgi.asgi.lifespan import Lifespan
from inngest_connect_asgi.errors import StartupError, describe

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


class Journal(list[str]):
    """What happened, in order; also the service, which only writes it down."""

    def __init__(
        self, failure: str | None = None, stop_failure: BaseException | None = None
    ) -> None:
        super().__init__()
        self.failure = failure
        self.stop_failure = stop_failure
        self.absent: list[str] = []
        """Why there is no service, as it was told."""

    async def start(self) -> Journal:
        if self.failure is not None:
            raise StartupError(self.failure)
        self.append("service started")
        return self

    async def stop(self) -> None:
        self.append("service stopped")
        if self.stop_failure is not None:
            raise self.stop_failure


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

        lifespan = Lifespan(app, start or journal.start, journal.absent.append)
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


ERRORS = [
    OSError("can't start new thread"),
    SystemExit(1),
    KeyboardInterrupt(),
    BaseException("odd"),
    # Of a library's generator, and not of the server, which would close a coroutine.
    GeneratorExit("of a library"),
]
if sys.version_info >= (3, 11):
    # A library's future that was cancelled, and not the task.
    ERRORS.append(asyncio.CancelledError("of a library"))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("lifespan", ["with", "without"])
def test_whatever_the_start_raises_fails_the_start_up(
    error: BaseException, lifespan: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()

    async def start() -> Journal:
        raise error

    run(well_behaved(journal) if lifespan == "with" else refuses, journal, start)
    reason = f"the Connect worker could not be started: {describe(error)}"
    assert journal[-1] == f"startup.failed: {reason}"
    assert journal[:-1] == ["app started", "app stopped"][: 2 * (lifespan == "with")]
    assert journal.absent == [reason]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.message == f"Inngest Connect is not running: {reason}"
    assert record.exc_info
    assert record.exc_info[1] is error


def test_a_foreseen_failure_is_told_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal(failure="no connection")
    run(well_behaved(journal), journal)
    assert journal.absent == ["no connection"]
    (record,) = caplog.records
    assert record.message == "Inngest Connect is not running: no connection"
    assert not record.exc_info


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("lifespan", ["with", "without"])
def test_whatever_the_stop_raises_the_app_is_shut_down(
    error: BaseException, lifespan: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(stop_failure=error)
    run(well_behaved(journal) if lifespan == "with" else refuses, journal)
    reason = f"the Connect worker could not be stopped: {describe(error)}"
    assert journal[-1] == f"shutdown.failed: {reason}"
    assert journal.count("service stopped") == 1
    assert ("app stopped" in journal) == (lifespan == "with")
    (record,) = caplog.records
    assert record.message == f"T{reason[1:]}"
    assert record.exc_info


@pytest.mark.parametrize("when", ["start-up", "lifespan"])
def test_an_app_that_takes_the_service_with_it_is_told_of(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers go on without a word, as if the app had no lifespan."""
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if when == "lifespan":
            await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        run(app, journal)
    (reason,) = journal.absent
    assert reason.startswith(f"the app's {when} ")
    assert reason.endswith("RuntimeError: no database")
    assert reason in caplog.text


def test_a_crash_in_the_shutdown_of_the_app_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        run(app, journal)
    assert journal.absent == []
    assert not caplog.records


@pytest.mark.parametrize("lifespan", ["with", "without"])
def test_a_server_that_cancels_the_start_may_serve_on(
    lifespan: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()

    async def main() -> None:
        starting, sent = asyncio.Event(), list[object]()

        async def start() -> Journal:
            starting.set()
            await asyncio.Event().wait()
            raise AssertionError

        async def receive() -> dict[str, str]:
            return STARTUP

        async def send(message: object) -> None:
            sent.append(message)

        app = well_behaved(journal) if lifespan == "with" else refuses
        served = Lifespan(app, start, journal.absent.append)
        task = asyncio.ensure_future(served.run({"type": "lifespan"}, receive, send))
        await starting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sent

    asyncio.run(main())
    assert journal.absent == ["the server cancelled the start-up"]
    assert "the server cancelled the start-up" in caplog.text


def test_a_server_that_closes_the_start_is_not_spoken_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As one whose event loop is gone: a coroutine that is closed may await nothing."""
    journal, sent = Journal(), list[object]()

    class Pause:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def start() -> Journal:
        await Pause()
        raise AssertionError

    async def receive() -> dict[str, str]:
        return STARTUP

    async def send(message: object) -> None:
        sent.append(message)

    served = Lifespan(refuses, start, journal.absent.append)
    coroutine = served.run({"type": "lifespan"}, receive, send)

    async def main() -> None:
        coroutine.send(None)

    asyncio.run(main())
    coroutine.close()
    assert not sent
    assert journal.absent == ["the server cancelled the start-up"]


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
