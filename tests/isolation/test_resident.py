"""The interpreter's own part, in a thread of this one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from io import FileIO

import pytest

from inngest_connect_asgi.event_loop import EventLoop
from inngest_connect_asgi.isolation import far_end, pipe, resident
from inngest_connect_asgi.isolation.far_end import Gone
from inngest_connect_asgi.messages import VERSION

from ..hosts import Ends


@pytest.fixture
def life(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ends:
    """What it hangs on; it says what it has to say to ``ends``."""
    life = Ends()
    numbers = [ends.reader, ends.writer, life.reader]
    monkeypatch.setattr(sys, "argv", ["-c", "module", *map(str, numbers)])
    for name in ("putenv", "unsetenv"):
        monkeypatch.setattr(os, name, getattr(os, name))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(warnings, "simplefilter", lambda *_: None)
    return life


def test_it_speaks_and_leaves_the_process_alone(
    ends: Ends, life: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PROCESS", "as it was")
    seen: list[object] = []

    def speak(loop: EventLoop, from_app: FileIO, to_app: FileIO, gone: Gone) -> None:
        os.environ["OF_THE_PROCESS"] = "changed"
        seen.extend([from_app.fileno(), to_app.fileno(), sys.stdout is sys.stderr])

    monkeypatch.setattr(far_end, "speak", speak)
    resident.main()
    assert seen == [ends.reader, ends.writer, True]
    greeting = pipe.greeting(VERSION)
    assert os.read(ends.reader, len(greeting)) == greeting
    command = ["printenv", "OF_THE_PROCESS"]
    assert subprocess.check_output(command) == b"as it was\n"
    # Whoever has made them closes them.
    os.fstat(ends.writer)
    life.close()


@pytest.mark.parametrize("stubborn", [False, True])
def test_it_leaves_when_its_life_ends(
    stubborn: bool, life: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "AGAIN", 0.01)
    cancelled = 0

    async def live() -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                if not stubborn or cancelled == 3:
                    raise

    def speak(loop: EventLoop, *_: object) -> None:
        loop.run_until_complete(live())

    monkeypatch.setattr(far_end, "speak", speak)
    ended = threading.Timer(0.0, os.close, [life.writer])
    ended.start()
    resident.main()
    ended.join()
    assert cancelled == (3 if stubborn else 1)
    life.writer = -1
    life.close()
