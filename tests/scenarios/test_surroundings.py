"""Nothing that surrounds a run changes how it ends."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from inngest_connect_asgi import libraries
from inngest_connect_asgi.context import Run
from inngest_connect_asgi.integrations.surroundings import Layer, Surroundings, nested
from inngest_connect_asgi.libraries import Library, version
from inngest_connect_asgi.messages import Log, Request

from ..simulation import lease


class FromTheFunction(Exception):
    pass


class FromALayer(Exception):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise FromALayer


ERRORS = [
    FromALayer,
    Unspeakable,
    StopIteration,
    StopAsyncIteration,
    RecursionError,
    SystemExit,
    GeneratorExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
]
"""What a library raises on its own account, and what only looks like the caller's."""


class Manager:
    """Fails, or swallows, as it is told; notes what it sees."""

    def __init__(
        self,
        seen: list[object],
        enter: type[BaseException] | None = None,
        leave: type[BaseException] | None = None,
        swallow: bool = False,
        wait: asyncio.Event | None = None,
    ) -> None:
        self.seen, self.enter, self.leave = seen, enter, leave
        self.swallow, self.wait = swallow, wait

    def __enter__(self) -> None:
        if self.enter is not None:
            raise self.enter()
        self.seen.append("in")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.seen.append(error)
        if self.leave is not None:
            raise self.leave()
        return self.swallow

    async def __aenter__(self) -> None:
        if self.wait is not None:
            await self.wait.wait()
        self.__enter__()

    async def __aexit__(self, *raised: Any) -> bool:
        if self.wait is not None:
            await self.wait.wait()
        return self.__exit__(*raised)


def make(mode: str, seen: list[object], **options: Any) -> Layer:
    """A layer as it is for synchronous functions, for both, or for each its own."""

    def manager(run: Run) -> Manager:
        return Manager(seen, **options)

    library = Library(f"{mode}-library", "nothing")
    return Layer(library, manager, manager if mode == "async" else None)


def run_in(mode: str, around: Surroundings, body: Callable[[], str]) -> str:
    """Run ``body`` within, as the worker does: not in the main thread, if possible."""
    run = Run(Request(lease("r"), "app", "job", b""))
    results: list[str | BaseException] = []

    def sync_run() -> str:
        with around.sync_run(run):
            return body()

    async def async_run() -> str:
        async with around.async_run(run):
            return body()

    def target() -> None:
        try:
            results.append(sync_run() if mode == "sync" else asyncio.run(async_run()))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return result


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [r for r in caplog.records if r.name == "inngest_connect_asgi"]
    assert all(record.levelno == logging.WARNING for record in records)
    return [record.getMessage() for record in records]


MODES = ("sync", "plain", "async")


CASES = [
    (mode, error)
    for mode in MODES
    for error in ERRORS
    # Nobody can tell whether the coroutine is being closed, or, before Python 3.11,
    # whether it was the task that somebody cancelled.
    if mode != "async"
    or (
        error is not GeneratorExit
        and (error is not asyncio.CancelledError or hasattr(asyncio.Task, "cancelling"))
    )
]


@pytest.mark.parametrize(("mode", "error"), CASES)
@pytest.mark.parametrize("where", ["enter", "leave"])
def test_what_a_layer_raises_is_said_once_and_changes_nothing(
    mode: str,
    where: str,
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    outer: list[object] = []
    inner: list[object] = []
    around = nested(
        [
            make(mode, outer),
            make(mode, [], **{where: error}),
            make(mode, inner),
        ]
    )
    for _ in range(3):
        assert run_in(mode, around, lambda: "done") == "done"
    assert outer == inner == ["in", None] * 3
    (line,) = said(caplog)
    assert f"{mode}-library unknown failed around a run" in line
    assert error.__name__ in line


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options", [{"swallow": True}, {"leave": FromALayer}, {"enter": FromALayer}, {}]
)
def test_what_the_function_raises_passes_as_it_is(
    mode: str, options: dict[str, Any]
) -> None:
    outer: list[object] = []
    inner: list[object] = []
    error = FromTheFunction()

    def body() -> str:
        raise error

    around = nested([make(mode, outer), make(mode, [], **options), make(mode, inner)])
    with pytest.raises(FromTheFunction) as raised:
        run_in(mode, around, body)
    assert raised.value is error
    assert error.__context__ is error.__cause__ is None
    assert outer == inner == ["in", error]


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_raises_the_same_again_has_not_failed(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Reraises(Manager):
        def __exit__(self, *raised: Any) -> bool:
            raise raised[1]

    def manager(run: Run) -> Manager:
        return Reraises([])

    def body() -> str:
        raise FromTheFunction

    both = manager if mode == "async" else None
    around = nested([Layer(Library("library", "nothing"), manager, both)])
    with pytest.raises(FromTheFunction):
        run_in(mode, around, body)
    assert said(caplog) == []


def test_a_layer_that_cannot_even_be_made_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(run: Run) -> Any:
        raise FromALayer

    def nothing(run: Run) -> Any:
        return object()

    for layer in (broken, nothing):
        for other in (None, layer):
            around = nested([Layer(Library("library", "nothing"), layer, other)])
            for mode in MODES:
                assert run_in(mode, around, lambda: "done") == "done"
    assert len(said(caplog)) == 4


# What is meant for the caller


async def turn() -> None:
    """Let everything else run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("where", ["enter", "body", "leave"])
def test_a_cancellation_of_the_task_passes(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    outer: list[object] = []
    inner: list[object] = []

    async def main() -> None:
        event = asyncio.Event()
        waiting = make("async", inner, wait=event)
        around = nested([make("async", outer), make("plain", outer), waiting])
        run = Run(Request(lease("r"), "app", "job", b""))
        reached: list[str] = []

        async def body() -> None:
            async with around.async_run(run):
                reached.append("body")
                if where == "body":
                    await asyncio.Event().wait()
                event.clear()
            reached.append("after")

        if where != "enter":
            event.set()
        task = asyncio.create_task(body())
        await turn()
        assert reached == ([] if where == "enter" else ["body"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "after" not in reached

    asyncio.run(main())
    assert outer[:2] == ["in", "in"]
    assert [type(error) for error in outer[2:]] == [asyncio.CancelledError] * 2
    assert said(caplog) == []


def test_a_coroutine_that_is_closed_awaits_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[object] = []
    event = asyncio.Event()
    event.set()
    around = nested([make("plain", seen), make("async", [], wait=event)])
    run = Run(Request(lease("r"), "app", "job", b""))

    class Pause:
        def __await__(self) -> Any:
            yield

    async def body() -> None:
        async with around.async_run(run):
            event.clear()
            await Pause()

    coroutine = body()

    async def main() -> None:
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert seen[0] == "in"
    assert isinstance(seen[1], GeneratorExit)
    assert said(caplog) == []


def test_an_interrupt_in_the_main_thread_passes() -> None:
    seen: list[object] = []
    run = Run(Request(lease("r"), "app", "job", b""))
    for options in ({"enter": KeyboardInterrupt}, {"leave": KeyboardInterrupt}):
        around = nested([make("sync", seen), make("sync", [], **options)])
        with pytest.raises(KeyboardInterrupt), around.sync_run(run):
            pass
    assert [type(each) for each in seen] == [str, KeyboardInterrupt] * 2


# Naming


def test_a_version_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version("pytest") == pytest.__version__
    assert version("no-such-distribution") == "unknown"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: None)
    assert version("pytest") == "unknown"
    monkeypatch.delattr(importlib.metadata, "version")
    assert version("pytest") == "unknown"


def test_who_holds_up_nothing_logs_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages: list[Log] = []
    library = Library("pytest", "nothing", messages.append)
    for _ in range(2):
        library.left_out(FromALayer("why"))
    (message,) = messages
    first, _, traceback = message.message.partition("\n")
    assert first == (
        f"No nothing by pytest {pytest.__version__}; all else goes on. FromALayer: why"
    )
    assert "FromALayer: why" in traceback
    assert said(caplog) == []

    def broken(message: Log) -> None:
        raise FromALayer

    libraries.Library("pytest", "nothing", broken).left_out(FromALayer("why"))
    assert len(said(caplog)) == 1
