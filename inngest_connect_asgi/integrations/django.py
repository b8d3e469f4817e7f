"""A run is to Django what a request is: it begins and ends with clean connections."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.cache import close_caches
from django.db import close_old_connections, connections, reset_queries

from .. import logs
from ..context import Run
from ..errors import describe
from ..libraries import Library
from .surroundings import Layer

__all__ = ["layers"]


def layers(library: Library) -> list[Layer]:
    return [Layer(library, _sync_run, _async_run)]


@contextmanager
def _sync_run(run: Run) -> Iterator[None]:
    _safely(reset_queries)
    _safely(close_old_connections)
    try:
        yield
    finally:
        _safely(_drop_open_transactions)
        _safely(close_old_connections)
        _safely(close_caches)


@asynccontextmanager
async def _async_run(run: Run) -> AsyncIterator[None]:
    # As Django does it for a request: the run gets a thread of its own for the ORM,
    # or one slow query would hold up those of all others. Django's connections
    # belong to their thread, and so end with it.
    async with ThreadSensitiveContext():
        try:
            yield
        finally:
            await sync_to_async(_close_all)()


def _close_all() -> None:
    _safely(connections.close_all)
    _safely(close_caches)


def _drop_open_transactions() -> None:
    try:
        opened = connections.all(initialized_only=True)
    except TypeError:
        # Before Django 4.1. Those that the thread does not have are made, and idle.
        opened = connections.all()
    for connection in opened:
        if connection.in_atomic_block:
            connection.close()
            # It would remember the block, and refuse to be opened again.
            del connections[connection.alias]


def _safely(call: Callable[[], None]) -> None:
    """Call it; the run has its own outcome, which is not to change by this.

    Each failure is logged: it is the database's, and not one of a library that will
    never work here.
    """
    try:
        call()
    except Exception as error:
        text = "Could not clean up the database connections of a run"
        logs.emit(logging.ERROR, f"{text}: {describe(error)}", error=error)
