"""What a test does to the workers of LocalGateway, and to its ports."""

from __future__ import annotations

import json
from typing import Any

from ..health.embedded import listen
from ..protocol.wire import connect as wire
from .calls import build_request, call_request
from .connection import Connection
from .deliveries import Delivery
from .router import Leases
from .server import Server

__all__ = ["Controlled"]


class Controlled:
    """A server as whoever works against it has it in hand. Every method may be called
    from any thread but the server's own, and blocks."""

    _server: Server

    def request(
        self,
        function: str,
        payload: dict[str, Any] | bytes | None = None,
        *,
        app: str | None = None,
        request_id: str | None = None,
        job_id: str | None = None,
        run_id: str | None = None,
        step_id: str = "step",
        connection: Connection | None = None,
    ) -> Delivery:
        """Send one request to a ready connection, with no executor behind it.

        Args:
            function: The function's id, with the app in front.
            payload: The body of a call request; by default a sound one.
            app: The app to name; by default the one before the first hyphen.
            request_id: To send a request again, under a lease of its own; by default
                a new one.
            job_id: By default a new one. To send the same attempt of a job again takes
                the same job, run, step and payload.
            run_id: By default a new one.
            connection: Where to send it; by default the newest ready connection.
        """
        if payload is None:
            payload = call_request()
        if not isinstance(payload, bytes):
            payload = json.dumps(payload).encode()
        request = build_request(
            app=app if app is not None else function.partition("-")[0],
            function=function,
            payload=payload,
            request_id=request_id,
            job_id=job_id,
            run_id=run_id,
            step_id=step_id,
        )
        target = connection or self._server.router.ready_connections[-1]
        return self._server.wait(self._forward(request, target))

    async def _forward(
        self, request: wire.GatewayExecutorRequestData, connection: Connection
    ) -> Delivery:
        known = self._server.router.requests.deliveries.get(request.request_id)
        delivery = known or self._server.router.requests.track(
            request, has_executor=False
        )
        await self._server.router.send(delivery, connection)
        return delivery

    def forward(self, delivery: Delivery, connection: Connection | None = None) -> None:
        """Send a request again under the lease that it has.

        As the executor does where no acknowledgement has come, and the gateway has
        given the request back.
        """
        target = connection or self._server.router.ready_connections[-1]
        self._server.wait(self._server.router.write(delivery, target))

    def restart_executor(self, leases: Leases = "lost") -> None:
        """Have the executor forget what it waits for, and send it anew.

        Every attempt that is under way is sent again with the same job id, under a new
        request id, or the same one where a job has only one. What comes back for the
        first request is taken, and helps nobody.

        Args:
            leases: ``lost`` with everything that was known about requests, as by a
                server that keeps it in memory; ``kept``, for workers to go on
                extending them; or ``over`` before anything is sent again.
        """
        self._server.call(self._server.router.restart_executor, leases)

    def drain(self, connection: Connection | None = None) -> None:
        """Send GATEWAY_CLOSING, and close after ``drain_timeout``."""
        for each in self._targets(connection):
            self._server.wait(self._server.sockets.drain(each))

    def drop(self, connection: Connection | None = None) -> None:
        """Break the TCP connection, without a close frame."""
        for each in self._targets(connection):
            self._server.call(each.socket.transport.abort)

    def close(
        self, code: int, reason: str = "", connection: Connection | None = None
    ) -> None:
        """Close the WebSocket."""
        for each in self._targets(connection):
            self._server.wait(each.socket.close(code, reason))

    def freeze(self, connection: Connection | None = None) -> None:
        """Read no more, and write nothing either, but stay connected."""
        for each in self._targets(connection):
            each.faults.mute = each.faults.ignore = set(wire.Kind.__members__)
            self._server.call(each.socket.transport.pause_reading)

    def stop_reading(self, connection: Connection | None = None) -> None:
        """Read no more, but go on writing: the worker's writes come to a halt."""
        for each in self._targets(connection):
            self._server.call(each.socket.transport.pause_reading)

    def send_raw(
        self, *frames: bytes | str, connection: Connection | None = None
    ) -> None:
        """Send WebSocket messages as they stand, text or binary."""
        for each in self._targets(connection):
            for frame in frames:
                self._server.wait(each.send_raw(frame))

    def expire_leases(self) -> None:
        """Delete every lease: the next extension is refused."""
        self._server.call(self._server.router.requests.delete_leases)

    def api_down(self) -> None:
        """Stop listening on the API's port."""
        self._server.wait(self._server.api.stop())

    def api_up(self) -> None:
        """Listen on it again."""
        self._server.wait(
            self._server.api.start(listen("127.0.0.1", self._server.api_port))
        )

    def gateway_down(self) -> None:
        """Break every connection, and stop listening on the gateway's port."""
        self._server.wait(self._server.sockets.stop())

    def gateway_up(self) -> None:
        """Listen on it again."""
        self._server.wait(
            self._server.sockets.start(listen("127.0.0.1", self._server.gateway_port))
        )

    def _targets(self, connection: Connection | None) -> list[Connection]:
        return [connection] if connection is not None else self._server.sockets.open()
