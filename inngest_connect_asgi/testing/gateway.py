"""A Connect API, a gateway and an executor in one object."""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

from starlette.types import ASGIApp

from .controlled import Controlled
from .executor import Run
from .observed import Observed
from .server import Options, Server
from .serving import lifespan

__all__ = ["LocalGateway"]

CLOSE_TIMEOUT = 5.0


class LocalGateway(Observed, Controlled):
    """A small Inngest on loopback, with real sockets and the real wire.

    Made for tests and demos: it keeps everything in memory, knows nothing of
    concurrency keys, rate limits or schedules, and can be told to misbehave. About
    requests it is as strict as the newest server, and where versions differ as the
    strictest. For development, run Inngest's own dev server.

    It runs in a thread of its own. Every method may be called from any thread, and
    blocks; from a coroutine, call it through :func:`asyncio.to_thread`.

    Args:
        heartbeat_interval: A Go duration, sent to workers as it stands.
        extend_lease_interval: Likewise.
        status_interval: Likewise; ``0s`` asks for no status reports.
        lease_duration: Seconds.
        signing_keys: Raw keys. With them LocalGateway is like the cloud, and takes
            workers that know one of them; without, it is like the dev server.
        retry_delay: Seconds until a failed attempt is repeated, where the function
            does not say.
        honour_previous_lease: Answer an extension under the lease id before with the
            current one, where the same instance asks, as servers since 1.41 do.
            Those before refuse it.
        request_ids: Whether each ``dispatch`` has an id of its own, or each ``job``,
            over all its attempts, as up to 1.19.2.
        drain_timeout: Seconds that a draining gateway waits for the worker to close.
        use_api: Leave events and steps out of requests, for the SDK to fetch.
        api_port: Port of the HTTP API; 0 takes a free one.
        gateway_port: Port of the WebSocket gateway; 0 takes a free one.
    """

    def __init__(
        self,
        *,
        heartbeat_interval: str = "10s",
        extend_lease_interval: str = "5s",
        status_interval: str = "0s",
        lease_duration: float = 20.0,
        signing_keys: tuple[str, ...] = (),
        retry_delay: float = 0.1,
        honour_previous_lease: bool = False,
        request_ids: Literal["dispatch", "job"] = "dispatch",
        drain_timeout: float = 25.0,
        use_api: bool = False,
        api_port: int = 0,
        gateway_port: int = 0,
    ) -> None:
        server = Server(
            Options(
                heartbeat_interval,
                extend_lease_interval,
                status_interval,
                lease_duration,
                signing_keys,
                retry_delay,
                honour_previous_lease,
                request_ids,
                drain_timeout,
                use_api,
                api_port,
                gateway_port,
            )
        )
        self.faults = server.faults
        self._server = server
        self._signing_keys = signing_keys

    def __enter__(self) -> LocalGateway:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: A port is taken.
        """
        self._server.start()

    def stop(self) -> None:
        """Close every connection and both ports, and forget what is under way."""
        self._server.stop()

    def reset(self) -> None:
        """Be as new, at the same address.

        Closes every connection, ends every run, forgets what it saw, and takes back
        faults; workers that are still there come back.
        """
        self._server.reset()

    # Where it is

    @property
    def api_port(self) -> int:
        """Port of the HTTP API."""
        return self._server.api_port

    @property
    def gateway_port(self) -> int:
        """Port of the WebSocket gateway."""
        return self._server.gateway_port

    @property
    def origin(self) -> str:
        """URL of the HTTP API."""
        return f"http://127.0.0.1:{self._server.api_port}"

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that lead the SDK here."""
        if not self._signing_keys:
            return {"INNGEST_DEV": self.origin}
        return {
            "INNGEST_DEV": "0",
            "INNGEST_BASE_URL": self.origin,
            "INNGEST_SIGNING_KEY": self._signing_keys[0],
            "INNGEST_EVENT_KEY": "local",
        }

    def accept(self, *signing_keys: str) -> None:
        """Take workers that know one of these keys, and no others."""
        self._server.accept(*signing_keys)

    # What it runs

    def send(self, name: str, data: dict[str, Any] | None = None) -> str:
        """Send an event, as ``POST /e/{key}`` does, and return its id."""
        event = {"name": name, "data": data or {}}
        return self._server.call(self._server.executor.receive, event)

    def run(
        self,
        name: str,
        data: dict[str, Any] | None = None,
        timeout: float = 10.0,
        *,
        function: str | None = None,
    ) -> Run:
        """Send an event, and wait for the run that it triggers.

        See :meth:`wait_for_run`; the run may have failed.
        """
        return self.wait_for_run(self.send(name, data), timeout, function=function)

    @contextlib.contextmanager
    def serving(self, app: ASGIApp | str, timeout: float = 10.0) -> Iterator[None]:
        """Run an app with its worker, in a thread, until the block ends.

        It starts up and shuts down as under a server, but takes no HTTP requests.

        Args:
            app: The app, or where to import it from, as ``"shop.main:app"``.
            timeout: Seconds that its worker has to connect.

        Raises:
            RuntimeError: The app's start-up failed.
            TimeoutError: No worker connected.
        """
        if isinstance(app, str):
            app = pkgutil.resolve_name(app)
        assert not isinstance(app, str)
        before = len(self.connections)
        with lifespan(app):
            try:
                self.wait_until(
                    lambda: any(
                        each.phase == "ready" for each in self.connections[before:]
                    ),
                    timeout,
                )
            except TimeoutError as error:
                raise TimeoutError(
                    "The app's worker did not connect. A client reads the environment "
                    "when it is made: was this one made before INNGEST_DEV was "
                    f"{self.origin}?\n{error}"
                ) from None
            yield
        # The app's side is over; see this one's end as well.
        with contextlib.suppress(TimeoutError):
            self.wait_until(
                lambda: all(
                    each.phase == "closed" for each in self.connections[before:]
                ),
                CLOSE_TIMEOUT,
            )
