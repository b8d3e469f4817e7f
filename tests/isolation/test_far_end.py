"""The runtime's side of two pipes, in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from io import FileIO
from pickle import UnpicklingError
from typing import Any

import pytest

from inngest_connect_asgi import logs
from inngest_connect_asgi.event_loop import EventLoop
from inngest_connect_asgi.isolation import far_end, pipe
from inngest_connect_asgi.isolation.far_end import Inbox, LogForwarder, Outbox
from inngest_connect_asgi.messages import (
    Drain,
    FromRuntime,
    Log,
    Ping,
    Pong,
    Start,
    Stopped,
)
from inngest_connect_asgi.network import trust
from inngest_connect_asgi.state import State

from ..harness import run, until
from ..hosts import Ends, large_result, start
from ..simulation import configuration


def nobody() -> None:
    raise AssertionError("the other end is there")


# What the app says


class Runtime:
    def __init__(self) -> None:
        self.received: list[Any] = []

    def receive(self, messages: list[Any]) -> None:
        self.received += messages


def test_the_start_message_comes_first_and_the_rest_is_the_runtimes() -> None:
    async def main() -> None:
        runtime, failures = Runtime(), list[BaseException]()
        inbox = Inbox(runtime, failures.append, nobody)  # type: ignore[arg-type]
        said = bytes(pipe.encode(start())) + bytes(pipe.encode(Pong(1)))
        inbox.data_received(said[:10])
        assert not inbox.start.done()
        inbox.data_received(said[10:])
        inbox.data_received(bytes(pipe.encode(Pong(2))))
        assert await inbox.start == start()
        assert runtime.received == [Pong(1), Pong(2)]
        inbox.data_received(pipe.frame(b"no pickle"))
        assert len(failures) == 1

    run(main)


def test_a_start_that_is_no_message_is_the_end() -> None:
    async def main() -> None:
        inbox = Inbox(Runtime(), print, nobody)  # type: ignore[arg-type]
        inbox.data_received(pipe.frame(b"no pickle"))
        with pytest.raises(UnpicklingError):
            await inbox.start

    run(main)


def test_it_says_where_nobody_speaks() -> None:
    async def main() -> None:
        gone: list[int] = []
        inbox = Inbox(Runtime(), print, lambda: gone.append(1))  # type: ignore[arg-type]
        inbox.connection_lost(None)
        assert gone == [1]

    run(main)


# What is said to it


def test_what_the_pipe_does_not_take_is_written_when_it_does(ends: Ends) -> None:
    async def main() -> None:
        outbox = Outbox(ends.writer, asyncio.get_running_loop(), nobody)
        called: list[int] = []
        assert not outbox.defer(lambda: called.append(0))
        for number in range(3):
            outbox.tell(large_result(number, pipe.PIPE_SIZE))  # type: ignore[arg-type]
        outbox.flush()
        outbox.flush()
        assert outbox.defer(lambda: called.append(1))
        loop = asyncio.get_running_loop()
        for number in range(3):
            result = await loop.run_in_executor(None, ends.hear)
            assert result.lease.request_id == f"r{number}"
        await until(lambda: called == [1])
        await outbox.end(Stopped("why"))
        assert ends.hear() == Stopped("why")

    run(main)


@pytest.mark.parametrize("late", [False, True])
def test_it_says_where_nobody_reads(late: bool, ends: Ends) -> None:
    async def main() -> None:
        gone: list[int] = []
        loop = asyncio.get_running_loop()
        outbox = Outbox(ends.writer, loop, lambda: gone.append(1))
        outbox.tell(large_result(1, 3 * pipe.PIPE_SIZE))  # type: ignore[arg-type]
        if late:
            outbox.flush()
            loop.remove_writer(ends.writer)
        ends.close_reader()
        outbox._catch_up() if late else outbox.flush()
        assert gone == [1]

    run(main)


def test_what_can_not_be_written_later_is_told(ends: Ends) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        outbox = Outbox(ends.writer, loop, nobody)
        failed: asyncio.Future[BaseException] = loop.create_future()
        outbox.failed = failed.set_result
        outbox.tell(large_result(1, 3 * pipe.PIPE_SIZE))  # type: ignore[arg-type]
        outbox.flush()
        outbox.tell(lambda: None)  # type: ignore[arg-type]
        result = await loop.run_in_executor(None, ends.hear)
        assert result.lease.request_id == "r1"
        assert "lambda" in str(await failed)
        loop.remove_writer(ends.writer)

    run(main)


def test_a_log_record_that_can_not_be_told_hurts_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(message: FromRuntime) -> None:
        raise RuntimeError("the loop is closed")

    LogForwarder(fail).handle(logging.makeLogRecord({"msg": "of mine"}))
    assert "the loop is closed" in capsys.readouterr().err


def test_a_log_record_has_no_extra_that_only_looks_plain() -> None:
    class Text(str):
        pass

    told: list[FromRuntime] = []
    record = logging.makeLogRecord({"msg": "m", "odd": Text("x"), "plain": True})
    LogForwarder(told.append).handle(record)
    (log,) = told
    assert isinstance(log, Log)
    assert log.extra == {"plain": True}


# Its life


class Loop(EventLoop):
    """One that lets go of what a child leaves to the end of its process."""

    async def connect_read_pipe(self, protocol_factory: Any, pipe: Any) -> Any:
        self.opened = await super().connect_read_pipe(protocol_factory, pipe)
        return self.opened

    def let_go(self) -> None:
        transport, _ = self.opened
        transport.set_protocol(asyncio.Protocol())
        transport.close()
        self.run_until_complete(asyncio.sleep(0))
        self.close()


class Living:
    """A child that lives in a thread of this process."""

    def __init__(self) -> None:
        self._loop = Loop()
        self.to_child, self.to_parent = Ends(), Ends()
        self._thread = threading.Thread(
            target=far_end.speak,
            args=(
                self._loop,
                FileIO(self.to_child.reader),
                FileIO(self.to_parent.writer, "w", closefd=False),
                nobody,
            ),
        )
        self._thread.start()

    def end(self) -> list[FromRuntime]:
        """All that it said, up to the last word."""
        said: list[FromRuntime] = []
        while not (said and isinstance(said[-1], Stopped)):
            said.append(self.to_parent.hear())
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.let_go()
        self.to_child.reader = -1
        for each in (self.to_child, self.to_parent):
            each.close()
        return said


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> list[logging.Handler]:
    """The process has the environment and the log that it had."""
    handlers: list[logging.Handler] = []

    def configure(**options: Any) -> None:
        handlers.extend(options["handlers"])

    monkeypatch.setattr(logging, "basicConfig", configure)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(trust, "use_certifi_file", lambda file: None)
    return handlers


def test_it_runs_a_runtime_and_tells_what_that_says(
    untouched: list[logging.Handler],
) -> None:
    living = Living()
    living.to_child.say(start())
    said = living.to_parent.hear()
    while not isinstance(said, Ping):
        said = living.to_parent.hear()
    living.to_child.say(Pong(said.number))
    (forwarder,) = untouched
    forwarder.handle(logging.makeLogRecord({"msg": "from a thread", "level": 30}))
    living.to_child.say(Drain(0.0))
    told = living.end()
    assert told[-1] == Stopped(None)
    assert any(isinstance(each, State) for each in told)
    assert "from a thread" in [each.message for each in told if isinstance(each, Log)]


@pytest.mark.usefixtures("untouched")
def test_it_says_of_what_it_died() -> None:
    living = Living()
    os.write(living.to_child.writer, pipe.frame(b"no pickle"))
    (last,) = living.end()
    assert isinstance(last, Stopped)
    assert "UnpicklingError" in str(last.error)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("problem", [None, "there is none"])
def test_it_trusts_as_the_app_does_or_says_why_not(
    problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "inject_truststore", lambda: problem)
    texts: list[str] = []
    monkeypatch.setattr(logs, "emit", lambda level, text, **_: texts.append(text))
    living = Living()
    first = Start(configuration(api_origin="http://127.0.0.1:1"), truststore=True)
    living.to_child.say(first)
    living.to_child.say(Drain(0.0))
    assert living.end()[-1] == Stopped(None)
    assert any("has injected truststore" in text for text in texts) == bool(problem)
