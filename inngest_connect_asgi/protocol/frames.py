"""Encoding and decoding of what goes over the gateway's WebSocket.

Field numbers and meanings are the server's: ``proto/connect/v1/connect.proto``
of inngest/inngest.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from ..configuration import Configuration
from ..messages import Delivery, Lease, Outcome, Request
from .wire import connect as wire
from .wire.codec import DecodeError, Message

__all__ = [
    "Malformed",
    "decode",
    "encode",
    "executor_request",
    "extend_lease",
    "name",
    "parse",
    "reply",
    "request_ack",
    "status",
    "worker_connect",
]

_CAPABILITIES = json.dumps({"trust_probe": "v1", "connect": "v1"}).encode()
_STATUSES = {200: wire.DONE, 206: wire.NOT_COMPLETED}

M = TypeVar("M", bound=Message)


class Malformed(ValueError):
    """Bytes from the network that are not the message they claim to be."""


def encode(kind: int, payload: bytes = b"") -> bytes:
    return wire.ConnectMessage.written(kind=kind, payload=payload)


def name(kind: int) -> str:
    """Of a kind of frame, known or not."""
    try:
        return wire.Kind(kind).name
    except ValueError:
        return f"message of kind {kind}"


def parse(message: type[M], data: bytes) -> M:
    """Parse one message of ``connect.proto``.

    Raises:
        Malformed: ``data`` is something else.
    """
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise Malformed(f"not a {message.__name__}") from error


def decode(data: bytes | str) -> wire.ConnectMessage:
    """Parse one WebSocket message.

    Raises:
        Malformed: It is a text frame, or not a ``ConnectMessage``.
    """
    if isinstance(data, str):
        raise Malformed("a text frame")
    return parse(wire.ConnectMessage, data)


def worker_connect(
    configuration: Configuration,
    start: wire.StartResponse,
    *,
    started_at: float,
) -> bytes:
    """The worker's half of the handshake; ``started_at`` in Unix seconds."""
    seconds, nanoseconds = divmod(int(started_at * 1e9), 10**9)
    data = wire.WorkerConnectRequestData(
        connection_id=start.connection_id,
        instance_id=configuration.instance_id,
        auth_data=wire.AuthData(
            session_token=start.session_token, sync_token=start.sync_token
        ),
        capabilities=_CAPABILITIES,
        apps=[
            wire.AppConfiguration(
                app_name=app.name, app_version=app.version, functions=app.functions
            )
            for app in configuration.apps
        ],
        worker_manual_readiness_ack=True,
        system_attributes=wire.SystemAttributes(
            cpu_cores=configuration.cpu_cores,
            mem_bytes=configuration.memory,
            os=configuration.os,
        ),
        environment=configuration.environment,
        framework="connect",
        sdk_version=configuration.sdk_version,
        sdk_language="py",
        started_at=wire.Timestamp(seconds=seconds, nanos=nanoseconds),
        max_worker_concurrency=configuration.max_worker_concurrency,
    )
    return encode(wire.WORKER_CONNECT, data.SerializeToString())


def executor_request(payload: bytes) -> Request:
    """Parse a request to run a function.

    Raises:
        Malformed: It is not one, or it names no request or no app.
    """
    data = parse(wire.GatewayExecutorRequestData, payload)
    if not data.request_id or not data.app_name:
        raise Malformed("a GatewayExecutorRequestData without request id or app name")
    lease_id = data.lease_id
    lease = Lease(
        delivery=Delivery(data.request_id, lease_id),
        lease_id=lease_id,
        account_id=data.account_id,
        env_id=data.env_id,
        app_id=data.app_id,
        function_slug=data.function_slug,
        step_id=data.step_id,
        run_id=data.run_id,
        system_trace_ctx=data.system_trace_ctx,
        user_trace_ctx=data.user_trace_ctx,
    )
    return Request(lease, data.app_name, data.job_id, data.request_payload)


def request_ack(lease: Lease) -> bytes:
    data = wire.WorkerRequestAckData.written(**_echo(lease))
    return encode(wire.WORKER_REQUEST_ACK, data)


def extend_lease(lease: Lease) -> bytes:
    data = wire.WorkerRequestExtendLeaseData.written(
        **_echo(lease), lease_id=lease.lease_id
    )
    return encode(wire.WORKER_REQUEST_EXTEND_LEASE, data)


def _echo(lease: Lease) -> dict[str, Any]:
    return {
        "request_id": lease.request_id,
        "account_id": lease.account_id,
        "env_id": lease.env_id,
        "app_id": lease.app_id,
        "function_slug": lease.function_slug,
        "step_id": lease.step_id,
        "system_trace_ctx": lease.system_trace_ctx,
        "user_trace_ctx": lease.user_trace_ctx,
        "run_id": lease.run_id,
    }


def reply(lease: Lease, outcome: Outcome) -> bytes:
    """An ``SDKResponse``: the payload of a WORKER_REPLY, or the body of a flush."""
    return wire.SDKResponse.written(
        request_id=lease.request_id,
        account_id=lease.account_id,
        env_id=lease.env_id,
        app_id=lease.app_id,
        status=_STATUSES.get(outcome.status, wire.ERROR),
        body=outcome.body,
        no_retry=outcome.no_retry,
        retry_after=outcome.retry_after,
        sdk_version=outcome.sdk_version,
        request_version=outcome.request_version,
        # The flush API answers 400 unless this is JSON.
        system_trace_ctx=lease.system_trace_ctx or b"{}",
        user_trace_ctx=lease.user_trace_ctx,
        run_id=lease.run_id,
    )


def status(request_ids: list[str], *, shutdown_requested: bool) -> bytes:
    data = wire.WorkerStatusData(
        in_flight_request_ids=request_ids, shutdown_requested=shutdown_requested
    )
    return encode(wire.WORKER_STATUS, data.SerializeToString())
