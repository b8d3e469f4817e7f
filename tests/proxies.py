"""Proxies on loopback, as companies have them."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from urllib.parse import urlsplit

from typing_extensions import Self

__all__ = ["HttpProxy", "SocksProxy"]

Credentials = tuple[str, str]


class _Proxy:
    """Joins its clients to whatever they ask for, and notes that.

    Args:
        credentials: User name and password that it wants to hear first.
        tls: Speak TLS with clients, as an ``https://`` proxy does.
        refuse: Answer everything with this instead.
    """

    scheme = ""

    def __init__(
        self,
        *,
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        refuse: bytes = b"",
    ) -> None:
        self._credentials = credentials
        self._tls = tls
        self._refuse = refuse
        self.joined: list[int] = []
        """The ports that were asked for, one for each time."""
        self.left = 0
        """How many have hung up after they were refused."""
        self.names: set[str] = set()
        """The hosts that were asked for."""

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

    def url(self, user_info: str = "", scheme: str = "") -> str:
        """Its URL, as an environment variable would have it."""
        at = "@" if user_info else ""
        return f"{scheme or self.scheme}://{user_info}{at}127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        self._sockets += arguments
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError, EOFError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            with client:
                self.talk(client)

    def talk(self, client: socket.socket) -> None:
        raise NotImplementedError

    def join(self, client: socket.socket, host: str, port: int, first: bytes) -> None:
        self.joined.append(port)
        self.names.add(host)
        with socket.create_connection((host, port)) as server:
            self._sockets.append(server)
            server.sendall(first)
            self._start(_relay, server, client)
            _relay(client, server)


class HttpProxy(_Proxy):
    """Tunnels what asks for it by CONNECT, and forwards other requests."""

    scheme = "http"

    def talk(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += _some(client)
        if self._refuse:
            client.sendall(self._refuse)
            return
        if self._credentials is not None:
            pair = ":".join(self._credentials).encode()
            wanted = b"proxy-authorization: basic " + base64.b64encode(pair).lower()
            if wanted not in head.lower():
                client.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="us"\r\nContent-Length: 0\r\n\r\n'
                )
                return
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            self.join(client, host.strip("[]"), int(port), b"")
        else:
            parts = urlsplit(target)
            # One request for each connection is enough.
            head = head.replace(target.encode(), parts.path.encode(), 1)
            head = head.replace(b"keep-alive", b"close")
            self.join(client, parts.hostname or "", parts.port or 80, head)


class SocksProxy(_Proxy):
    """SOCKS 5, with the names resolved here."""

    scheme = "socks5"

    def talk(self, client: socket.socket) -> None:
        _, count = _exactly(client, 2)
        methods = _exactly(client, count)
        if self._credentials is None:
            client.sendall(b"\x05\x00")
        elif 2 not in methods:
            client.sendall(b"\x05\xff")
            return
        else:
            client.sendall(b"\x05\x02")
            _exactly(client, 1)
            username = _exactly(client, _exactly(client, 1)[0]).decode()
            password = _exactly(client, _exactly(client, 1)[0]).decode()
            if (username, password) != self._credentials:
                client.sendall(b"\x01\x01")
                return
            client.sendall(b"\x01\x00")
        _, _, _, kind = _exactly(client, 4)
        if kind == 1:
            host = socket.inet_ntoa(_exactly(client, 4))
        elif kind == 3:
            host = _exactly(client, _exactly(client, 1)[0]).decode()
        else:
            host = socket.inet_ntop(socket.AF_INET6, _exactly(client, 16))
        (port,) = struct.unpack("!H", _exactly(client, 2))
        reply = self._refuse or b"\x00"
        client.sendall(b"\x05" + reply + b"\x00\x01" + bytes(6))
        if self._refuse:
            # Whoever was refused is to hang up, politely or not.
            with contextlib.suppress(ConnectionResetError):
                client.recv(1)
            self.left += 1
            return
        self.join(client, host, port, b"")


def _some(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise EOFError
    return data


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
