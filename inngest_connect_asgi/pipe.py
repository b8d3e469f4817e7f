"""Messages over a pipe: four bytes of length, then a pickle.

Both ends are the same version of this package, and the pipe is private to them.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

if sys.platform == "linux":
    import fcntl

__all__ = ["Decoder", "Writer", "encode"]

PIPE_SIZE = 1024 * 1024
"""Bytes; as much as Linux gives to anyone."""

_HEADER = struct.Struct("!I")


def encode(message: object) -> memoryview:
    # Into a file, large payloads are copied only once.
    file = io.BytesIO()
    file.write(bytes(_HEADER.size))
    pickle.dump(message, file, protocol=pickle.HIGHEST_PROTOCOL)
    length = file.tell() - _HEADER.size
    file.seek(0)
    file.write(_HEADER.pack(length))
    # Not its buffer: a file that is collected together with that can't be closed.
    return memoryview(file.getvalue())


class Decoder:
    """Makes messages of the bytes that a pipe gives, in whatever pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = _HEADER.size

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take bytes, and return the messages that they complete."""
        self._buffer += data
        # Most of a large message's pieces complete nothing.
        while len(self._buffer) >= self._wanted:
            (length,) = _HEADER.unpack_from(self._buffer)
            self._wanted = _HEADER.size + length
            if len(self._buffer) < self._wanted:
                return
            with memoryview(self._buffer) as view:
                message = pickle.loads(view[_HEADER.size : self._wanted])
            del self._buffer[: self._wanted]
            self._wanted = _HEADER.size
            yield message


class Writer:
    """Writes messages to a pipe without waiting, and keeps what it does not take.

    Args:
        fd: Is made non-blocking.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        # Large payloads go in fewer pieces. Only Linux lets one ask for it.
        if sys.platform == "linux":
            with suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._fd = fd
        self._backlog: deque[memoryview | Callable[[], None]] = deque()

    def write(self, message: object) -> bool:
        """Write a message behind the others; returns whether all are written.

        Raises:
            OSError: The other end is gone.
        """
        self._backlog.append(encode(message))
        return len(self._backlog) == 1 and self.flush()

    def defer(self, callback: Callable[[], None]) -> bool:
        """Have :meth:`flush` call back once it has written what waits by now.

        Returns:
            ``False`` where nothing waits; then it is not called.
        """
        if self._backlog:
            self._backlog.append(callback)
            return True
        return False

    def flush(self) -> bool:
        """Write what the pipe takes by now; returns whether that is all.

        Raises:
            OSError: The other end is gone.
        """
        try:
            while self._backlog:
                first = self._backlog[0]
                if not isinstance(first, memoryview):
                    self._backlog.popleft()
                    first()
                    continue
                written = os.write(self._fd, first)
                if written < len(first):
                    self._backlog[0] = first[written:]
                else:
                    self._backlog.popleft()
        except BlockingIOError:
            return False
        return True
