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
    size_of,
    write_number,
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

    def _begin(self, data: bytes) -> int:
        stop, end = 0, len(data)
        if stop < end and data[stop] == 8:
            number = data[stop + 1]
            if number > 127:
                return stop
            self.kind = number
            stop += 2
        if stop < end and data[stop] == 18:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                more = data[start]
                if more > 127:
                    return stop
                start += 1
                size += (more - 1) << 7
            stop = start + size
            self.payload = data[start:stop]
        return stop

    @staticmethod
    def written(
        *,
        kind: int = 0,
        payload: bytes = b"",
    ) -> bytes:
        parts: list[bytes] = []
        if kind:
            parts += (b"\x08", write_number(INT32, kind))
        if payload:
            parts += (b"\x12", size_of(payload), payload)
        return b"".join(parts)

    def SerializeToString(self) -> bytes:
        return self.written(**self.__dict__)


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

    def _begin(self, data: bytes) -> int:
        stop, end = 0, len(data)
        if stop < end and data[stop] == 10:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.request_id = data[start:stop].decode()
        if stop < end and data[stop] == 18:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.account_id = data[start:stop].decode()
        if stop < end and data[stop] == 26:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.env_id = data[start:stop].decode()
        if stop < end and data[stop] == 34:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.app_id = data[start:stop].decode()
        if stop < end and data[stop] == 42:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.app_name = data[start:stop].decode()
        if stop < end and data[stop] == 50:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.function_id = data[start:stop].decode()
        if stop < end and data[stop] == 58:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.function_slug = data[start:stop].decode()
        if stop < end and data[stop] == 66:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.step_id = data[start:stop].decode()
        if stop < end and data[stop] == 74:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                more = data[start]
                if more > 127:
                    return stop
                start += 1
                size += (more - 1) << 7
            stop = start + size
            self.request_payload = data[start:stop]
        if stop < end and data[stop] == 82:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                more = data[start]
                if more > 127:
                    return stop
                start += 1
                size += (more - 1) << 7
            stop = start + size
            self.system_trace_ctx = data[start:stop]
        if stop < end and data[stop] == 90:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                more = data[start]
                if more > 127:
                    return stop
                start += 1
                size += (more - 1) << 7
            stop = start + size
            self.user_trace_ctx = data[start:stop]
        if stop < end and data[stop] == 98:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.run_id = data[start:stop].decode()
        if stop < end and data[stop] == 106:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.lease_id = data[start:stop].decode()
        if stop < end and data[stop] == 114:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.job_id = data[start:stop].decode()
        return stop


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

    @staticmethod
    def written(
        *,
        request_id: str = "",
        account_id: str = "",
        env_id: str = "",
        app_id: str = "",
        function_slug: str = "",
        step_id: str | None = None,
        system_trace_ctx: bytes = b"",
        user_trace_ctx: bytes = b"",
        run_id: str = "",
    ) -> bytes:
        parts: list[bytes] = []
        if request_id:
            text = request_id.encode()
            parts += (b"\n", size_of(text), text)
        if account_id:
            text = account_id.encode()
            parts += (b"\x12", size_of(text), text)
        if env_id:
            text = env_id.encode()
            parts += (b"\x1a", size_of(text), text)
        if app_id:
            text = app_id.encode()
            parts += (b'"', size_of(text), text)
        if function_slug:
            text = function_slug.encode()
            parts += (b"*", size_of(text), text)
        if step_id is not None:
            text = step_id.encode()
            parts += (b"2", size_of(text), text)
        if system_trace_ctx:
            parts += (b":", size_of(system_trace_ctx), system_trace_ctx)
        if user_trace_ctx:
            parts += (b"B", size_of(user_trace_ctx), user_trace_ctx)
        if run_id:
            text = run_id.encode()
            parts += (b"J", size_of(text), text)
        return b"".join(parts)

    def SerializeToString(self) -> bytes:
        return self.written(**self.__dict__)


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

    @staticmethod
    def written(
        *,
        request_id: str = "",
        account_id: str = "",
        env_id: str = "",
        app_id: str = "",
        function_slug: str = "",
        step_id: str | None = None,
        system_trace_ctx: bytes = b"",
        user_trace_ctx: bytes = b"",
        run_id: str = "",
        lease_id: str = "",
    ) -> bytes:
        parts: list[bytes] = []
        if request_id:
            text = request_id.encode()
            parts += (b"\n", size_of(text), text)
        if account_id:
            text = account_id.encode()
            parts += (b"\x12", size_of(text), text)
        if env_id:
            text = env_id.encode()
            parts += (b"\x1a", size_of(text), text)
        if app_id:
            text = app_id.encode()
            parts += (b'"', size_of(text), text)
        if function_slug:
            text = function_slug.encode()
            parts += (b"*", size_of(text), text)
        if step_id is not None:
            text = step_id.encode()
            parts += (b"2", size_of(text), text)
        if system_trace_ctx:
            parts += (b":", size_of(system_trace_ctx), system_trace_ctx)
        if user_trace_ctx:
            parts += (b"B", size_of(user_trace_ctx), user_trace_ctx)
        if run_id:
            text = run_id.encode()
            parts += (b"J", size_of(text), text)
        if lease_id:
            text = lease_id.encode()
            parts += (b"R", size_of(text), text)
        return b"".join(parts)

    def SerializeToString(self) -> bytes:
        return self.written(**self.__dict__)


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

    @staticmethod
    def written(
        *,
        request_id: str = "",
        account_id: str = "",
        env_id: str = "",
        app_id: str = "",
        status: int = 0,
        body: bytes = b"",
        no_retry: bool = False,
        retry_after: str | None = None,
        sdk_version: str = "",
        request_version: int = 0,
        system_trace_ctx: bytes = b"",
        user_trace_ctx: bytes = b"",
        run_id: str = "",
    ) -> bytes:
        parts: list[bytes] = []
        if request_id:
            text = request_id.encode()
            parts += (b"\n", size_of(text), text)
        if account_id:
            text = account_id.encode()
            parts += (b"\x12", size_of(text), text)
        if env_id:
            text = env_id.encode()
            parts += (b"\x1a", size_of(text), text)
        if app_id:
            text = app_id.encode()
            parts += (b'"', size_of(text), text)
        if status:
            parts += (b"(", write_number(INT32, status))
        if body:
            parts += (b"2", size_of(body), body)
        if no_retry:
            parts += (b"8", write_number(BOOL, no_retry))
        if retry_after is not None:
            text = retry_after.encode()
            parts += (b"B", size_of(text), text)
        if sdk_version:
            text = sdk_version.encode()
            parts += (b"J", size_of(text), text)
        if request_version:
            parts += (b"P", write_number(UINT32, request_version))
        if system_trace_ctx:
            parts += (b"Z", size_of(system_trace_ctx), system_trace_ctx)
        if user_trace_ctx:
            parts += (b"b", size_of(user_trace_ctx), user_trace_ctx)
        if run_id:
            text = run_id.encode()
            parts += (b"j", size_of(text), text)
        return b"".join(parts)

    def SerializeToString(self) -> bytes:
        return self.written(**self.__dict__)


@dataclass(kw_only=True, repr=False)
class WorkerReplyAckData(Message):
    request_id: str = field(1, TEXT)

    def _begin(self, data: bytes) -> int:
        stop, end = 0, len(data)
        if stop < end and data[stop] == 10:
            start = stop + 2
            size = data[start - 1]
            if size > 127:
                return stop
            stop = start + size
            self.request_id = data[start:stop].decode()
        return stop


@dataclass(kw_only=True, repr=False)
class WorkerStatusData(Message):
    in_flight_request_ids: list[str] = field(1, TEXTS)
    shutdown_requested: bool = field(2, BOOL)
