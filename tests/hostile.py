"""Servers that mean no good, and TLS in front of those that do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from typing_extensions import Self

from inngest_connect_asgi.protocol.wire import connect as wire

__all__ = ["HostileServer", "answer", "drops", "endless", "tunnel"]

Behaviour = Callable[[socket.socket, bytes], None]
"""What to do with a connection, given the head of its HTTP request."""


class HostileServer:
    """A socket on loopback where every connection is answered by ``behave``.

    Start calls are answered well: they name this same server as the gateway.

    Args:
        tls: Speak TLS with this.
        start: Instead of a good answer to start calls.
    """

    def __init__(
        self,
        behave: Behaviour,
        *,
        tls: ssl.SSLContext | None = None,
        start: Behaviour | None = None,
    ) -> None:
        self._behave = behave
        self._start = start or self._name_myself
        self._tls = tls
        self.heads: list[bytes] = []
        """The heads of the requests so far, but for start calls."""
        self.starts = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing alone does not wake up a thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def gateway_url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}/"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._sockets.append(connection)
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = connection.recv(65536)
                    if not data:
                        return
                    head += data
                if b"/v0/connect/start" in head:
                    self.starts += 1
                    self._start(connection, head)
                else:
                    self.heads.append(head)
                    self._behave(connection, head)

    def _name_myself(self, connection: socket.socket, head: bytes) -> None:
        start = wire.StartResponse(
            connection_id="c", gateway_endpoint=self.gateway_url, gateway_group="g"
        )
        answer(start.SerializeToString())(connection, head)


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> Behaviour:
    """A whole HTTP answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)

    return behave


def endless(first: bytes, more: bytes) -> Behaviour:
    """As much as the other side takes."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(more)

    return behave


def drops(first: bytes, more: bytes = b"x", pause: float = 0.05) -> Behaviour:
    """Always a little, so that no read ever takes long."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(more)
            time.sleep(pause)

    return behave


@contextlib.contextmanager
def tunnel(port: int, tls: ssl.SSLContext) -> Iterator[int]:
    """TLS in front of a port of loopback; yields the port that speaks it."""

    def relay(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            tls.wrap_socket(client, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            opened.append(server)
            back = threading.Thread(target=relay, args=(server, inside))
            back.start()
            relay(inside, server)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                opened.append(client)
                threads.append(threading.Thread(target=serve, args=(client,)))
                threads[-1].start()

    opened: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        threads[0].join()
        for each in opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
