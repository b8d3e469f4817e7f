"""A client of serve, as the server is one."""

from __future__ import annotations

import asyncio
from typing import cast
from urllib.parse import urlsplit

from .load import Load
from .requests import call_request

__all__ = ["ServeClient"]


class ServeClient:
    """Posts call requests as the server does: on connections that are kept."""

    def __init__(self, load: Load, url: str) -> None:
        self._load = load
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._path = parts.path
        self.idle: list[Post] = []
        self.request = b""

    async def prepare(self, app: str, function: str, size: int, lanes: int) -> None:
        loop = asyncio.get_running_loop()
        # A kept connection may have been closed as idle: make new ones each time.
        for post in self.idle:
            post.transport.close()
        self.idle.clear()
        for _ in range(lanes):
            _, post = await loop.create_connection(
                lambda: Post(self, self._load), self._host, self._port
            )
            self.idle.append(post)
        body = call_request(function, size)
        head = (
            f"POST {self._path}?fnId={app}-{function}&stepId=step HTTP/1.1\r\n"
            f"Host: {self._host}:{self._port}\r\n"
            "Content-Type: application/json\r\n"
            "X-Inngest-Server-Kind: dev\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body

    def send(self, request_id: bytes) -> None:
        post = self.idle.pop()
        post.request_id = request_id
        post.transport.write(self.request)


class Post(asyncio.Protocol):
    """A connection to serve, with one request at a time."""

    def __init__(self, client: ServeClient, load: Load) -> None:
        self._client = client
        self._load = load
        self._data = bytearray()
        self._size = 0
        """Of the whole answer, once its head is read."""
        self.request_id = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has transports that are none by inheritance.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._size:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._data[:end]).lower()
            _, _, rest = head.partition(b"content-length:")
            self._size = end + 4 + int(rest.partition(b"\r\n")[0])
        if len(self._data) < self._size:
            return
        status = int(self._data[9:12])
        self._data.clear()
        self._size = 0
        self._client.idle.append(self)
        self._load.replied(self.request_id, status)
