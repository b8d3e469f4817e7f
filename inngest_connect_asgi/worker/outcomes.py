"""How a request ends where the SDK has no answer to it."""

from __future__ import annotations

import json
import logging

from .. import logs
from ..context import Run
from ..errors import describe
from ..libraries import version
from ..messages import Outcome

__all__ = ["LANGUAGE", "MAX_BODY_SIZE", "VERSION", "error_body", "failure", "too_large"]

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
    body = error_body("unknown", _text(error), type(error).__name__)
    if len(body) > MAX_BODY_SIZE:
        body = too_large(run, "error", len(body))
    return Outcome(status=500, body=body, sdk_version=f"inngest-{LANGUAGE}:v{VERSION}")


def too_large(run: Run, what: str, size: int) -> bytes:
    """The body to send instead of one that no gateway reads."""
    message = (
        f"the {what} of {run.request.lease.function_slug} is {size} bytes, more than "
        f"the {MAX_BODY_SIZE} that Inngest Connect can carry"
    )
    logs.emit(logging.ERROR, message)
    return error_body("output_too_large", message, "OutputTooLargeError")


def error_body(code: str, message: str, name: str) -> bytes:
    return json.dumps({"code": code, "message": message, "name": name}).encode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its text could not be made"
