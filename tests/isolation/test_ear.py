"""A runtime that hangs, dies or speaks another language is found out."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from io import FileIO

import pytest

from inngest_connect_asgi.isolation import ear, launch, pipe
from inngest_connect_asgi.isolation.ear import Ear, RuntimeCrashed
from inngest_connect_asgi.messages import Drain, FromRuntime, Log, Stopped
from inngest_connect_asgi.state import State

from ..hosts import (
    Running,
    child_of,
    inject,
    stranger,
    text_of,
)
from ..processes import wait_gone

# A child that hangs


class FakeChild:
    """Pipes to nobody, and what becomes of it."""

    name = "the runtime's process"
    fate = "it was killed"

    def __init__(self) -> None:
        output, self.says = os.pipe()
        stderr, self.prints = os.pipe()
        self.output = FileIO(output)
        self.stderr: FileIO | None = FileIO(stderr)
        self.is_gone = self.was_killed = False

    def kill(self) -> None:
        self.was_killed = True

    def end(self) -> str:
        return "exit code -9"

    def say(self, message: object) -> None:
        os.write(self.says, pipe.encode(message))


@pytest.fixture
def fake() -> Iterator[FakeChild]:
    fake = FakeChild()
    yield fake
    for file in (fake.output, fake.stderr):
        if file is not None:
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
    listener = Ear(fake)
    listener._started = True
    messages = []
    for message in listener.hear():
        messages.append(message)
        if isinstance(message, Stopped):
            break
    return messages


def test_five_looks_in_vain_are_a_child_that_hangs(
    fake: FakeChild, looks: Looks
) -> None:
    looks.script = [2.0] * 9
    with pytest.raises(RuntimeCrashed, match=r"said nothing for 10 s; it was killed"):
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
    listener = Ear(fake)
    with pytest.raises(RuntimeCrashed, match="said nothing for 30 s"):
        listener.hear_greeting()
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
    monkeypatch.setattr(ear, "SILENCE", 1.0)


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
    assert isinstance(running.end(), RuntimeCrashed)
    seen = capfd.readouterr()
    assert seen.err.splitlines()[:2] == ["printed later", "written later"]
    assert "ACME" not in seen.out + seen.err


# Whether it is one


def end() -> str:
    """How a host ends that never gets to its start message."""

    def never() -> None:
        raise AssertionError("told a stranger everything")

    error = Running(begin=never).end()  # type: ignore[arg-type]
    assert isinstance(error, RuntimeCrashed)
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
    monkeypatch.setattr("inngest_connect_asgi.isolation.ear.START_TIMEOUT", 0.5)
    stranger(monkeypatch, "os.write(2, b'waiting')\ntime.sleep(60)")
    assert "said nothing for 0.5 s; it was killed; it printed 'waiting'" in end()


def test_one_that_only_prints_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inngest_connect_asgi.isolation.ear.START_TIMEOUT", 0.5)
    stranger(monkeypatch, "while True: os.write(2, b'x'); time.sleep(0.01)")
    assert "said nothing for 0.5 s" in end()


def test_looking_for_more_of_what_it_printed_may_find_nothing(
    fake: FakeChild,
) -> None:
    listener = Ear(fake)
    assert listener._last_words() == ""
    os.write(fake.prints, b"half a wo")
    assert listener._last_words() == "; it printed 'half a wo'"


def test_one_that_prints_where_the_app_does_has_only_what_it_says(
    fake: FakeChild,
) -> None:
    assert fake.stderr is not None
    fake.stderr.close()
    fake.stderr = None
    fake.say(Stopped())
    assert hear(fake) == [Stopped()]


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
