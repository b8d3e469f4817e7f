"""Real servers as processes of their own, and what to hold against them."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
from typing_extensions import Self

from inngest_connect_asgi.testing.connection import Seen

__all__ = ["Metronome", "Server", "Uvicorn", "free_port", "silence"]

ROOT = os.path.dirname(os.path.dirname(__file__))
ADDRESS = re.compile(r"Uvicorn running on (http://\S+)")


class Server:
    """A server that runs the app of ``tests/server_app.py``, or another one.

    Args:
        command: A module, and its arguments.
        environ: What to add to the environment.
        url: Where it will listen; read from its log, as uvicorn writes it, if empty.
        options: For the middleware.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        url: str = "",
        **options: Any,
    ) -> None:
        self._url = url
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={
                **os.environ,
                **environ,
                "TEST_OPTIONS": json.dumps(options),
                "PYTHONUNBUFFERED": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C is for pytest.
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            # With its workers, who would outlive it.
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        if exc_type is not None:
            print(self.log)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for_log(self, text: str, timeout: float = 20.0, count: int = 1) -> None:
        """Wait until the server has printed ``text``, ``count`` times."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self.log.count(text) >= count, timeout
            ):
                raise TimeoutError(f"no {text!r} in\n{self.log}")

    @property
    def url(self) -> str:
        if self._url:
            return self._url
        self.wait_for_log("Uvicorn running on")
        match = ADDRESS.search(self.log)
        assert match is not None
        return match[1]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=20, **arguments)

    def wait_for_status(self, path: str, status: int, timeout: float = 10.0) -> None:
        """Ask until the answer has this status."""
        deadline = time.monotonic() + timeout
        while (answer := self.get(path)).status_code != status:
            if time.monotonic() > deadline:
                raise TimeoutError(f"still {answer.status_code}: {answer.text}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until it has exited; returns the exit code, or minus a signal."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code


class Uvicorn(Server):
    """``uvicorn`` on a free port."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *arguments: str,
        app: str = "tests.server_app:app",
        **options: Any,
    ) -> None:
        super().__init__(["uvicorn", app, "--port=0", *arguments], environ, **options)


class Metronome:
    """How late a thread of this process wakes up: the machine's own silence."""

    def __enter__(self) -> Metronome:
        self.lateness = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(0.05):
            now = time.monotonic()
            self.lateness = max(self.lateness, now - before - 0.05)
            before = now


def silence(beats: list[Seen], since: float, until: float) -> float:
    """The longest time without a heartbeat, in seconds."""
    times = [since, *(b.time for b in beats if since < b.time < until), until]
    return max(b - a for a, b in itertools.pairwise(times))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
