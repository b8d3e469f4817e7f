"""A runtime at the far end of two pipes, wherever that is.

What is the same in a process of its own and in an interpreter of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections.abc import Callable
from io import FileIO

from .. import ends, logs
from ..errors import format_traceback
from ..messages import FromRuntime, Log, Start, Stopped
from ..network import trust
from ..runtime.lifetime import Lifetime
from ..runtime.shell import Runtime
from . import pipe

__all__ = ["Inbox", "LogForwarder", "Outbox", "speak"]

Failed = Callable[[BaseException], object]

Gone = Callable[[], object]
"""Is called where nobody is at the near end any more, and may be again."""

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_PLAIN = (str, int, float, bool, type(None))


class LogForwarder(logging.Handler):
    """Sends what anything in here logs to the app's ``logging`` tree."""

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
    """What the app says: the start message first, then those for the runtime."""

    def __init__(self, runtime: Runtime, failed: Failed, gone: Gone) -> None:
        self.start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._decoder = pipe.Decoder()
        self._receive = runtime.receive
        self._failed = failed
        self._gone = gone

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
        self._gone()


class Outbox:
    """What is said to the app."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, gone: Gone) -> None:
        self._fd = fd
        self._loop = loop
        self._gone = gone
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
            self._gone()
            return
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
            self._gone()
            return
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


def speak(
    loop: asyncio.AbstractEventLoop, from_app: FileIO, to_app: FileIO, gone: Gone
) -> None:
    """Run a runtime on a loop, from its start message to its last word.

    Raises:
        BaseException: What ended it could not be told.
    """
    outbox = Outbox(to_app.fileno(), loop, gone)
    stopped = Stopped()
    try:
        loop.run_until_complete(_run(from_app, outbox, gone))
    except BaseException as error:
        stopped = Stopped(format_traceback(error))
    loop.run_until_complete(outbox.end(stopped))


async def _run(from_app: FileIO, outbox: Outbox, gone: Gone) -> None:
    loop = asyncio.get_running_loop()
    runtime = Runtime(outbox.tell, outbox.defer, outbox.flush)
    lifetime = Lifetime(runtime)
    outbox.failed = lifetime.crash
    inbox = Inbox(runtime, lifetime.crash, gone)
    await loop.connect_read_pipe(lambda: inbox, from_app)
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
        handlers=[forwarder],
        level=start.log_level,
        format="%(message)s",
        # Whoever instruments every interpreter may have been here before.
        force=True,
    )
    if start.truststore and (problem := trust.inject_truststore()) is not None:
        text = (
            "The app has injected truststore, and the runtime can't "
            f"({problem}): it trusts {trust.description()}"
        )
        logs.emit(logging.WARNING, text)
    await lifetime.run(start)
