"""A runtime in an interpreter of its own, and how that ends."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inngest_connect_asgi import ends as tasks
from inngest_connect_asgi.isolation import departures, ear, interpreter
from inngest_connect_asgi.isolation.ear import RuntimeCrashed
from inngest_connect_asgi.isolation.interpreter import Interpreter, InterpreterHost
from inngest_connect_asgi.messages import Drain, Log, Pong
from inngest_connect_asgi.state import State

from ..hosts import Running, inject, text_of, the_interpreter

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="needs interpreters, of Python 3.14"
)


def run() -> Running:
    running = Running(InterpreterHost())
    running.wait_for(State)
    return running


def wait_until_left() -> None:
    with departures._changed:
        assert departures._changed.wait_for(lambda: not departures._here, 10)


def test_it_runs_until_it_is_drained_and_closes_what_it_had() -> None:
    wait_until_left()
    before = set(os.listdir("/proc/self/fd"))
    running = run()
    running.host.send(Pong(1))
    running.host.send(Drain(0.0))
    assert running.end() is None
    wait_until_left()
    assert set(os.listdir("/proc/self/fd")) == before


def test_one_that_ends_without_a_word_has_died() -> None:
    running = run()
    the_interpreter().kill()
    assert "CancelledError" in text_of(running.end())


def test_what_it_dies_of_as_it_starts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "ENTRY", "there_is_no_such_module")
    text = text_of(Running(InterpreterHost()).end())
    assert text.startswith("the runtime's interpreter died, of this:")
    assert "ModuleNotFoundError: No module named 'there_is_no_such_module'" in text


def test_one_that_can_not_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise MemoryError("no more interpreters")

    monkeypatch.setattr(interpreter, "_create", fail)
    text = text_of(Running(InterpreterHost()).end())
    assert "MemoryError: no more interpreters" in text


def test_without_a_thread_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(tasks, "start_thread", fail)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Interpreter()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_it_sets_is_not_the_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    inject(
        monkeypatch,
        """
import os
from inngest_connect_asgi.isolation import far_end
run = far_end._run
def set_and_run(*args):
    os.environ["OF_THE_INTERPRETER"] = "1"
    return run(*args)
far_end._run = set_and_run
""",
    )
    running = run()
    done = subprocess.run(["printenv", "OF_THE_INTERPRETER"], capture_output=True)
    assert (done.stdout, os.environ.get("OF_THE_INTERPRETER")) == (b"", None)
    running.host.send(Drain(0.0))
    assert running.end() is None


def test_what_it_prints_goes_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inject(
        monkeypatch,
        """
from inngest_connect_asgi.runtime.lifetime import Lifetime
run = Lifetime.run
def loud(self, start):
    print("printed", flush=True)
    return run(self, start)
Lifetime.run = loud
""",
    )
    running = run()
    running.host.send(Drain(0.0))
    assert running.end() is None
    assert capfd.readouterr() == ("", "printed\n")


def test_a_module_of_the_apps_folder_hides_none_of_pythons(tmp_path: Path) -> None:
    (tmp_path / "selectors.py").write_text("raise RuntimeError('of the app')")
    program = tmp_path / "program.py"
    program.write_text(
        """
import sys
folder = sys.path.pop(0)
import selectors, asyncio
sys.path.insert(0, folder)
from tests.hosts import Running
from inngest_connect_asgi.isolation.interpreter import InterpreterHost
from inngest_connect_asgi.state import State
Running(InterpreterHost()).wait_for(State)
print("it runs")
"""
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("it runs\n", "", 0)


HANG = """
import threading
from inngest_connect_asgi.protocol.core import Core
def hang(*_, **__):
    import time
    time.sleep(3)
    return []
Core.drain = hang
"""


def test_one_that_hangs_is_left_behind_and_another_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject(monkeypatch, HANG)
    running = run()
    monkeypatch.setattr(ear, "SILENCE", 0.5)
    monkeypatch.setattr(interpreter, "END_TIMEOUT", 0.1)
    left = the_interpreter()
    running.host.send(Drain(0.0))
    text = text_of(running.end())
    assert "said nothing for 0.5 s; none can be killed, so it is left behind" in text
    assert left in departures._here
    monkeypatch.undo()
    again = Running(running.host)
    again.wait_for(State)
    again.host.send(Drain(0.0))
    assert again.end() is None
    # Once it wakes up it leaves.
    wait_until_left()


# Forks


def fork() -> int:
    """The exit code of a fork."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_lives_and_the_runtime_goes_on_in_another() -> None:
    running = run()
    first = the_interpreter()
    assert fork() == 7
    log = running.wait_for(Log)
    assert log.level == logging.WARNING
    assert "The app has forked" in log.message
    running.wait_for(State)
    second = the_interpreter()
    assert second is not first
    # Not said again.
    assert fork() == 7
    running.wait_for(State)
    running.host.send(Drain(0.0))
    assert running.end() is None
    assert running.told.empty() or not isinstance(running.told.get(), Log)


def test_a_crash_is_a_crash_though_the_app_forks() -> None:
    running = run()
    the_interpreter().gave_way = True
    boom = RuntimeError("boom")
    running.host.crash(boom)
    error = running.end()
    assert isinstance(error, RuntimeCrashed)
    assert error.__cause__ is boom


def test_a_fork_of_one_that_was_made_by_nobody() -> None:
    host = InterpreterHost()
    assert not host._gave_way()


# The end of the process


def end_of(code: str, *, hangs: str = "") -> subprocess.CompletedProcess[str]:
    program = f"""
import sys, threading, logging, atexit
from tests.hosts import Running, start, prepared
from inngest_connect_asgi.isolation import launch
from inngest_connect_asgi.isolation.interpreter import InterpreterHost
from inngest_connect_asgi.messages import Drain
from inngest_connect_asgi.state import State
launch._PREPARE = prepared({hangs!r})
running = Running(InterpreterHost())
running.wait_for(State)
atexit.register(print, "its own exit")
{code}
"""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=40
    )


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_ends_with_one_that_runs(code: int) -> None:
    done = end_of(f"sys.exit({code})")
    assert (done.returncode, done.stdout, done.stderr) == (code, "its own exit\n", "")


def test_a_process_ends_with_one_that_hangs() -> None:
    hangs = HANG.replace("time.sleep(3)", "time.sleep(600)")
    done = end_of("running.host.send(Drain(0.0))", hangs=hangs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "its own exit\n", "")


# What Python has


def test_it_is_made_by_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object()
    asked: list[str] = []

    def find(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(create=lambda: made)

    monkeypatch.setattr(importlib, "import_module", find)
    assert interpreter._create() is made
    assert asked == ["concurrent.interpreters"]
