"""The HTTP side: start and flush for workers, events for apps."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..health.embedded import EmbeddedServer
from ..protocol.wire import connect as wire
from ..protocol.wire.codec import DecodeError, Message
from . import ulid
from .calls import ENV_ID, identify
from .connection import Seen
from .executor import Executor
from .faults import Answer, Faults
from .log import Log
from .router import Router
from .runs import Run, size
from .sockets import Sockets

__all__ = ["API"]

MAX_EVENT_SIZE = 3 * 1024 * 1024
"""Bytes (``AbsoluteMaxEventSize`` in pkg/consts/consts.go)."""

GROUPS = ("local-1", "local-2")
"""Gateway groups; one gateway stands for both."""

M = TypeVar("M", bound=Message)

Endpoint = Callable[[Request], Awaitable[Response]]


class API:
    """Answers HTTP. Lives on the gateway's event loop."""

    def __init__(
        self,
        *,
        log: Log[Seen],
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
                Route("/v1/events/{event_id}/runs", self._event_runs),
                Route("/v1/runs/{run_id}", self._run, methods=["GET", "DELETE"]),
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
        kind, fault = wire.StartRequest, self.faults.start
        return await self._call(request, "start", kind, fault, self._begin)

    async def _flush(self, request: Request) -> Response:
        kind, fault = wire.SDKResponse, self.faults.flush
        return await self._call(request, "flush", kind, fault, self._save)

    async def _call(
        self,
        request: Request,
        name: str,
        kind: type[M],
        fault: Answer,
        answer: Callable[[M], Response],
    ) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return _error(400, "the client has left")
        message: M | None = None
        try:
            message = kind.FromString(body)
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

    def _begin(self, message: wire.StartRequest) -> Response:
        connection_id, token = ulid.new(), secrets.token_urlsafe()
        excluded = message.exclude_gateways
        groups = [group for group in GROUPS if group not in excluded] or GROUPS
        self.sockets.issued[connection_id] = (token, groups[0])
        return _protobuf(
            wire.StartResponse(
                connection_id=connection_id,
                gateway_endpoint=self.faults.endpoint or self.gateway_url,
                gateway_group=groups[0],
                session_token=token,
                sync_token=secrets.token_urlsafe(),
            )
        )

    def _save(self, message: wire.SDKResponse) -> Response:
        if self.faults.refuses(message.request_id):
            return _error(403, "refused")
        try:
            json.loads(message.system_trace_ctx)
        except ValueError:
            return _error(400, "could not unmarshal system trace ctx")
        self.router.requests.save(message)
        return _protobuf(wire.FlushResponse(request_id=message.request_id))

    # For the SDK

    async def _events(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            events = body if isinstance(body, list) else [body]
            if any(size(event) > MAX_EVENT_SIZE for event in events):
                return JSONResponse({"error": "event too large", "status": 400}, 400)
            ids = [self.executor.receive(event) for event in events]
        except (ValueError, TypeError, AttributeError, KeyError):
            return JSONResponse({"error": "not an event", "status": 400}, 400)
        return JSONResponse({"ids": ids, "status": 200})

    async def _batch(self, request: Request) -> Response:
        run = self.executor.find(request.path_params["run_id"])
        return _gone() if run is None or run.ended_at else JSONResponse(run.events)

    async def _actions(self, request: Request) -> Response:
        run = self.executor.find(request.path_params["run_id"])
        return _gone() if run is None or run.ended_at else JSONResponse(run.memos)

    # For people: what became of an event, or of a run

    async def _event_runs(self, request: Request) -> Response:
        event_id = request.path_params["event_id"]
        if not ulid.valid(event_id):
            return _error(400, f"Invalid event ID: {event_id}")
        return _data([run for run in self.executor.runs if run.event["id"] == event_id])

    async def _run(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        if not ulid.valid(run_id):
            return _error(400, f"Invalid run ID: {run_id}")
        run = self.executor.find(run_id)
        if run is None:
            return _error(500, f"Unable to load function run: {run_id}")
        if request.method == "DELETE":
            self.executor.cancel(run)
            return Response()
        return _data(run)


def _data(found: Run | list[Run]) -> Response:
    data = list(map(_describe, found)) if isinstance(found, list) else _describe(found)
    return JSONResponse({"data": data, "metadata": {"fetched_at": _date(time.time())}})


def _describe(run: Run) -> dict[str, object]:
    """A run as the server tells of it (pkg/cqrs/function_runs.go)."""
    told = {
        "run_id": run.id,
        "run_started_at": _date(run.started_at),
        "function_id": identify(run.function.id),
        "function_version": 1,
        "environment_id": ENV_ID,
        "event_id": run.event["id"],
        "status": run.status.capitalize(),
        "ended_at": _date(run.ended_at) if run.ended_at else None,
    }
    if run.status == "completed":
        told["output"] = run.output
    elif run.status == "failed":
        told["output"] = run.error
    elif run.status == "cancelled":
        told["output"] = {}
    return told


def _date(moment: float) -> str:
    date = datetime.fromtimestamp(moment, timezone.utc)
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def _gone() -> Response:
    """What is answered of a run whose state there is no more (pkg/coreapi)."""
    return _error(410, "runtime state is no longer available")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message, "status": status}, status)
