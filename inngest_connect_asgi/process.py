"""The runtime in a child process, at the other end of two pipes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from . import pipe
from .messages import VERSION, FromApp, FromRuntime, Start, Stopped

__all__ = ["ProcessHost"]

CHILD = "inngest_connect_asgi.child"

EXIT_TIMEOUT = 5.0
"""Seconds a child gets to exit once it has said that it stopped."""

READ_SIZE = pipe.PIPE_SIZE

# What Python and TLS need. Not more: the rest may hold secrets.
_INHERITED = {
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
}

# These may have a password in them, and go over the pipe.
_PROXIES = {
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "WSS_PROXY",
    "WS_PROXY",
}


class ProcessCrashed(Exception):
    """The child ended without saying that it stopped."""


class ProcessHost:
    """Isolation from everything that the app's process does, the GIL included.

    The child imports neither the app nor the SDK. It is told everything through
    its standard input, and ends when that does, however the parent died.
    """

    def __init__(self) -> None:
        self._outbox: Outbox | None = None

    def run(
        self, start: Callable[[], Start], tell: Callable[[FromRuntime], None]
    ) -> None:
        """Run a child, and read its messages in the calling thread, until it ends.

        Raises:
            ProcessCrashed: It died, or its runtime crashed.
        """
        # Takes messages before there is a child, so that none falls between the
        # start message and the others.
        outbox = self._outbox = Outbox()
        try:
            proxies = {k: v for k, v in os.environ.items() if k.upper() in _PROXIES}
            first = replace(start(), environ=proxies)
            child = _spawn()
        except BaseException:
            self._outbox = None
            raise
        assert child.stdin is not None
        assert child.stdout is not None
        stopped: Stopped | None = None
        try:
            outbox.open(child.stdin.fileno(), first)
            stopped = _read(child.stdout.fileno(), tell)
            if stopped is not None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(EXIT_TIMEOUT)
        finally:
            self._outbox = None
            child.kill()
            code = child.wait()
            outbox.close()
            child.stdin.close()
            child.stdout.close()
        if stopped is None:
            raise ProcessCrashed(f"the runtime's process died, exit code {code}")
        if stopped.error is not None:
            raise ProcessCrashed(stopped.error)

    def crash(self, error: BaseException) -> None:
        raise NotImplementedError

    def send(self, message: FromApp) -> None:
        """Send a message to the runtime, if there is one; from any thread."""
        outbox = self._outbox
        if outbox is not None:
            outbox.send(message)


class Outbox:
    """Messages to a child, from any thread, without ever blocking it.

    What the pipe takes at once is written at once; a thread waits with the rest.
    """

    def __init__(self) -> None:
        self._early: list[FromApp] = []
        self._writer: pipe.Writer | None = None
        self._lock = threading.Lock()
        self._behind = threading.Event()
        self._closed = False

    def open(self, fd: int, start: Start) -> None:
        """Write to ``fd`` from now on: ``start``, and then what was sent before."""
        with self._lock:
            self._writer = pipe.Writer(fd)
            for message in (start, *self._early):
                self._write(message)
        self._thread = threading.Thread(
            target=self._catch_up, args=(fd,), name="inngest-connect-pipe", daemon=True
        )
        self._thread.start()

    def send(self, message: FromApp) -> None:
        with self._lock:
            if self._writer is None:
                self._early.append(message)
            elif not self._closed:
                self._write(message)

    def close(self) -> None:
        """Write no more: the child is gone."""
        with self._lock:
            self._closed = True
        self._behind.set()
        self._thread.join()

    def _write(self, message: FromApp) -> None:
        assert self._writer is not None
        # Where the child is gone, the reading thread sees it too.
        with suppress(OSError):
            if not self._writer.write(message):
                self._behind.set()

    def _catch_up(self, fd: int) -> None:
        assert self._writer is not None
        room = select.poll()
        room.register(fd, select.POLLOUT)
        while True:
            self._behind.wait()
            if self._closed:
                return
            # Returns when the child is gone, too.
            room.poll()
            with self._lock:
                try:
                    written = self._writer.flush()
                except OSError:
                    written = True  # as good as
                if written:
                    self._behind.clear()


def _spawn() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", CHILD, str(os.getpid()), str(VERSION)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=_environment(os.environ),
        # Ctrl-C reaches the whole process group, and the shutdown is the app's.
        start_new_session=True,
    )


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of the environment; nothing that holds secrets."""
    kept = {
        name: value
        for name, value in environ.items()
        if name.upper() in _INHERITED or name.startswith(("LC_", "PYTHON", "COVERAGE_"))
    }
    # The packages of this process, wherever it found them, and no others.
    kept["PYTHONPATH"] = os.pathsep.join(_search_path())
    kept["PYTHONSAFEPATH"] = "1"
    # A constant one: glibc's grows with what is freed, and would keep hundreds of
    # megabytes in the child after a burst of large payloads.
    kept["MALLOC_MMAP_THRESHOLD_"] = str(4 * 1024 * 1024)
    return kept


def _search_path() -> list[str]:
    """``sys.path``, in which an empty entry stands for the working directory."""
    try:
        return [os.path.abspath(path) for path in sys.path]
    except FileNotFoundError:  # a deploy has removed it beneath the app
        return [path for path in sys.path if os.path.isabs(path)]


def _read(fd: int, tell: Callable[[FromRuntime], None]) -> Stopped | None:
    """Pass on messages until the child says that it stopped, or is gone."""
    decoder = pipe.Decoder()
    while data := os.read(fd, READ_SIZE):
        for message in decoder.feed(data):
            if isinstance(message, Stopped):
                return message
            tell(message)
    return None
