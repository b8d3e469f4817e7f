"""An app whose functions one test runs, and the server that has it run them.

What a test expects holds for every server. The functions run in the test's process,
and so a test sees what they do; what became of a run, the server says over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import httpx
import inngest
import pytest

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.testing import LocalGateway

from ..harness import bare_app, close_http, lifespan, run, until

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds until a run has ended: a dev server's first retry is due after 45."""
PAUSE = 0.02
"""Seconds between two questions about a run, which nobody would answer unasked."""
SOON = datetime.timedelta(seconds=1)
"""The shortest time that the SDK knows."""
ENDED = ("Completed", "Failed", "Cancelled")

MISSING = {
    "LocalGateway": {"concurrency limits"},
    "a dev server": {"draining a gateway on command"},
}
"""What a server can't do, or can't be told to."""


@dataclass
class Server:
    """Where events are sent, and runs are asked for."""

    origin: str
    gateway: LocalGateway | None = None
    """Where it is LocalGateway."""

    def needs(self, what: str) -> None:
        """Skip the test where the server has no such thing."""
        name = "LocalGateway" if self.gateway else "a dev server"
        assert any(what in missing for missing in MISSING.values()), what
        if what in MISSING[name]:
            pytest.skip(f"{name}: no {what}")

    def drain(self) -> None:
        """Have the gateway send its workers elsewhere, and wait until they are."""
        assert self.gateway is not None
        self.gateway.drain()
        self.gateway.wait_for_worker()


class Outcome(NamedTuple):
    """What became of a run."""

    status: str
    output: Any
    run_id: str


class App:
    """An Inngest app with a name that no other test has.

    What else is there on the server, from another test or of its owner, has nothing to
    do with it.
    """

    def __init__(self, server: Server) -> None:
        self.id = f"suite-{secrets.token_hex(6)}"
        self.functions: list[inngest.Function[Any]] = []
        self.middleware: list[Any] = []
        self._server = server
        self.client = self.make_client()

    def make_client(self) -> inngest.Inngest:
        return inngest.Inngest(
            app_id=self.id,
            api_base_url=self._server.origin,
            event_api_base_url=self._server.origin,
            is_production=False,
        )

    def event_name(self, name: str) -> str:
        return f"{self.id}/{name}"

    def function(
        self, on: str | inngest.TriggerEvent = "go", **options: Any
    ) -> Callable[[Callable[..., Any]], inngest.Function[Any]]:
        """Add a function to the app.

        Args:
            on: The event that triggers it, which is the app's own by its name.
        """
        if isinstance(on, str):
            on = inngest.TriggerEvent(event=self.event_name(on))

        def add(handler: Callable[..., Any]) -> inngest.Function[Any]:
            fn_id = handler.__name__.replace("_", "-")
            create = self.client.create_function(fn_id=fn_id, trigger=on, **options)
            function = create(handler)
            self.functions.append(function)
            return function

        return add


class Suite(App):
    """The app of one test; it may have others beside it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.server = server
        self.others: list[App] = []
        self.unfinished: list[str] = []

    def other_app(self) -> App:
        """One more app, on the same connection."""
        app = App(self.server)
        self.others.append(app)
        return app

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run a test beside its worker."""

        async def within() -> None:
            async with self.worker():
                await main()

        self.run_alone(within)

    def run_alone(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run a test that looks after workers by itself."""

        async def within() -> None:
            async with httpx.AsyncClient(base_url=self.server.origin) as self._http:
                try:
                    await main()
                finally:
                    for run_id in self.unfinished:
                        await self.cancel(run_id)
                    for app in (self, *self.others):
                        await close_http(app.client)

        run(within)

    @contextlib.asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[None]:
        """The app, ready, until the block ends."""
        apps = [(app.client, app.functions) for app in (self, *self.others)]
        app = InngestConnectMiddleware(
            bare_app, apps=apps, startup_timeout=30, **options
        )
        async with lifespan(app):
            yield

    async def send(self, name: str = "go", **data: Any) -> str:
        """Send an event of the app's own, and return its id."""
        (event_id,) = await self.send_all(name, [data])
        return event_id

    async def send_all(self, name: str, several: list[dict[str, Any]]) -> list[str]:
        """Send events of the app's own, together."""
        name = self.event_name(name)
        return await self.client.send(
            [inngest.Event(name=name, data=data) for data in several]
        )

    async def repeat(self, name: str, *data: dict[str, Any], until: Awaitable[T]) -> T:
        """Send events, in this order, over and over until something is done.

        What nobody waits for yet has no effect, and nobody tells that somebody does.
        """
        done = asyncio.ensure_future(until)
        while not done.done():
            for each in data or ({},):
                await self.send(name, **each)
            await asyncio.wait([done], timeout=0.2)
        return done.result()

    async def outcome(self, event_id: str) -> Outcome:
        """Wait until the one run that an event triggered has ended."""
        (outcome,) = await self.outcomes(event_id, 1)
        return outcome

    async def outcomes(self, event_id: str, count: int = 2) -> list[Outcome]:
        """Wait until all runs that an event triggered have ended."""

        async def runs() -> list[dict[str, Any]] | None:
            found = await self._get(f"/v1/events/{event_id}/runs")
            return found if found is not None and len(found) >= count else None

        started = await _until(runs)
        assert len(started) == count
        return [await self.ended(run["run_id"]) for run in started]

    async def ended(self, run_id: str) -> Outcome:
        """Wait until a run has ended."""

        async def ended() -> dict[str, Any] | None:
            found = await self._get(f"/v1/runs/{run_id}")
            return found if found is not None and found["status"] in ENDED else None

        told = await _until(ended)
        assert told["ended_at"] is not None
        return Outcome(told["status"], told.get("output"), run_id)

    async def until(self, predicate: Callable[[], object]) -> None:
        """Wait until the functions have done something."""
        await until(predicate, PATIENCE)

    async def cancel(self, run_id: str) -> None:
        answer = await self._http.delete(f"/v1/runs/{run_id}")
        answer.raise_for_status()

    async def _get(self, path: str) -> Any:
        # What was asked before is answered from a cache, for up to 15 seconds.
        answer = await self._http.get(path, params={"at": time.monotonic_ns()})
        # A dev server answers so until it has written down that there is a run.
        if answer.status_code == 500:
            return None
        return answer.raise_for_status().json()["data"]


async def _until(ask: Callable[[], Awaitable[Any]]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while (found := await ask()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(PAUSE)
    return found


class Gate:
    """Where a function waits until it is let go."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def enter_sync(self) -> None:
        self._entered.set()
        assert self._opened.wait(PATIENCE)

    async def enter(self) -> None:
        await asyncio.to_thread(self.enter_sync)

    async def entered(self) -> None:
        """Wait until a function is there."""
        assert await asyncio.to_thread(self._entered.wait, PATIENCE)

    def open(self) -> None:
        self._opened.set()
