"""``python -m inngest_connect_asgi.child``: the runtime as a process of its own.

Not for people: :mod:`inngest_connect_asgi.process` starts it, and speaks to it
over its standard input and output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

from . import logs, pipe, trust
from .errors import format_traceback
from .messages import VERSION, FromRuntime, Log, Start, Stopped
from .runtime import Runtime

__all__ = ["main"]

PARENT_CHECK_INTERVAL = 0.5
"""Seconds. The pipe tells of the parent's death at once, unless another process
holds its other end, as a fork of the parent does."""


_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_PLAIN = (str, int, float, type(None))


class LogForwarder(logging.Handler):
    """Sends what anything in here logs to the parent's ``logging`` tree."""

    def __init__(self, tell: Callable[[FromRuntime], object]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Formatted here: arguments and tracebacks are not plain data.
            text = self.format(record)
        except Exception:
            # As every handler does: whoever logged must not suffer for it.
            self.handleError(record)
            return
        extra: dict[str, object] = {
            name: value
            for name, value in vars(record).items()
            if name not in _STANDARD and isinstance(value, _PLAIN)
        }
        self._tell(Log(record.levelno, text, extra, record.name, record.created))


class Inbox(asyncio.Protocol):
    """What the parent says: the start message first, then those for the runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self.start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._runtime = runtime
        self._decoder = pipe.Decoder()

    def data_received(self, data: bytes) -> None:
        messages = list(self._decoder.feed(data))
        if messages and isinstance(messages[0], Start):
            self.start.set_result(messages.pop(0))
        self._runtime.receive(messages)

    def connection_lost(self, error: Exception | None) -> None:
        # Nobody is left to run functions: no lease may be extended for them.
        os._exit(1)


class Outbox:
    """What is said to the parent."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writer = pipe.Writer(fd)
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()
        self._written.set()

    def tell(self, message: FromRuntime) -> None:
        try:
            written = self._writer.write(message)
        except OSError:
            os._exit(1)
        if not written and self._written.is_set():
            self._written.clear()
            self._loop.add_writer(self._fd, self._flush)

    def defer(self, callback: Callable[[], None]) -> bool:
        return self._writer.defer(callback)

    def _flush(self) -> None:
        try:
            written = self._writer.flush()
        except OSError:
            os._exit(1)
        if written:
            self._loop.remove_writer(self._fd)
            self._written.set()

    async def flush(self) -> None:
        """Wait until everything is written."""
        await self._written.wait()


def main() -> None:
    # The app decides when to shut down, and says so over the pipe.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent, version = int(sys.argv[1]), sys.argv[2]
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    to_parent = os.dup(1)
    # Whoever prints in here must not print into the protocol.
    os.dup2(2, 1)
    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(_main(sys.stdin.buffer, to_parent, version))
    # Not by way of an interpreter shutdown, which has nothing left to do.
    os._exit(0)


async def _main(from_parent: IO[bytes], to_parent: int, version: str) -> None:
    outbox = Outbox(to_parent)
    stopped = Stopped()
    if version != str(VERSION):
        stopped = Stopped(
            "inngest-connect-asgi was upgraded beneath a running app; restart it"
        )
    else:
        try:
            await _run(from_parent, outbox)
        except Exception as error:
            stopped = Stopped(format_traceback(error))
    # First what was logged on the way.
    await asyncio.sleep(0)
    outbox.tell(stopped)
    await outbox.flush()


async def _run(from_parent: IO[bytes], outbox: Outbox) -> None:
    loop = asyncio.get_running_loop()
    runtime = Runtime(outbox.tell, outbox.defer)
    _, inbox = await loop.connect_read_pipe(lambda: Inbox(runtime), from_parent)
    start = await inbox.start
    os.environ.update(start.environ)
    # Any thread may log.
    forwarder = LogForwarder(lambda log: loop.call_soon_threadsafe(outbox.tell, log))
    logging.basicConfig(
        handlers=[forwarder], level=start.log_level, format="%(message)s"
    )
    if start.truststore and (problem := trust.inject_truststore()) is not None:
        logs.emit(
            logging.WARNING,
            "The app has injected truststore, and the runtime's process can't "
            f"({problem}): it trusts {trust.description()}",
        )
    await runtime.run(start)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL)
    os._exit(1)


if __name__ == "__main__":
    main()
