"""The official SDK, whose internals this module alone knows.

The SDK already turns the body of a call request into the body of a response;
``serve`` and Connect differ only in how the two travel. This module hands it
the one and takes the other, for every version of the SDK since 0.5.9.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import inngest

from ..context import CURRENT, Run
from ..errors import ConfigurationError, describe
from ..messages import Delivery, Lease, Outcome, Request
from .outcomes import LANGUAGE, MAX_BODY_SIZE, VERSION, too_large

_import_error: ImportError | None = None
try:
    with warnings.catch_warnings():
        # The SDK has a pydantic model of an older style. Apps that make errors of
        # warnings should be able to import this all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        from inngest._internal import comm_lib, const, net, server_lib
except ImportError as error:
    _import_error = error

__all__ = [
    "Escaped",
    "Handler",
    "check_version",
    "registration",
    "served_function_ids",
]


def check_version() -> None:
    """Check that the installed SDK has all that this module relies on.

    Raises:
        ConfigurationError: It has not.
    """
    try:
        if _import_error is not None:
            raise _import_error
        lease = Lease(Delivery("r", "l"), "l", "a", "e", "a", "f", None, "r", b"", b"")
        request = _comm_request(Request(lease, "app", "job", b"{}"))
        inspect.signature(comm_lib.CommHandler).bind(**_handler_options(None, []))
        for method in (comm_lib.CommHandler.post, comm_lib.CommHandler.post_sync):
            inspect.signature(method).bind(None, request)
        inspect.signature(comm_lib.get_function_configs).bind("wss://connect", {})
        _outcome(Run(Request(lease, "app", "job", b"")), comm_lib.CommResponse())
        for name in ("call", "call_sync", "id", "is_handler_async", "on_failure_fn_id"):
            getattr(inngest.Function, name)
    except Exception as error:
        raise ConfigurationError(
            f"inngest {VERSION} does not fit this version of inngest-connect-asgi "
            f"({describe(error)}); install inngest>=0.5.9,<0.6, or a version of "
            "inngest-connect-asgi that is made for it"
        ) from error


class Handler:
    """The SDK's own, of one app: it runs functions, to their end or next step."""

    def __init__(
        self, client: inngest.Inngest, functions: Sequence[inngest.Function[Any]]
    ) -> None:
        self._handler = comm_lib.CommHandler(
            **_handler_options(client, [_contained(each) for each in functions])
        )

    async def post(self, run: Run) -> Outcome:
        """Run an asynchronous function. Raises whatever gets past the SDK."""
        return _outcome(run, await self._handler.post(_comm_request(run.request)))

    def post_sync(self, run: Run) -> Outcome:
        """As :meth:`post`, a synchronous one."""
        return _outcome(run, self._handler.post_sync(_comm_request(run.request)))


def registration(functions: Sequence[inngest.Function[Any]]) -> bytes:
    """What an HTTP sync sends, as JSON, but for where the functions are reached."""
    configs = comm_lib.get_function_configs(
        "wss://connect", {function.id: function for function in functions}
    )
    if isinstance(configs, Exception):
        raise configs
    registered = []
    for config in configs:
        function = config.model_dump(mode="json", by_alias=True, exclude_none=True)
        for step in function["steps"].values():
            # The SDK says "http" of failure handlers.
            step["runtime"]["type"] = "ws"
        registered.append(function)
    return json.dumps(registered).encode()


def served_function_ids(view: Callable[..., Any]) -> set[str]:
    """The ids of the functions behind a view that the SDK's ``serve`` made, if any."""
    ids: set[str] = set()
    with suppress(Exception):  # what is no function may be anything
        view = inspect.unwrap(view)
    for cell in getattr(view, "__closure__", None) or ():
        try:
            handler = cell.cell_contents
        except ValueError:  # it is empty
            continue
        if isinstance(handler, comm_lib.CommHandler):
            ids |= set(handler._fns)
    return ids


class Escaped(Exception):
    """Carries an exception past what would let it end more than one run."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _contained(function: inngest.Function[Any]) -> inngest.Function[Any]:
    """The same function, but that it can't exit from the event loop.

    The SDK runs it in a task, and a ``SystemExit`` that leaves a task leaves the
    loop as well: a command line tool that is called as a library ends the app.

    The run is told what only the SDK knows: the attempt, and what was raised.
    """
    call, call_sync = function.call, function.call_sync

    async def contained_call(client: Any, ctx: inngest.Context, *args: Any) -> Any:
        run = CURRENT.get()
        if run is not None:
            run.attempt = ctx.attempt
        try:
            result = await call(client, ctx, *args)
        except SystemExit as error:
            raise Escaped(error) from error
        if run is not None:
            run.error = _error(result)
        return result

    def contained_call_sync(client: Any, ctx: inngest.ContextSync, *args: Any) -> Any:
        run = CURRENT.get()
        if run is not None:
            run.attempt = ctx.attempt
        result = call_sync(client, ctx, *args)
        if run is not None:
            run.error = _error(result)
        return result

    # Middleware is handed the original, to which the bound method belongs.
    contained = copy.copy(function)
    contained.call = contained_call  # type: ignore[assignment, method-assign]
    contained.call_sync = contained_call_sync  # type: ignore[assignment, method-assign]
    return contained


def _error(result: Any) -> Exception | None:
    """What the function raised, or the first of its steps that did."""
    if result.multi is None:
        error: Exception | None = result.error
        return error
    return next((each.error for each in result.multi if each.error is not None), None)


def _handler_options(client: Any, functions: list[Any]) -> dict[str, Any]:
    options = {
        "client": client,
        "framework": server_lib.Framework.CONNECT,
        "functions": functions,
        # Or INNGEST_STREAMING could turn it on; a reply is one message.
        "streaming": const.Streaming.DISABLE,
    }
    # Required since 0.5.19, and of no effect where there is no HTTP endpoint.
    if "enable_unauthed_sync" in inspect.signature(comm_lib.CommHandler).parameters:
        options["enable_unauthed_sync"] = False
    return options


def _comm_request(request: Request) -> comm_lib.CommRequest:
    lease = request.lease
    headers = {
        "x-inngest-job-id": request.job_id,
        "x-request-id": lease.request_id,
    }
    return comm_lib.CommRequest(
        body=request.payload,
        # Read since 0.5.19.
        headers=headers,
        is_connect=True,
        public_path=None,
        query_params={"fnId": lease.function_slug, "stepId": lease.step_id or "step"},
        raw_request=request,
        request_url="",
        serve_origin=None,
        serve_path=None,
        **_untimed(),
    )


class _Untimed:
    """Stands for one of the SDK's stop-watches."""

    _start_counter = None

    def __enter__(self) -> _Untimed:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def to_header(self) -> str:
        return ""


@functools.cache
def _untimed() -> dict[str, Any]:
    """Options of a request that is not timed.

    The SDK times each one for a response header, which Connect has no place for, and
    one of its stop-watches is a task that wakes up ten times a second.
    """
    if "timings" not in comm_lib.CommRequest.model_fields:
        return {}
    timings = net.ServerTimings()
    for name in vars(timings):
        setattr(timings, name, _Untimed())
    return {"timings": timings}


def _outcome(run: Run, response: comm_lib.CommResponse) -> Outcome:
    body = response.body_bytes()
    if isinstance(body, Exception):
        raise body
    status = response.status_code if response.status_code in (200, 206) else 500
    no_retry = response.no_retry
    if len(body) > MAX_BODY_SIZE:
        body = too_large(run, "error" if status == 500 else "output", len(body))
        # Output won't get smaller in another attempt, but an error may be overcome.
        no_retry = no_retry or status != 500
        status = 500
    return Outcome(
        status=status,
        body=body,
        no_retry=no_retry,
        retry_after=response.retry_after,
        sdk_version=response.sdk_version or f"inngest-{LANGUAGE}:v{VERSION}",
        request_version=response.request_version or 0,
        step_failed=status == 206 and run.error is not None,
    )
