"""The official SDK, whose internals this module alone knows.

The SDK already turns the body of a call request into the body of a response;
``serve`` and Connect differ only in how the two travel. This module hands it
the one and takes the other, for every version of the SDK since 0.5.9.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

import inngest

from .. import logs
from ..configuration import App
from ..context import CURRENT, Run
from ..errors import ConfigurationError, describe
from ..integrations.surroundings import Surroundings
from ..messages import Delivery, Lease, Outcome, Request
from .attempts import Attempt, identify
from .client import Client
from .outcomes import LANGUAGE, MAX_BODY_SIZE, VERSION, error_body, failure, too_large

_import_error: ImportError | None = None
try:
    with warnings.catch_warnings():
        # The SDK has a pydantic model of an older style. Apps that make errors of
        # warnings should be able to import this all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        from inngest._internal import comm_lib, const, net, server_lib
        from pydantic_core import from_json
except ImportError as error:
    _import_error = error

__all__ = [
    "FunctionRunner",
    "check_version",
    "served_function_ids",
]

NO_SURROUNDINGS = Surroundings()


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


class FunctionRunner:
    """Runs the functions of one Inngest app.

    Raises:
        ConfigurationError: The client or one of the functions can't be used.
    """

    def __init__(
        self, client: inngest.Inngest, functions: Sequence[inngest.Function[Any]]
    ) -> None:
        check_version()
        if not isinstance(client, inngest.Inngest):
            raise ConfigurationError(
                f"client must be an inngest.Inngest, not {_kind(client)}"
            )
        self.client = Client.of(client)
        app_id = self.client.app_id
        try:
            functions = list(functions)
        except TypeError:
            raise ConfigurationError(
                f"functions must be a list, not {_kind(functions)}"
            ) from None
        if not functions:
            raise ConfigurationError(f"the app {app_id!r} has no functions")
        self._ids: set[str] = set()
        self._sync_ids: set[str] = set()
        for function in functions:
            if not isinstance(function, inngest.Function):
                raise ConfigurationError(
                    f"the functions of the app {app_id!r} must be made with "
                    f"client.create_function; one is {_kind(function)}"
                )
            for function_id in (function.id, function.on_failure_fn_id):
                if function_id in self._ids:
                    raise ConfigurationError(
                        f"the app {app_id!r} has two functions with the id "
                        f"{function_id!r}"
                    )
                if function_id is not None:
                    self._ids.add(function_id)
                    if not function.is_handler_async:
                        self._sync_ids.add(function_id)
        try:
            self.app = App(
                name=app_id,
                version=self.client.app_version,
                functions=_registration(functions),
            )
            self._handler = comm_lib.CommHandler(
                **_handler_options(client, [_contained(f) for f in functions])
            )
        except Exception as error:
            raise ConfigurationError(
                f"the app {app_id!r} can't be registered: {describe(error)}"
            ) from error

    @property
    def function_ids(self) -> frozenset[str]:
        """With the app in front, and with the failure handlers."""
        return frozenset(self._ids)

    async def run(
        self,
        request: Request,
        executor: Executor,
        surroundings: Surroundings = NO_SURROUNDINGS,
    ) -> Outcome:
        """Run a function, to its end or to its next step.

        Args:
            executor: Runs it where it is synchronous; otherwise the loop does.
            surroundings: What to enter before, and to leave after it.

        Raises:
            asyncio.CancelledError: The calling task was cancelled, or what the
                function awaited: the caller knows, and :meth:`cancelled` has the
                outcome. Whatever else is raised becomes an outcome here.
        """
        run = Run(request)
        # Inherited by the task or the thread that the function runs in.
        CURRENT.set(run)
        try:
            comm_request = _comm_request(request)
            if request.lease.function_slug in self._sync_ids:
                return await asyncio.get_running_loop().run_in_executor(
                    executor,
                    contextvars.copy_context().run,
                    self._run_sync,
                    run,
                    comm_request,
                    surroundings,
                )
            return await self._run_async(run, comm_request, surroundings)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if run.outcome is None:
                return _failure(run, error)
            # What is around the function failed, and it did not.
            text = f"What surrounds {request.lease.function_slug} failed"
            logs.emit(logging.ERROR, f"{text}: {describe(error)}", error=error)
            return run.outcome

    def attempt(self, request: Request) -> Attempt | None:
        """Which attempt of which job a request is for, where it says so."""
        if not request.job_id:
            return None
        try:
            # With large events several times as fast as the standard library.
            payload = from_json(request.payload)
            context = payload["ctx"]
            number = int(context["attempt"])
            # What there is by now: with use_api the steps are not in the payload.
            state = [payload.get("steps"), (context.get("stack") or {}).get("stack")]
            memoized = json.dumps(state, sort_keys=True) if any(state) else ""
        except Exception:
            # Not a call request: running it will say what is wrong with it.
            return None
        lease = request.lease
        return identify(
            lease.function_slug,
            lease.run_id,
            request.job_id,
            number,
            lease.step_id or "",
            memoized,
        )

    def cancelled(self, request: Request, error: asyncio.CancelledError) -> Outcome:
        """The outcome of a function that awaited what somebody cancelled."""
        told = asyncio.CancelledError("what the function awaited was cancelled")
        return _failure(Run(request), told.with_traceback(error.__traceback__))

    def failed(self, request: Request, error: BaseException) -> Outcome:
        """The outcome of a request for which something else failed. Raises nothing."""
        try:
            return _failure(Run(request), error)
        except Exception:
            return Outcome(500, error_body("unknown", "", type(error).__name__))

    async def _run_async(
        self, run: Run, comm_request: comm_lib.CommRequest, surroundings: Surroundings
    ) -> Outcome:
        async with surroundings.async_run(run):
            try:
                run.outcome = _outcome(run, await self._handler.post(comm_request))
            except Exception as error:
                run.outcome = _failure(run, error)
            return run.outcome

    def _run_sync(
        self, run: Run, comm_request: comm_lib.CommRequest, surroundings: Surroundings
    ) -> Outcome:
        try:
            with surroundings.sync_run(run):
                try:
                    run.outcome = _outcome(run, self._handler.post_sync(comm_request))
                except BaseException as error:
                    run.outcome = _failure(run, error)
                return run.outcome
        except BaseException as error:
            # A future takes some of them for its own, and chokes on StopIteration.
            raise _Escaped(error) from error


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


class _Escaped(Exception):
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
            raise _Escaped(error) from error
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


def _registration(functions: Sequence[inngest.Function[Any]]) -> bytes:
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


def _failure(run: Run, error: BaseException) -> Outcome:
    return failure(run, error.error if isinstance(error, _Escaped) else error)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
