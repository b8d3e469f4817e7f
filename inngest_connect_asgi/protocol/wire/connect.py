"""The messages of ``connect.proto``. Written by ``scripts/generate-wire``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .codec import (
    BOOL,
    BYTES,
    INT32,
    INT64,
    MESSAGE,
    MESSAGES,
    TEXT,
    TEXTS,
    UINT32,
    Message,
    field,
)


class Kind(IntEnum):
    GATEWAY_HELLO = 0
    WORKER_CONNECT = 1
    GATEWAY_CONNECTION_READY = 2
    GATEWAY_EXECUTOR_REQUEST = 3
    WORKER_READY = 4
    WORKER_REQUEST_ACK = 5
    WORKER_REPLY = 6
    WORKER_REPLY_ACK = 7
    WORKER_PAUSE = 8
    WORKER_HEARTBEAT = 9
    GATEWAY_HEARTBEAT = 10
    GATEWAY_CLOSING = 11
    WORKER_REQUEST_EXTEND_LEASE = 12
    WORKER_REQUEST_EXTEND_LEASE_ACK = 13
    SYNC_FAILED = 14
    WORKER_STATUS = 15


GATEWAY_HELLO = Kind.GATEWAY_HELLO
WORKER_CONNECT = Kind.WORKER_CONNECT
GATEWAY_CONNECTION_READY = Kind.GATEWAY_CONNECTION_READY
GATEWAY_EXECUTOR_REQUEST = Kind.GATEWAY_EXECUTOR_REQUEST
WORKER_READY = Kind.WORKER_READY
WORKER_REQUEST_ACK = Kind.WORKER_REQUEST_ACK
WORKER_REPLY = Kind.WORKER_REPLY
WORKER_REPLY_ACK = Kind.WORKER_REPLY_ACK
WORKER_PAUSE = Kind.WORKER_PAUSE
WORKER_HEARTBEAT = Kind.WORKER_HEARTBEAT
GATEWAY_HEARTBEAT = Kind.GATEWAY_HEARTBEAT
GATEWAY_CLOSING = Kind.GATEWAY_CLOSING
WORKER_REQUEST_EXTEND_LEASE = Kind.WORKER_REQUEST_EXTEND_LEASE
WORKER_REQUEST_EXTEND_LEASE_ACK = Kind.WORKER_REQUEST_EXTEND_LEASE_ACK
SYNC_FAILED = Kind.SYNC_FAILED
WORKER_STATUS = Kind.WORKER_STATUS


class SDKResponseStatus(IntEnum):
    NOT_COMPLETED = 0
    DONE = 1
    ERROR = 2


NOT_COMPLETED = SDKResponseStatus.NOT_COMPLETED
DONE = SDKResponseStatus.DONE
ERROR = SDKResponseStatus.ERROR


@dataclass(kw_only=True, repr=False)
class ConnectMessage(Message):
    kind: int = field(1, INT32)
    payload: bytes = field(2, BYTES)


@dataclass(kw_only=True, repr=False)
class StartRequest(Message):
    exclude_gateways: list[str] = field(1, TEXTS)


@dataclass(kw_only=True, repr=False)
class StartResponse(Message):
    connection_id: str = field(1, TEXT)
    gateway_endpoint: str = field(2, TEXT)
    gateway_group: str = field(3, TEXT)
    session_token: str = field(4, TEXT)
    sync_token: str = field(5, TEXT)


@dataclass(kw_only=True, repr=False)
class FlushResponse(Message):
    request_id: str = field(1, TEXT)


@dataclass(kw_only=True, repr=False)
class AuthData(Message):
    session_token: str = field(1, TEXT)
    sync_token: str = field(2, TEXT)


@dataclass(kw_only=True, repr=False)
class AppConfiguration(Message):
    app_name: str = field(1, TEXT)
    app_version: str | None = field(2, TEXT, optional=True)
    functions: bytes = field(4, BYTES)


@dataclass(kw_only=True, repr=False)
class SystemAttributes(Message):
    cpu_cores: int = field(1, INT32)
    mem_bytes: int = field(2, INT64)
    os: str = field(3, TEXT)


@dataclass(kw_only=True, repr=False)
class Timestamp(Message):
    seconds: int = field(1, INT64)
    nanos: int = field(2, INT32)


@dataclass(kw_only=True, repr=False)
class WorkerConnectRequestData(Message):
    connection_id: str = field(1, TEXT)
    instance_id: str = field(2, TEXT)
    auth_data: AuthData | None = field(3, MESSAGE, AuthData)
    capabilities: bytes = field(4, BYTES)
    apps: list[AppConfiguration] = field(5, MESSAGES, AppConfiguration)
    worker_manual_readiness_ack: bool = field(6, BOOL)
    system_attributes: SystemAttributes | None = field(7, MESSAGE, SystemAttributes)
    environment: str | None = field(8, TEXT, optional=True)
    framework: str = field(9, TEXT)
    platform: str | None = field(10, TEXT, optional=True)
    sdk_version: str = field(11, TEXT)
    sdk_language: str = field(12, TEXT)
    started_at: Timestamp | None = field(13, MESSAGE, Timestamp)
    max_worker_concurrency: int | None = field(14, INT64, optional=True)


@dataclass(kw_only=True, repr=False)
class GatewayConnectionReadyData(Message):
    heartbeat_interval: str = field(1, TEXT)
    extend_lease_interval: str = field(2, TEXT)
    status_interval: str = field(3, TEXT)


@dataclass(kw_only=True, repr=False)
class SystemError(Message):
    code: str = field(1, TEXT)
    data: bytes | None = field(2, BYTES, optional=True)
    message: str = field(3, TEXT)


@dataclass(kw_only=True, repr=False)
class GatewayExecutorRequestData(Message):
    request_id: str = field(1, TEXT)
    account_id: str = field(2, TEXT)
    env_id: str = field(3, TEXT)
    app_id: str = field(4, TEXT)
    app_name: str = field(5, TEXT)
    function_id: str = field(6, TEXT)
    function_slug: str = field(7, TEXT)
    step_id: str | None = field(8, TEXT, optional=True)
    request_payload: bytes = field(9, BYTES)
    system_trace_ctx: bytes = field(10, BYTES)
    user_trace_ctx: bytes = field(11, BYTES)
    run_id: str = field(12, TEXT)
    lease_id: str = field(13, TEXT)
    job_id: str = field(14, TEXT)


@dataclass(kw_only=True, repr=False)
class WorkerRequestAckData(Message):
    request_id: str = field(1, TEXT)
    account_id: str = field(2, TEXT)
    env_id: str = field(3, TEXT)
    app_id: str = field(4, TEXT)
    function_slug: str = field(5, TEXT)
    step_id: str | None = field(6, TEXT, optional=True)
    system_trace_ctx: bytes = field(7, BYTES)
    user_trace_ctx: bytes = field(8, BYTES)
    run_id: str = field(9, TEXT)


@dataclass(kw_only=True, repr=False)
class WorkerRequestExtendLeaseData(Message):
    request_id: str = field(1, TEXT)
    account_id: str = field(2, TEXT)
    env_id: str = field(3, TEXT)
    app_id: str = field(4, TEXT)
    function_slug: str = field(5, TEXT)
    step_id: str | None = field(6, TEXT, optional=True)
    system_trace_ctx: bytes = field(7, BYTES)
    user_trace_ctx: bytes = field(8, BYTES)
    run_id: str = field(9, TEXT)
    lease_id: str = field(10, TEXT)


@dataclass(kw_only=True, repr=False)
class WorkerRequestExtendLeaseAckData(Message):
    request_id: str = field(1, TEXT)
    account_id: str = field(2, TEXT)
    env_id: str = field(3, TEXT)
    app_id: str = field(4, TEXT)
    function_slug: str = field(5, TEXT)
    new_lease_id: str | None = field(6, TEXT, optional=True)


@dataclass(kw_only=True, repr=False)
class SDKResponse(Message):
    request_id: str = field(1, TEXT)
    account_id: str = field(2, TEXT)
    env_id: str = field(3, TEXT)
    app_id: str = field(4, TEXT)
    status: int = field(5, INT32)
    body: bytes = field(6, BYTES)
    no_retry: bool = field(7, BOOL)
    retry_after: str | None = field(8, TEXT, optional=True)
    sdk_version: str = field(9, TEXT)
    request_version: int = field(10, UINT32)
    system_trace_ctx: bytes = field(11, BYTES)
    user_trace_ctx: bytes = field(12, BYTES)
    run_id: str = field(13, TEXT)


@dataclass(kw_only=True, repr=False)
class WorkerReplyAckData(Message):
    request_id: str = field(1, TEXT)


@dataclass(kw_only=True, repr=False)
class WorkerStatusData(Message):
    in_flight_request_ids: list[str] = field(1, TEXTS)
    shutdown_requested: bool = field(2, BOOL)
