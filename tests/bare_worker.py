"""A worker that knows the wire and nothing else, for tests of LocalGateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway

from .harness import off_loop
from .simulation import frame

Request = wire.GatewayExecutorRequestData

FUNCTIONS = b"""[{"id": "app-f", "name": "f",
  "triggers": [{"event": "test"}],
  "steps": {"step": {"id": "step", "name": "step", "retries": {"attempts": 3},
    "runtime": {"type": "ws", "url": "wss://connect?fnId=app-f&stepId=step"}}}}]"""


async def start(gateway: LocalGateway, key: str | None = None) -> wire.StartResponse:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{gateway.origin}/v0/connect/start", headers=headers)
    answer.raise_for_status()
    return wire.StartResponse.FromString(answer.content)


@contextlib.asynccontextmanager
async def opened(gateway: LocalGateway) -> AsyncIterator[Wire]:
    answer = await start(gateway)
    socket = await connect(
        answer.gateway_endpoint,
        subprotocols=[Subprotocol("v0.connect.inngest.com")],
        max_size=None,
        ping_interval=None,
    )
    try:
        yield Wire(socket, answer)
    finally:
        # A transport of asyncio that is closed already has forgotten its loop.
        with contextlib.suppress(AttributeError):
            await socket.close()


class Wire:
    def __init__(self, socket: ClientConnection, start: wire.StartResponse) -> None:
        self.socket = socket
        self.start = start

    async def send(self, kind: int, payload: bytes = b"") -> None:
        await self.socket.send(frame(kind, payload))

    async def receive(self, kind: int) -> bytes:
        data = await asyncio.wait_for(self.socket.recv(), 10)
        assert isinstance(data, bytes)
        message = wire.ConnectMessage.FromString(data)
        assert message.kind == kind, message
        return message.payload

    def hello(self, **fields: Any) -> bytes:
        defaults: dict[str, Any] = {
            "connection_id": self.start.connection_id,
            "instance_id": "instance",
            "auth_data": wire.AuthData(session_token=self.start.session_token),
            "apps": [wire.AppConfiguration(app_name="app", functions=FUNCTIONS)],
            "worker_manual_readiness_ack": True,
        }
        message = wire.WorkerConnectRequestData(**(defaults | fields))
        return message.SerializeToString()

    async def shake_hands(self, **hello: Any) -> None:
        await self.receive(wire.GATEWAY_HELLO)
        await self.send(wire.WORKER_CONNECT, self.hello(**hello))
        await self.receive(wire.GATEWAY_CONNECTION_READY)
        await self.send(wire.WORKER_READY)

    async def closed(self) -> tuple[int | None, str | None]:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.wait_for(self.socket.recv(), 10)
        protocol = self.socket.protocol
        return protocol.close_code, protocol.close_reason

    # What a worker does

    async def take(self) -> Request:
        """Return the next request."""
        return Request.FromString(await self.receive(wire.GATEWAY_EXECUTOR_REQUEST))

    async def ack(self, request: Request) -> None:
        message = wire.WorkerRequestAckData(request_id=request.request_id)
        await self.send(wire.WORKER_REQUEST_ACK, message.SerializeToString())

    async def take_and_ack(self) -> Request:
        request = await self.take()
        await self.ack(request)
        return request

    async def ask_to_extend(self, request: Request, lease_id: str) -> None:
        message = wire.WorkerRequestExtendLeaseData(
            request_id=request.request_id, lease_id=lease_id
        )
        await self.send(wire.WORKER_REQUEST_EXTEND_LEASE, message.SerializeToString())

    async def extend(self, request: Request, lease_id: str | None = None) -> str:
        """Extend a lease, by default under the id that came with the request.

        Returns:
            The next id, or nothing where the lease is lost.
        """
        await self.ask_to_extend(request, lease_id or request.lease_id)
        data = await self.receive(wire.WORKER_REQUEST_EXTEND_LEASE_ACK)
        answer = wire.WorkerRequestExtendLeaseAckData.FromString(data)
        assert answer.request_id == request.request_id
        return answer.new_lease_id or ""

    async def send_reply(self, request: Request, **fields: Any) -> None:
        defaults: dict[str, Any] = {"status": wire.DONE, "body": b'"done"'}
        reply = wire.SDKResponse(request_id=request.request_id, **(defaults | fields))
        await self.send(wire.WORKER_REPLY, reply.SerializeToString())

    async def reply(self, request: Request, **fields: Any) -> None:
        """Reply, and have it acknowledged."""
        await self.send_reply(request, **fields)
        data = await self.receive(wire.WORKER_REPLY_ACK)
        answer = wire.WorkerReplyAckData.FromString(data)
        assert answer.request_id == request.request_id

    async def fail(self, request: Request) -> None:
        await self.reply(request, status=wire.ERROR, body=b'{"message": "no"}')

    async def beat(self) -> None:
        """Have a heartbeat answered: all control messages before it were handled."""
        await self.send(wire.WORKER_HEARTBEAT)
        await self.receive(wire.GATEWAY_HEARTBEAT)


@contextlib.asynccontextmanager
async def ready(gateway: LocalGateway, **hello: Any) -> AsyncIterator[Wire]:
    """A worker that requests are sent to."""
    async with opened(gateway) as worker:
        await worker.shake_hands(**hello)
        await off_loop(
            gateway.wait_until,
            lambda: (
                worker.start.connection_id
                in [each.id for each in gateway.ready_connections]
            ),
        )
        yield worker


def context(request: Request) -> dict[str, Any]:
    """The ``ctx`` of a call request."""
    ctx = json.loads(request.request_payload)["ctx"]
    assert isinstance(ctx, dict)
    return ctx
