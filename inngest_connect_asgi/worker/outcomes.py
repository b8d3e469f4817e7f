"""How a request ends where the SDK has no answer to it."""

from __future__ import annotations

import json
import logging

from .. import logs
from ..context import Run
from ..errors import describe
from ..libraries import version
from ..messages import Outcome

__all__ = ["LANGUAGE", "MAX_BODY_SIZE", "VERSION", "error_body", "failure"]

VERSION = version("inngest")
LANGUAGE = "py"

MAX_BODY_SIZE = 8 * 1024 * 1024 - 64 * 1024
"""Bytes. The gateway reads 8 MiB in one message, of which the body is nearly all."""


def failure(run: Run, error: BaseException) -> Outcome:
    """The outcome where there is no response. It may be retried."""
    run.error = error
    lease = run.request.lease
    logs.emit(
        logging.ERROR,
        f"{lease.function_slug} failed with {describe(error)}",
        error=error,
        extra={"request_id": lease.request_id, "run_id": lease.run_id},
    )
    return Outcome(
        status=500,
        body=error_body("unknown", _text(error), type(error).__name__),
        sdk_version=f"inngest-{LANGUAGE}:v{VERSION}",
    )


def error_body(code: str, message: str, name: str) -> bytes:
    return json.dumps({"code": code, "message": message, "name": name}).encode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its text could not be made"
