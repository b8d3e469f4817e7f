"""The child's own part, in this process, and without its exits."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from io import FileIO

import pytest

from inngest_connect_asgi import ends as tasks
from inngest_connect_asgi.isolation import child, far_end, pipe
from inngest_connect_asgi.isolation.far_end import Gone
from inngest_connect_asgi.messages import VERSION

from ..hosts import Ends


class Exit(BaseException):
    """Instead of an exit of this process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Exit

    monkeypatch.setattr(os, "_exit", leave)
    return codes


def test_it_ends_with_its_parent(
    exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(child, "PARENT_CHECK_INTERVAL", 0.0)
    child._watch_parent(7)
    with pytest.raises(Exit):
        child._leave(None)
    with pytest.raises(Exit):
        child._leave()
    assert exits == [1, 1]


@pytest.mark.parametrize("dies", [False, True])
def test_its_main_program(
    dies: bool,
    ends: Ends,
    exits: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ignored: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda name, how: ignored.append(name))
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "dup2", lambda old, new: moved.append((old, new)))
    monkeypatch.setattr(tasks, "start_thread", lambda *_, **__: None)
    stderr = os.dup(2)
    arguments = [ends.reader, ends.writer, stderr, os.getpid()]
    monkeypatch.setattr(sys, "argv", ["-c", "module", *map(str, arguments)])

    def speak(loop: object, from_parent: FileIO, to_parent: FileIO, gone: Gone) -> None:
        assert (from_parent.fileno(), to_parent.fileno()) == (ends.reader, ends.writer)
        assert gone is child._leave
        if dies:
            raise SystemExit("of its own")

    monkeypatch.setattr(far_end, "speak", speak)
    monkeypatch.setattr(child, "FileIO", partial(FileIO, closefd=False))
    monkeypatch.setattr(child, "EventLoop", lambda: None)
    with pytest.raises(Exit):
        child.main()
    assert exits == [1 if dies else 0]
    assert signal.SIGTERM in ignored
    assert moved == [(stderr, 1), (stderr, 2)]
    greeting = pipe.greeting(VERSION)
    assert os.read(ends.reader, len(greeting)) == greeting
    assert ("of its own" in capsys.readouterr().err) == dies
