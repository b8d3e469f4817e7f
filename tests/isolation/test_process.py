"""A runtime that hangs, or in which something is raised that nobody foresaw, ends."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Any

import pytest

from inngest_connect_asgi.isolation import launch, pipe, process
from inngest_connect_asgi.isolation.outbox import Outbox
from inngest_connect_asgi.isolation.process import Ear, ProcessCrashed, ProcessHost
from inngest_connect_asgi.isolation.supervisor import Host
from inngest_connect_asgi.isolation.thread import ThreadHost
from inngest_connect_asgi.messages import Drain, FromRuntime, Log, Pong, Start, Stopped
from inngest_connect_asgi.runtime.shell import Runtime
from inngest_connect_asgi.state import State

from ..hosts import Running, inject, large_result, start, stranger
from ..processes import wait_gone


def child_of(running: Running) -> int:
    assert isinstance(running.host, ProcessHost)
    child = running.host._child
    assert child is not None
    return child._process.pid


def text_of(error: BaseException | None) -> str:
    assert isinstance(error, ProcessCrashed)
    return str(error)


HOSTS = pytest.mark.parametrize("host", [ThreadHost, ProcessHost])


# From outside


@HOSTS
def test_it_is_crashed_from_any_thread(host: Callable[[], Host]) -> None:
    running = Running(host())
    running.wait_for(State)
    boom = RuntimeError("boom")
    running.host.crash(boom)
    running.host.crash(ValueError("later"))
    error = running.end()
    if host is ThreadHost:
        assert error is boom
    else:
        assert "boom" in text_of(error)
        assert error is not None
        assert error.__cause__ is boom
    # That one is over: nobody is there to crash, or to be told.
    running.host.crash(boom)
    running.host.send(Pong(1))
    again = Running(running.host)
    again.wait_for(State)
    again.host.send(Drain(0.0))
    assert again.end() is None


def test_it_is_crashed_before_there_is_a_process() -> None:
    host = ProcessHost()

    def begin() -> Start:
        host.crash(RuntimeError("boom"))
        return start()

    assert "boom" in text_of(Running(host, begin).end())


@HOSTS
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, GeneratorExit])
@pytest.mark.parametrize("place", ["start", "tell"])
def test_what_its_callers_raise_ends_it(
    host: Callable[[], Host], error: type[BaseException], place: str
) -> None:
    def fail(*_: object) -> Any:
        raise error("of the caller")

    begin, tell = (fail, None) if place == "start" else (start, fail)
    assert isinstance(Running(host(), begin, tell).end(), error)


@HOSTS
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_is_raised_on_a_message_ends_it(
    host: Callable[[], Host],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    code = f"""
from inngest_connect_asgi.runtime.shell import Runtime
def fail(self, messages):
    raise {error.__name__}("of the runtime")
Runtime.receive = fail
"""
    if host is ProcessHost:
        inject(monkeypatch, code)
    else:

        def fail(self: Runtime, messages: object) -> None:
            raise error("of the runtime")

        monkeypatch.setattr(Runtime, "receive", fail)
    running = Running(host())
    running.host.send(Pong(1))
    ended = running.end()
    if host is ThreadHost:
        assert isinstance(ended, error)
    else:
        assert f"{error.__name__}: of the runtime" in text_of(ended)


# Messages that can't be sent


def test_a_message_that_can_not_be_encoded_ends_the_child() -> None:
    running = Running()
    running.wait_for(State)
    running.host.send(lambda: None)  # type: ignore[arg-type]
    assert "lambda" in text_of(running.end())


def test_one_that_can_not_be_encoded_when_its_turn_comes_does_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = Running()
    running.wait_for(State)
    os.kill(child_of(running), signal.SIGSTOP)
    running.host.send(large_result(1, 3 * pipe.PIPE_SIZE))

    def fail(message: object) -> memoryview:
        raise MemoryError

    monkeypatch.setattr(pipe, "encode", fail)
    running.host.send(Pong(1))
    os.kill(child_of(running), signal.SIGCONT)
    assert "MemoryError" in text_of(running.end())


def test_a_fault_where_messages_wait_ends_the_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(outbox: Outbox) -> bool:
        raise MemoryError

    monkeypatch.setattr(Outbox, "_wait", fail)
    assert "MemoryError" in text_of(Running().end())


def test_bytes_that_are_no_message_end_the_child() -> None:
    running = Running()
    running.wait_for(State)
    assert isinstance(running.host, ProcessHost)
    outbox = running.host._outbox
    assert outbox is not None
    assert outbox._writer is not None
    outbox._writer.write_frame(pipe.frame(b"no pickle"))
    text = text_of(running.end())
    assert "UnpicklingError" in text
    assert "data_received" in text


def test_bytes_of_the_child_that_are_no_message_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject(
        monkeypatch,
        """
import os
from inngest_connect_asgi.isolation import pipe
encode = pipe.encode
def garble(message):
    return memoryview(pipe.frame(b"no pickle: secret"))
pipe.encode = garble
""",
    )
    text = text_of(Running().end())
    assert "what is no message" in text
    assert "secret" not in text


# From inside the child


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
from inngest_connect_asgi.isolation import child
from inngest_connect_asgi.ends import guarded, spawn
from inngest_connect_asgi.runtime.shell import Runtime
outboxes = []
init = child.Outbox.__init__
def catch(self, *args):
    outboxes.append(self)
    init(self, *args)
child.Outbox.__init__ = catch
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


# A child that hangs


class FakeChild:
    """Pipes to nobody, and what becomes of it."""

    def __init__(self) -> None:
        output, self.says = os.pipe()
        stderr, self.prints = os.pipe()
        self.output, self.stderr = FileIO(output), FileIO(stderr)
        self.is_gone = self.was_killed = False

    def kill(self) -> None:
        self.was_killed = True

    def wait(self) -> int:
        return -9

    def say(self, message: object) -> None:
        os.write(self.says, pipe.encode(message))


@pytest.fixture
def fake() -> Iterator[FakeChild]:
    fake = FakeChild()
    yield fake
    for file in (fake.output, fake.stderr):
        file.close()
    os.close(fake.says)
    os.close(fake.prints)


class Looks:
    """Says how long each look took, and lets nobody wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.script: list[float | Callable[[], object]] = []
        self.seen = 0
        looks, real = self, select.poll

        class Poll:
            def __init__(self) -> None:
                self._poll = real()
                self.register = self._poll.register
                self.unregister = self._poll.unregister

            def poll(self, timeout: float) -> list[tuple[int, int]]:
                if timeout and looks.script:
                    looks.seen += 1
                    next_ = looks.script.pop(0)
                    if callable(next_):
                        next_()
                    else:
                        looks.now += next_
                return self._poll.poll(0)

        monkeypatch.setattr(select, "poll", Poll)
        monkeypatch.setattr(time, "monotonic", lambda: looks.now)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def hear(fake: FakeChild) -> list[FromRuntime]:
    """All that a child says from its first message on."""
    ear = Ear(fake)  # type: ignore[arg-type]
    ear._started = True
    messages = []
    for message in ear.hear():
        messages.append(message)
        if isinstance(message, Stopped):
            break
    return messages


def test_five_looks_in_vain_are_a_child_that_hangs(
    fake: FakeChild, looks: Looks
) -> None:
    looks.script = [2.0] * 9
    with pytest.raises(ProcessCrashed, match=r"said nothing for 10 s; it was killed"):
        hear(fake)
    assert fake.was_killed
    assert looks.seen == 5


def test_any_word_begins_the_count_anew(fake: FakeChild, looks: Looks) -> None:
    half = pipe.encode(Stopped())
    looks.script = [
        *[2.0] * 4,
        lambda: fake.say(Log(20, "x", at=0.0)),
        *[2.0] * 4,
        lambda: os.write(fake.says, half[:5]),
        *[2.0] * 4,
        lambda: os.write(fake.says, half[5:]),
    ]
    assert hear(fake) == [Log(20, "x", at=0.0), Stopped()]
    assert not fake.was_killed


def test_late_looks_do_not_count(fake: FakeChild, looks: Looks) -> None:
    """This process was held up, or the machine was: so may the child have been."""
    looks.script = [*[30.0] * 20, 2.0, 2.0, 2.0, 2.0, lambda: fake.say(Stopped())]
    assert hear(fake) == [Stopped()]
    assert not fake.was_killed


def test_a_first_message_may_take_longer(fake: FakeChild, looks: Looks) -> None:
    looks.script = [2.0] * 99
    ear = Ear(fake)  # type: ignore[arg-type]
    with pytest.raises(ProcessCrashed, match="said nothing for 30 s"):
        ear.hear_greeting()
    assert looks.seen == 15


def test_a_dead_child_whose_pipe_somebody_holds_is_gone(
    fake: FakeChild, looks: Looks
) -> None:
    fake.say(Log(20, "x", at=0.0))
    fake.is_gone = True
    looks.script = [2.0]
    # What it said before is not lost.
    assert hear(fake) == [Log(20, "x", at=0.0)]


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENCE", 1.0)


def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a runtime tell its state often, whatever the core does."""
    inject(
        monkeypatch,
        """
import asyncio, time
from inngest_connect_asgi.state import State
from inngest_connect_asgi.runtime.shell import Runtime
run = Runtime.run
async def talk(self, start):
    async def often():
        while True:
            self._tell(State("connecting"))
            await asyncio.sleep(0.1)
    task = asyncio.ensure_future(often())
    await run(self, start)
Runtime.run = talk
""",
    )


@pytest.mark.usefixtures("short_silence")
def test_a_child_that_is_stopped_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    talkative(monkeypatch)
    running = Running()
    running.wait_for(State)
    child = child_of(running)
    os.kill(child, signal.SIGSTOP)
    assert "said nothing for 1 s; it was killed" in text_of(running.end())
    wait_gone(child, 5)


@pytest.mark.usefixtures("short_silence")
def test_a_child_that_hangs_as_it_stops_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject(
        monkeypatch,
        """
import time
from inngest_connect_asgi.protocol.core import Core
def hang(*_, **__):
    time.sleep(600)
Core.drain = hang
""",
    )
    talkative(monkeypatch)
    running = Running()
    running.wait_for(State)
    running.host.send(Drain(0.0))
    assert "said nothing for 1 s" in text_of(running.end())


def test_what_it_prints_is_seen_and_is_no_message(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inject(
        monkeypatch,
        """
print("python of ACME Corp.")
import os
from inngest_connect_asgi.runtime.lifetime import Lifetime
run = Lifetime.run
def loud(self, start):
    print("printed later")
    os.write(1, b"written later\\n")
    return run(self, start)
Lifetime.run = loud
""",
    )
    running = Running()
    log = running.wait_for(Log)
    assert log.level == logging.WARNING
    assert "'python of ACME Corp.'" in log.message
    running.wait_for(State)
    running.host.crash(RuntimeError("over"))
    assert isinstance(running.end(), ProcessCrashed)
    seen = capfd.readouterr()
    assert seen.err.splitlines()[:2] == ["printed later", "written later"]
    assert "ACME" not in seen.out + seen.err


# Whether it is one


def end() -> str:
    """How a host ends that never gets to its start message."""

    def never() -> None:
        raise AssertionError("told a stranger everything")

    error = Running(begin=never).end()  # type: ignore[arg-type]
    assert isinstance(error, ProcessCrashed)
    return str(error)


def test_one_that_says_something_else_is_quoted_and_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    greeting = "b'python of ACME\\n' + b'x' * 100000"
    stranger(monkeypatch, f"os.write(output, {greeting})\ntime.sleep(60)")
    text = end()
    assert "does not speak our language" in text
    assert "'python of ACME\\nxxx" in text
    assert len(text) < 1000


def test_one_that_says_the_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger(monkeypatch, "os.write(output, b'inngest-conn'); os._exit(3)")
    assert "exit code 3; it said 'inngest-conn'" in end()


def test_one_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    word = b"inngest-connect-asgi/471100\n"
    stranger(monkeypatch, f"os.write(output, {word!r})\ntime.sleep(60)")
    assert "upgraded beneath a running app" in end()


def test_one_that_dies_before_it_speaks_has_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stranger(monkeypatch, "os.write(2, b'x' * 50000 + b'\\nthe end\\n')\nos._exit(3)")
    text = end()
    assert "exit code 3; it printed '…xxx" in text
    assert text.endswith("\\nthe end'")
    assert len(text) < 1000


def test_one_that_can_not_be_imported_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "ENTRY", "there_is_no_such_module")
    assert "ModuleNotFoundError: No module named" in end()


def test_one_that_never_speaks_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inngest_connect_asgi.isolation.process.START_TIMEOUT", 0.5)
    stranger(monkeypatch, "os.write(2, b'waiting')\ntime.sleep(60)")
    assert "said nothing for 0.5 s; it was killed; it printed 'waiting'" in end()


def test_one_that_only_prints_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inngest_connect_asgi.isolation.process.START_TIMEOUT", 0.5)
    stranger(monkeypatch, "while True: os.write(2, b'x'); time.sleep(0.01)")
    assert "said nothing for 0.5 s" in end()


def test_a_child_that_is_gone_before_it_is_heard_of_is_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was crashed while it was being started."""
    host = ProcessHost()
    begun = launch.Child

    def begin() -> launch.Child:
        host.crash(RuntimeError("boom"))
        return begun()

    monkeypatch.setattr(launch, "Child", begin)
    assert "boom" in text_of(Running(host).end())


def test_looking_for_more_of_what_it_printed_may_find_nothing(
    fake: FakeChild,
) -> None:
    ear = Ear(fake)  # type: ignore[arg-type]
    assert ear._last_words() == ""
    os.write(fake.prints, b"half a wo")
    assert ear._last_words() == "; it printed 'half a wo'"
