"""Clocks that tests freeze: what docs/testing.md says of them."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import inngest
import pytest

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.config import Isolation

from ..harness import bare_app, make_client, make_function
from ..hosts import ISOLATIONS

NEW_YEAR = "2027-01-01"


def freezegun(**options: Any) -> AbstractContextManager[object]:
    module = pytest.importorskip("freezegun")
    frozen: AbstractContextManager[object] = module.freeze_time(NEW_YEAR, **options)
    return frozen


def time_machine(**options: Any) -> AbstractContextManager[object]:
    module = pytest.importorskip("time_machine")
    frozen: AbstractContextManager[object] = module.travel(NEW_YEAR, **options)
    return frozen


WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "freezegun, real_asyncio": lambda: freezegun(real_asyncio=True),
    "freezegun, tick": lambda: freezegun(tick=True),
    "time-machine, tick": lambda: time_machine(tick=True),
    "time-machine, no tick": lambda: time_machine(tick=False),
}


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize(
    ("way", "when"),
    [
        *((way, "before it is served") for way in WAYS),
        # By freezegun the monotonic clock would jump.
        *((way, "while it is served") for way in WAYS if way.startswith("time")),
    ],
)
def test_runs_end_while_the_time_of_day_stands_still(
    gateway: LocalGateway, isolation: Isolation, way: str, when: str
) -> None:
    async def sleeps(ctx: inngest.Context) -> str:
        await ctx.step.sleep("a while", datetime.timedelta(milliseconds=100))
        return datetime.datetime.now().date().isoformat()

    with contextlib.ExitStack() as stack:
        if when.startswith("before"):
            stack.enter_context(WAYS[way]())
        client = make_client(gateway)
        app = InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[make_function(client, sleeps)],
            isolation=isolation,
        )
        stack.enter_context(gateway.serving(app))
        if when.startswith("while"):
            stack.enter_context(WAYS[way]())
        run = gateway.run("test")
        assert (run.status, run.output) == ("completed", NEW_YEAR)
