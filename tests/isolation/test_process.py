"""A child in which something is raised that nobody foresaw ends, and says so."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Drain
from inngest_connect_asgi.state import State

from ..hosts import (
    Running,
    inject,
    text_of,
)


@pytest.mark.parametrize("error", ["ZeroDivisionError", "SystemExit", "MemoryError"])
@pytest.mark.parametrize("where", ["run", "callback", "task", "flush"])
def test_whatever_is_raised_in_a_child_is_told_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: str, where: str
) -> None:
    how = {
        "run": "fail()",
        # These leave no trace with asyncio but a log record, or leave its loop.
        "callback": "outbox._loop.call_soon(guarded(fail, outbox.failed))",
        "task": "spawn(afail(), outbox.failed)",
        "flush": "outbox._writer.defer = None; outbox._writer.flush = fail; "
        "outbox._written.clear(); "
        "outbox._loop.add_writer(outbox._fd, outbox._catch_up)",
    }[where]
    inject(
        monkeypatch,
        f"""
import asyncio
from inngest_connect_asgi.isolation import far_end
from inngest_connect_asgi.ends import guarded, spawn
from inngest_connect_asgi.runtime.shell import Runtime
outboxes = []
init = far_end.Outbox.__init__
def catch(self, *args):
    outboxes.append(self)
    init(self, *args)
far_end.Outbox.__init__ = catch
def fail():
    outbox._writer.__dict__.pop("flush", None)
    raise {error}("of the child")
async def afail():
    fail()
async def run(self, start):
    global outbox
    (outbox,) = outboxes
    {how}
    await asyncio.Event().wait()
Runtime.run = run
""",
    )
    text = text_of(Running().end())
    assert text.startswith("Traceback")
    assert f"{error}: of the child" in text


def test_an_exit_that_leaves_the_childs_loop_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject(
        monkeypatch,
        """
import asyncio
from inngest_connect_asgi.runtime.shell import Runtime
async def run(self, start):
    asyncio.get_running_loop().call_soon(exit_)
    await asyncio.Event().wait()
def exit_():
    raise SystemExit("of a callback")
Runtime.run = run
""",
    )
    assert "SystemExit: of a callback" in text_of(Running().end())


def test_it_runs_until_it_is_drained_or_crashed() -> None:
    running = Running()
    running.wait_for(State)
    running.host.send(Drain(0.0))
    assert running.end() is None
    again = Running(running.host)
    again.wait_for(State)
    again.host.crash(RuntimeError("boom"))
    assert "boom" in text_of(again.end())
