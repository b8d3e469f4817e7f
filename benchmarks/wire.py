"""What the wire costs: the codec beside protobuf's library, in one process.

python -m benchmarks.wire

The least of many rounds counts, as whatever else the machine does only adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from google.protobuf.internal import api_implementation

from inngest_connect_asgi.protocol.wire import connect
from tests.protocol.wire import connect_pb2

ID = "01JDQ4Z5H4V9E6T0M5T8K3W1XR"
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ECHOED: dict[str, Any] = {
    **dict.fromkeys(("account_id", "env_id", "app_id"), UUID),
    "request_id": ID,
    "run_id": ID,
    "function_slug": "shop-send-receipt",
    "system_trace_ctx": b'{"traceparent":"00-%s-00f067aa0ba902b7-01"}' % (b"4b" * 16),
    "user_trace_ctx": b"{}",
}
REQUEST = connect.GatewayExecutorRequestData(
    **ECHOED,
    app_name="shop",
    function_id=UUID,
    step_id="step",
    request_payload=b"x" * 1000,
    lease_id=ID,
    job_id=UUID,
).SerializeToString()
FRAME = connect.ConnectMessage(kind=3, payload=REQUEST).SerializeToString()


def acknowledgement(wire: Any, payload: bytes = REQUEST) -> bytes:
    """Of a request, all of whose fields are read."""
    data = wire.GatewayExecutorRequestData.FromString(payload)
    assert all((data.app_name, data.job_id, data.lease_id, data.request_payload))
    return _written(
        wire.WorkerRequestAckData,
        request_id=data.request_id,
        account_id=data.account_id,
        env_id=data.env_id,
        app_id=data.app_id,
        function_slug=data.function_slug,
        step_id=data.step_id,
        system_trace_ctx=data.system_trace_ctx,
        user_trace_ctx=data.user_trace_ctx,
        run_id=data.run_id,
    )


def exchange(wire: Any) -> bytes:
    payload = acknowledgement(wire, wire.ConnectMessage.FromString(FRAME).payload)
    return _written(wire.ConnectMessage, kind=5, payload=payload)


def reply(wire: Any, body: bytes) -> bytes:
    payload = _written(
        wire.SDKResponse,
        request_id=ID,
        account_id=UUID,
        env_id=UUID,
        app_id=UUID,
        status=1,
        body=body,
        sdk_version="py:v0.5.19",
        request_version=1,
        system_trace_ctx=ECHOED["system_trace_ctx"],
        run_id=ID,
    )
    return _written(wire.ConnectMessage, kind=6, payload=payload)


def _written(message: Any, **fields: Any) -> bytes:
    written: bytes
    if message.__module__ == connect.__name__:
        written = message.written(**fields)
    else:
        written = message(**fields).SerializeToString()
    return written


def microseconds(function: Callable[[Any], bytes], wire: ModuleType) -> float:
    """Of one call, in the best of the rounds."""
    best = float("inf")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        begun = time.perf_counter()
        for _ in range(100):
            function(wire)
        best = min(best, time.perf_counter() - begun)
    return best * 1e4


def main() -> None:
    rows: dict[str, Callable[[Any], bytes]] = {
        "a request read, its acknowledgement written": acknowledgement,
        "the same with their frames": exchange,
        "a reply of 1 kB in its frame": partial(reply, body=b"x" * 1000),
        "a reply of 1 MB in its frame": partial(reply, body=b"x" * 1_000_000),
    }
    print(f"| µs | the codec | protobuf ({api_implementation.Type()}) |\n|---|---|---|")
    for name, function in rows.items():
        assert function(connect) == function(connect_pb2)
        ours, theirs = (microseconds(function, each) for each in (connect, connect_pb2))
        print(f"| {name} | {ours:.1f} | {theirs:.1f} |")


if __name__ == "__main__":
    main()
