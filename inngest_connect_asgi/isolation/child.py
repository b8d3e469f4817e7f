"""The runtime as a process of its own.

Not for people: :mod:`inngest_connect_asgi.isolation.launch` starts it, and
:mod:`inngest_connect_asgi.isolation.process` speaks to it over two pipes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from io import FileIO

from .. import ends, logs
from ..errors import format_traceback
from ..event_loop import EventLoop
from ..messages import VERSION, FromRuntime, Log, Start, Stopped
from ..network import trust
from ..runtime.lifetime import Lifetime
from ..runtime.shell import Runtime
from . import pipe

__all__ = ["main"]

PARENT_CHECK_INTERVAL = 0.5
"""Seconds. The pipe tells of the parent's death at once, unless another process
holds its other end, as a fork of the parent may."""

Failed = Callable[[BaseException], object]

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_PLAIN = (str, int, float, bool, type(None))


class LogForwarder(logging.Handler):
    """Sends what anything in here logs to the parent's ``logging`` tree."""

    def __init__(self, tell: Callable[[FromRuntime], object]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Formatted here: arguments and tracebacks are not plain data.
            text = self.format(record)
            extra: dict[str, object] = {
                name: value
                for name, value in vars(record).items()
                if name not in _STANDARD and type(value) in _PLAIN
            }
            self._tell(Log(record.levelno, text, extra, record.name, record.created))
        except Exception:
            # As every handler does: whoever logged must not suffer for it.
            self.handleError(record)


class Inbox(asyncio.Protocol):
    """What the parent says: the start message first, then those for the runtime."""

    def __init__(self, runtime: Runtime, failed: Failed) -> None:
        self.start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._decoder = pipe.Decoder()
        self._receive = runtime.receive
        self._failed = failed

    def data_received(self, data: bytes) -> None:
        try:
            messages = list(self._decoder.feed(data))
            if messages and isinstance(messages[0], Start):
                self.start.set_result(messages.pop(0))
            self._receive(messages)
        except BaseException as error:
            if self.start.done():
                self._failed(error)
            else:
                self.start.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        # Nobody is left to run functions: no lease may be extended for them.
        os._exit(1)


class Outbox:
    """What is said to the parent."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = fd
        self._loop = loop
        self._writer = pipe.Writer(fd)
        self._written = asyncio.Event()
        self._written.set()
        self.failed: Failed = traceback.print_exception
        """Is called with what was raised where nobody waits for it."""

    def tell(self, message: FromRuntime) -> None:
        """Have :meth:`flush` write a message."""
        self._writer.put(message)

    def flush(self) -> None:
        """Write what was told, or as much as the pipe takes, and the rest later.

        Raises:
            Exception: It can't be encoded, and is left out.
        """
        if not self._written.is_set():
            return
        try:
            written = self._writer.flush()
        except BrokenPipeError:
            os._exit(1)
        if not written:
            self._written.clear()
            self._loop.add_writer(self._fd, self._catch_up)

    def defer(self, callback: Callable[[], None]) -> bool:
        """Flush, and have a callback wait for what could not be written yet.

        Returns:
            ``False`` where all is written; then it is not called.
        """
        self.flush()
        return self._writer.defer(callback)

    def _catch_up(self) -> None:
        try:
            written = self._writer.flush()
        except BrokenPipeError:
            os._exit(1)
        except BaseException as error:
            self.failed(error)
            return
        if written:
            self._loop.remove_writer(self._fd)
            self._written.set()

    async def end(self, stopped: Stopped) -> None:
        """Say that it is over, and wait until everything is written."""
        # First what was logged on the way.
        await asyncio.sleep(0)
        self.tell(stopped)
        self.flush()
        await self._written.wait()


def main() -> None:
    # The app decides when to shut down, and says so over the pipe.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    from_parent, to_parent, stderr, parent = map(int, sys.argv[2:])
    ends.start_thread(partial(_watch_parent, parent), _leave, name="parent")
    os.write(to_parent, pipe.greeting(VERSION))
    # What is printed until here, the parent reads; from now on it is seen at once.
    for number in (1, 2):
        os.dup2(stderr, number)
    os.close(stderr)
    try:
        _speak(from_parent, to_parent)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Not by way of an interpreter shutdown, which has nothing left to do.
    os._exit(0)


def _speak(from_parent: int, to_parent: int) -> None:
    loop = EventLoop()
    outbox = Outbox(to_parent, loop)
    stopped = Stopped()
    try:
        loop.run_until_complete(_run(from_parent, outbox))
    except BaseException as error:
        stopped = Stopped(format_traceback(error))
    loop.run_until_complete(outbox.end(stopped))


async def _run(from_parent: int, outbox: Outbox) -> None:
    loop = asyncio.get_running_loop()
    runtime = Runtime(outbox.tell, outbox.defer, outbox.flush)
    lifetime = Lifetime(runtime)
    outbox.failed = lifetime.crash
    inbox = Inbox(runtime, lifetime.crash)
    await loop.connect_read_pipe(lambda: inbox, FileIO(from_parent))
    start = await inbox.start
    os.environ.update(start.environ)
    trust.use_certifi_file(start.certifi)

    def tell_at_once(log: FromRuntime) -> None:
        outbox.tell(log)
        outbox.flush()

    tell = ends.guarded(tell_at_once, lifetime.crash)
    # Any thread may log.
    forwarder = LogForwarder(lambda log: loop.call_soon_threadsafe(tell, log))
    logging.basicConfig(
        handlers=[forwarder], level=start.log_level, format="%(message)s"
    )
    if start.truststore and (problem := trust.inject_truststore()) is not None:
        text = (
            "The app has injected truststore, and the runtime's process can't "
            f"({problem}): it trusts {trust.description()}"
        )
        logs.emit(logging.WARNING, text)
    await lifetime.run(start)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL)


def _leave(error: BaseException | None) -> None:
    os._exit(1)
