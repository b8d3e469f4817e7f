"""What LocalGateway saw, and waiting for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from ..protocol.wire import connect as wire
from .connection import Connection, Seen
from .executor import Function, Run
from .server import Server

__all__ = ["Observed"]

T = TypeVar("T")


class Observed:
    """A server as whoever watches it sees it. Every method may be called from any
    thread."""

    _server: Server

    @property
    def seen(self) -> list[Seen]:
        """Everything that happened, in order."""
        return list(self._server.log.entries)

    def received(self, kind: str, connection: Connection | None = None) -> list[Seen]:
        """The frames of one kind, as ``WORKER_HEARTBEAT``, in order of arrival."""
        return [
            seen
            for seen in self.seen
            if seen.event == "received"
            and seen.kind == kind
            and connection in (None, seen.connection)
        ]

    def requests(self, name: str) -> list[Seen]:
        """The HTTP requests to ``start`` or ``flush``, in order."""
        return [seen for seen in self.seen if seen.event == name]

    @property
    def connections(self) -> list[Connection]:
        """Every connection there ever was, the first one first."""
        return list(self._server.router.connections)

    @property
    def ready_connections(self) -> list[Connection]:
        """Those that requests are sent to."""
        return self._server.router.ready_connections

    @property
    def functions(self) -> dict[str, Function]:
        """The functions that workers registered, by their id."""
        return dict(self._server.executor.functions)

    @property
    def runs(self) -> list[Run]:
        return list(self._server.executor.runs)

    @property
    def executions(self) -> Counter[str]:
        """How often each request was acknowledged, by request id; void
        acknowledgements are in :attr:`void_acks`."""
        return Counter(self._server.router.requests.executions)

    @property
    def void_acks(self) -> list[Seen]:
        """The acknowledgements that came for a request that none was expected of, on
        the connection that they came from: it was given back, or never sent there, or
        acknowledged before. The server throws them away, and so the request may run
        somewhere else as well."""
        return [seen for seen in self.seen if seen.event == "void"]

    @property
    def replies(self) -> dict[str, wire.SDKResponse]:
        """The first reply to each request, by request id."""
        return dict(self._server.router.requests.replies)

    def wait_until(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """Wait until something is so, and return what ``predicate`` returned.

        Raises:
            TimeoutError: It was not within ``timeout`` seconds; lists the last
                events.
        """
        return self._server.log.wait_until(predicate, timeout)

    def wait_for_worker(self, count: int = 1, timeout: float = 10.0) -> Connection:
        """Wait for ``count`` ready connections, and return the newest."""
        self.wait_until(lambda: len(self.ready_connections) >= count, timeout)
        return self.ready_connections[-1]

    def wait_for_run(
        self, event_id: str, timeout: float = 10.0, *, function: str | None = None
    ) -> Run:
        """Wait until a run that an event triggered has ended, and return it.

        Args:
            function: The function's id, with the app in front, where the event
                triggers several; by default the run that ends first.

        Raises:
            TimeoutError: None has within ``timeout`` seconds; lists the last events.
        """

        def ended() -> Run | None:
            for run in self._server.executor.started_by.get(event_id, ()):
                if run.status != "running" and function in (None, run.function.id):
                    return run
            return None

        run = self.wait_until(ended, timeout)
        assert run is not None
        return run
