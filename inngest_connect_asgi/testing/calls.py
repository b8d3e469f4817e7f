"""What is asked of a worker, and what it answers."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from ..protocol.wire import connect as wire
from . import ulid
from .functions import JSON
from .runs import Run

__all__ = [
    "ENV_ID",
    "build_request",
    "call_request",
    "error_memo",
    "finished_error",
    "identify",
    "operations",
    "parse_body",
    "payload",
    "step_memo",
]

ACCOUNT_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "account.inngest.test"))
ENV_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "env.inngest.test"))

MAX_REQUEST_SIZE = 4 * 1024 * 1024
"""Bytes of a call request above which the SDK fetches the events and steps itself
(``MaxSDKRequestBodySize`` in pkg/consts/consts.go)."""
STATE_MARGIN = 1024
"""Bytes below it from which on the steps are left out (pkg/execution/driver/
driver.go)."""


def build_request(
    *,
    app: str,
    function: str,
    payload: bytes,
    run_id: str | None = None,
    request_id: str | None = None,
    step_id: str = "step",
    job_id: str | None = None,
) -> wire.GatewayExecutorRequestData:
    return wire.GatewayExecutorRequestData(
        request_id=request_id or ulid.new(),
        account_id=ACCOUNT_ID,
        env_id=ENV_ID,
        app_id=identify(app),
        app_name=app,
        function_id=identify(function),
        function_slug=function,
        step_id=step_id,
        request_payload=payload,
        system_trace_ctx=_trace_context(),
        user_trace_ctx=_trace_context(),
        run_id=run_id or ulid.new(),
        job_id=job_id or ulid.new(),
    )


def identify(name: str) -> str:
    """The UUID of an app or a function."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _trace_context() -> bytes:
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return json.dumps({"traceparent": traceparent, "tracestate": ""}).encode()


def payload(
    run: Run,
    request: wire.GatewayExecutorRequestData,
    attempt: int,
    *,
    use_api: bool,
) -> bytes:
    """The body of a call request (SDK_SPEC.md, 4.4.1 and 4.4.2).

    Steps, and then events, are left out where they are too large, as by
    ``MarshalV1`` in pkg/execution/driver/driver.go.

    Args:
        use_api: Leave them out, however small they are.
    """
    large = run.state_size > MAX_REQUEST_SIZE - STATE_MARGIN

    def encode(events: list[dict[str, JSON]], left_out: bool) -> bytes:
        body = {
            "ctx": {
                "attempt": attempt,
                "disable_immediate_execution": run.parallel,
                "env": "",
                "fn_id": request.function_id,
                "job_id": request.job_id,
                "max_attempts": run.function.max_attempts,
                "qi_id": request.job_id,
                "request_id": request.request_id,
                "run_id": run.id,
                "stack": {"stack": run.stack, "current": len(run.stack)},
                "step_id": request.step_id,
                "use_api": left_out,
            },
            "defers": {},
            "event": run.event,
            "events": events,
            "steps": {} if left_out else run.memos,
            "use_api": left_out,
            "version": 1,
        }
        return json.dumps(body, separators=(",", ":")).encode()

    if not use_api:
        body = encode(run.events, large)
        if len(body) <= MAX_REQUEST_SIZE:
            return body
    return encode([], True)


def parse_body(body: bytes) -> JSON:
    """The body as JSON or, since a worker may send anything, as text."""
    try:
        return json.loads(body or b"null")
    except ValueError:
        return body.decode(errors="replace")


def operations(reply: wire.SDKResponse) -> list[dict[str, JSON]]:
    """What a function wants done next."""
    if reply.status != wire.SDKResponseStatus.NOT_COMPLETED:
        return []
    ops = parse_body(reply.body)
    return [
        op
        for op in (ops if isinstance(ops, list) else [])
        if isinstance(op, dict)
        and isinstance(op.get("id"), str)
        and isinstance(op.get("op"), str)
    ]


def step_memo(op: dict[str, JSON]) -> dict[str, JSON]:
    """What is memoized of a step that has run."""
    if op["op"] == "StepRun":
        return {"data": op.get("data")}
    return error_memo(op.get("error"))


def error_memo(error: JSON) -> dict[str, JSON]:
    """An error as a memo holds it; the SDK wants a name and a message."""
    known = error if isinstance(error, Mapping) else {"message": str(error)}
    return {
        "error": {
            "name": str(known.get("name") or "Error"),
            "message": str(known.get("message") or ""),
            "stack": known.get("stack"),
        }
    }


def finished_error(error: JSON) -> dict[str, JSON]:
    """An error as the events tell it that a run's end is told by."""
    message = "Function execution error"
    known = error if isinstance(error, Mapping) else {"message": str(error)}
    told = {
        name: known.get(name) or default
        for name, default in (
            ("error", message),
            ("name", "Error"),
            ("message", message),
        )
    }
    return told | ({"stack": known["stack"]} if known.get("stack") else {})


def call_request(
    run_id: str = "run", data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The body of a call request, for an event with this ``data``."""
    event = {"name": "test", "data": data or {}, "id": "event", "ts": 1}
    return {
        "ctx": {
            "attempt": 0,
            "disable_immediate_execution": False,
            "run_id": run_id,
            "stack": {"stack": [], "current": 0},
        },
        "event": event,
        "events": [event],
        "steps": {},
        "use_api": False,
    }
