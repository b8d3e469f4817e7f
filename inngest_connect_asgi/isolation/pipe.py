"""Messages over a pipe: four bytes of length, then a plain tuple, or a pickle.

Both ends are the same version of this package, and the pipe is private to them. What
comes from the child begins with a :func:`greeting`, which shows that it is one.
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

from . import plain

if sys.platform == "linux":
    import fcntl

__all__ = ["Decoder", "Writer", "encode", "frame", "greeting"]

PIPE_SIZE = 1024 * 1024
"""Bytes; as much as Linux gives to anyone."""

BATCH_SIZE = 64 * 1024
"""Bytes of messages that are written at once: every write wakes up the other end."""

MAX_MESSAGE_SIZE = 256 * 1024 * 1024
"""Bytes. The largest real one is a request, of sixteen megabytes at most."""

_HEADER = struct.Struct("!I")
_NOTHING = memoryview(b"")


def greeting(version: int) -> bytes:
    """The first bytes of a child whose messages are of this version."""
    return b"inngest-connect-asgi/%d\n" % version


def frame(data: bytes) -> bytes:
    """Plain bytes behind their length, for a reader that has no pickle yet."""
    return _HEADER.pack(len(data)) + data


def encode(message: object) -> memoryview:
    if (data := plain.dump(message)) is not None:
        return memoryview(_HEADER.pack(len(data)) + data)
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

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Take bytes, and return the messages that they complete.

        Raises:
            ValueError: They are none.
            Exception: Whatever pickle says of what is no pickle.
        """
        self._buffer += piece
        # Most of a large message's pieces complete nothing.
        while len(self._buffer) >= self._wanted:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > MAX_MESSAGE_SIZE:
                # Or one would wait for gigabytes that nobody sends.
                raise ValueError(f"a message of {length} bytes")
            self._wanted = _HEADER.size + length
            if len(self._buffer) < self._wanted:
                return
            with (
                memoryview(self._buffer) as view,
                view[_HEADER.size : self._wanted] as data,
            ):
                load = plain.load if plain.is_plain(data) else pickle.loads
                message = load(data)
            del self._buffer[: self._wanted]
            self._wanted = _HEADER.size
            yield message


class _Callback:
    """Tells a callback from a message, which may be anything."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call


class Writer:
    """Writes messages to a pipe without waiting, and keeps what it does not take.

    What waits is kept as it is, and encoded when it is its turn, so that no more than
    one large message is held twice. Messages are therefore not to change.

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
        self._rest = _NOTHING
        """Of the messages that are being written."""
        self._due: deque[Callable[[], None]] = deque()
        """Callbacks that wait for no more than those."""
        self._waiting: deque[object] = deque()

    def put(self, message: object) -> None:
        """Have :meth:`flush` write a message behind the others."""
        self._waiting.append(message)

    def write(self, message: object) -> bool:
        """Write a message behind the others; returns whether all are written.

        Raises:
            OSError: The other end is gone.
            Exception: It can't be encoded, and is left out.
        """
        at_once = not self._is_behind
        self.put(message)
        return at_once and self.flush()

    def write_frame(self, data: bytes) -> bool:
        """Write a :func:`frame`, before any message.

        Raises:
            OSError: The other end is gone.
        """
        self._rest = memoryview(data)
        return self.flush()

    def defer(self, callback: Callable[[], None]) -> bool:
        """Have :meth:`flush` call back once it has written what waits by now.

        Returns:
            ``False`` where nothing waits; then it is not called.
        """
        if self._is_behind:
            self._waiting.append(_Callback(callback))
            return True
        return False

    def flush(self) -> bool:
        """Write what the pipe takes by now; returns whether that is all.

        Raises:
            OSError: The other end is gone.
            Exception: Whatever a callback raised, or encoding; that one is left out.
        """
        try:
            while self._is_behind:
                if self._rest:
                    rest = self._rest[os.write(self._fd, self._rest) :]
                    # An empty slice would keep all of what it is one of.
                    self._rest = rest or _NOTHING
                elif self._due:
                    self._due.popleft()()
                else:
                    self._encode_some()
        except BlockingIOError:
            return False
        return True

    def _encode_some(self) -> None:
        encoded: list[memoryview] = []
        size = 0
        try:
            while self._waiting and size < BATCH_SIZE:
                first = self._waiting.popleft()
                if isinstance(first, _Callback):
                    self._due.append(first.call)
                else:
                    encoded.append(encode(first))
                    size += len(encoded[-1])
        finally:
            # Also before one that can't be encoded.
            if len(encoded) == 1:
                self._rest = encoded[0]
            else:
                self._rest = memoryview(b"".join(encoded))

    @property
    def _is_behind(self) -> bool:
        return bool(self._rest or self._due or self._waiting)
