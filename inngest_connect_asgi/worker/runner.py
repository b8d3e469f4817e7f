"""Runs the functions of one app: whatever comes of it, there is an outcome."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import inngest

from .. import logs
from ..configuration import App
from ..context import CURRENT, Run
from ..errors import ConfigurationError, describe
from ..integrations.surroundings import Surroundings
from ..messages import Outcome, Request
from . import sdk
from .client import Client
from .outcomes import error_body, failure

__all__ = ["FunctionRunner"]

NO_SURROUNDINGS = Surroundings()


class FunctionRunner:
    """Runs the functions of one Inngest app.

    Raises:
        ConfigurationError: The client or one of the functions can't be used.
    """

    def __init__(
        self, client: inngest.Inngest, functions: Sequence[inngest.Function[Any]]
    ) -> None:
        sdk.check_version()
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
                functions=sdk.registration(functions),
            )
            self._handler = sdk.Handler(client, functions)
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
            if request.lease.function_slug in self._sync_ids:
                return await asyncio.get_running_loop().run_in_executor(
                    executor,
                    contextvars.copy_context().run,
                    self._run_sync,
                    run,
                    surroundings,
                )
            return await self._run_async(run, surroundings)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if run.outcome is None:
                return _failure(run, error)
            # What is around the function failed, and it did not.
            text = f"What surrounds {request.lease.function_slug} failed"
            logs.emit(logging.ERROR, f"{text}: {describe(error)}", error=error)
            return run.outcome

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

    async def _run_async(self, run: Run, surroundings: Surroundings) -> Outcome:
        async with surroundings.async_run(run):
            try:
                run.outcome = await self._handler.post(run)
            except Exception as error:
                run.outcome = _failure(run, error)
            return run.outcome

    def _run_sync(self, run: Run, surroundings: Surroundings) -> Outcome:
        try:
            with surroundings.sync_run(run):
                try:
                    run.outcome = self._handler.post_sync(run)
                except BaseException as error:
                    run.outcome = _failure(run, error)
                return run.outcome
        except BaseException as error:
            # A future takes some of them for its own, and chokes on StopIteration.
            raise sdk.Escaped(error) from error


def _failure(run: Run, error: BaseException) -> Outcome:
    return failure(run, error.error if isinstance(error, sdk.Escaped) else error)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
