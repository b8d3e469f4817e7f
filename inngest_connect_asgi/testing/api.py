"""The HTTP side: start and flush for workers, events for apps."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from google.protobuf.message import DecodeError, Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..embedded import EmbeddedServer
from ..wire import connect_pb2
from . import ulid
from .executor import Executor
from .faults import Answer, Faults
from .log import Log, Seen
from .router import Router
from .sockets import Sockets

__all__ = ["API"]

GROUPS = ("local-1", "local-2")
"""Gateway groups; one gateway stands for both."""

Endpoint = Callable[[Request], Awaitable[Response]]


class API:
    """Answers HTTP. Lives on the gateway's event loop."""

    def __init__(
        self,
        *,
        log: Log,
        faults: Faults,
        router: Router,
        executor: Executor,
        sockets: Sockets,
        gateway_url: str,
    ) -> None:
        self.log = log
        self.faults = faults
        self.router = router
        self.executor = executor
        self.sockets = sockets
        self.gateway_url = gateway_url
        self.hashed_signing_keys: set[str] = set()
        """Those that are accepted; where there are none, no key is asked for."""
        self._server: EmbeddedServer | None = None

    async def start(self, listener: socket.socket) -> None:
        app = Starlette(
            routes=[
                Route("/v0/connect/start", self._start, methods=["POST"]),
                Route("/v0/connect/flush", self._flush, methods=["POST"]),
                Route("/v0/runs/{run_id}/batch", self._batch),
                Route("/v0/runs/{run_id}/actions", self._actions),
                Route("/e/{key}", self._events, methods=["POST"]),
            ]
        )
        self._server = EmbeddedServer(app)
        await self._server.start(listener)

    @property
    def is_up(self) -> bool:
        return self._server is not None

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    # For workers

    async def _start(self, request: Request) -> Response:
        start = connect_pb2.StartRequest()
        return await self._call(request, "start", start, self.faults.start, self._begin)

    async def _flush(self, request: Request) -> Response:
        reply = connect_pb2.SDKResponse()
        return await self._call(request, "flush", reply, self.faults.flush, self._save)

    async def _call(
        self,
        request: Request,
        name: str,
        message: Message,
        fault: Answer,
        answer: Callable[[Message], Response],
    ) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return _error(400, "the client has left")
        try:
            message.ParseFromString(body)
        except DecodeError:
            response = _error(400, "could not unmarshal request")
        else:
            if fault is not None:
                response = await _misbehave(fault)
            elif not self._authorized(request):
                response = _error(401, "authentication failed")
            else:
                response = answer(message)
        await asyncio.sleep(self.faults.delay)
        self.log.append(
            Seen(
                time.monotonic(),
                name,  # type: ignore[arg-type]
                message=message,
                data=body,
                id=getattr(message, "request_id", ""),
                code=response.status_code,
                headers=dict(request.headers),
            )
        )
        return response

    def _authorized(self, request: Request) -> bool:
        if not self.hashed_signing_keys:
            return True
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        return key in self.hashed_signing_keys

    def _begin(self, message: Message) -> Response:
        assert isinstance(message, connect_pb2.StartRequest)
        connection_id, token = ulid.new(), secrets.token_urlsafe()
        excluded = message.exclude_gateways
        groups = [group for group in GROUPS if group not in excluded] or GROUPS
        self.sockets.issued[connection_id] = (token, groups[0])
        return _protobuf(
            connect_pb2.StartResponse(
                connection_id=connection_id,
                gateway_endpoint=self.faults.endpoint or self.gateway_url,
                gateway_group=groups[0],
                session_token=token,
                sync_token=secrets.token_urlsafe(),
            )
        )

    def _save(self, message: Message) -> Response:
        assert isinstance(message, connect_pb2.SDKResponse)
        try:
            json.loads(message.system_trace_ctx)
        except ValueError:
            return _error(400, "could not unmarshal system trace ctx")
        self.router.save(message)
        return _protobuf(connect_pb2.FlushResponse(request_id=message.request_id))

    # For the SDK

    async def _events(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            events = body if isinstance(body, list) else [body]
            ids = [self.executor.receive(event) for event in events]
        except (ValueError, TypeError, AttributeError, KeyError):
            return JSONResponse({"error": "not an event", "status": 400}, 400)
        return JSONResponse({"ids": ids, "status": 200})

    async def _batch(self, request: Request) -> Response:
        run = self.executor.find(request.path_params["run_id"])
        if run is None:
            return _error(404, "run not found")
        return JSONResponse(run.events)

    async def _actions(self, request: Request) -> Response:
        run = self.executor.find(request.path_params["run_id"])
        if run is None:
            return _error(404, "run not found")
        return JSONResponse(run.memos)


async def _misbehave(fault: int | str) -> Response:
    if fault == "hang":
        # Until LocalGateway stops: nothing to make a fuss of.
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        fault = 503
    if fault == "garbage":
        return Response(b"\xff<html>", media_type="text/html")
    return _error(int(fault), "refused on request")


def _protobuf(message: Message) -> Response:
    return Response(message.SerializeToString(), media_type="application/octet-stream")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message, "status": status}, status)
