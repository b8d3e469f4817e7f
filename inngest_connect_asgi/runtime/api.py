"""The two calls of Connect's HTTP API: a start, and the flush of a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import httpx

from .. import ends
from ..configuration import Configuration
from ..network.access import Network, split_credentials
from ..protocol import frames
from ..protocol.actions import Flush, StartLink

__all__ = ["Answer", "Api"]

HTTP_TIMEOUT = 10.0
"""Seconds for a start or a flush call (SDK_SPEC 8.5.1)."""

SLOWEST_UPLOAD = 128 * 1024
"""Bytes a second. A flush gets longer for what it takes to send at this pace."""

MAX_ANSWER_SIZE = 1024 * 1024
"""Bytes of an API answer to read at most; a real one has a few hundred."""


class Answer(NamedTuple):
    """What came of a call."""

    status: int
    """0 where none came."""
    body: bytes
    error: str | None
    """Why none came."""


Ended = Callable[[Answer], None]


class Api:
    """Calls the API, each in a task of its own. Leaving the context ends them.

    Args:
        crash: Is told of what nobody foresaw.
    """

    def __init__(
        self,
        configuration: Configuration,
        network: Network,
        crash: Callable[[BaseException], object],
    ) -> None:
        self._network = network
        self._crash = crash
        self._tasks: set[asyncio.Task[None]] = set()
        self._origin, authorization = split_credentials(
            configuration.api_origin.rstrip("/")
        )
        self._headers = {
            "content-type": "application/protobuf",
            # A few hundred bytes; and none that grow when they are unpacked.
            "accept-encoding": "identity",
        }
        if configuration.environment is not None:
            self._headers["x-inngest-env"] = configuration.environment
        if authorization is not None:
            # Of a dev server behind a password; a signing key goes before it.
            self._headers["authorization"] = authorization
        self._http = network.http_client(self._origin, HTTP_TIMEOUT)

    async def __aenter__(self) -> Api:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    def start(self, call: StartLink, ended: Ended) -> asyncio.Task[None]:
        """Ask for a gateway.

        Args:
            ended: Is called once, whatever is raised. What it raises is a crash.
        """
        return self._call("start", lambda: call.body, call.signing_key, ended)

    def flush(self, call: Flush, ended: Ended) -> asyncio.Task[None]:
        """Deliver a reply, as :meth:`start`."""

        def body() -> bytes:
            # Not kept beyond the call: the app does that.
            return frames.reply(call.result.lease, call.result.outcome)

        return self._call("flush", body, call.signing_key, ended)

    def _call(
        self,
        name: str,
        body: Callable[[], bytes],
        signing_key: str | None,
        ended: Ended,
    ) -> asyncio.Task[None]:
        answers: list[Answer] = []

        async def post() -> None:
            status, answer = await self._post(name, body(), signing_key)
            answers.append(Answer(status, answer, None))

        def end(error: BaseException | None) -> None:
            self._tasks.discard(task)
            try:
                ended(answers[0] if answers else self._failure(name, error))
            except BaseException as unforeseen:
                self._crash(unforeseen)

        task = ends.spawn(post(), end)
        self._tasks.add(task)
        return task

    def _failure(self, name: str, error: BaseException | None) -> Answer:
        via = self._network.via(self._origin)
        what = self._network.explain(error or RuntimeError("it ended without a word"))
        return Answer(0, b"", f"the {name} API could not be reached{via}: {what}")

    async def _post(
        self, name: str, body: bytes, signing_key: str | None
    ) -> tuple[int, bytes]:
        headers = self._headers
        if signing_key is not None:
            headers = {**headers, "authorization": f"Bearer {signing_key}"}
        timeout = HTTP_TIMEOUT + len(body) / SLOWEST_UPLOAD
        # httpx has a timeout for each read, which an answer in drops never exceeds.
        url = f"{self._origin}/v0/connect/{name}"
        return await asyncio.wait_for(self._exchange(url, body, headers), timeout)

    async def _exchange(
        self, url: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        answer = b""
        request = self._http.stream("POST", url, content=body, headers=headers)
        async with request as response:
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.lower() != "identity":
                raise httpx.DecodingError("the answer is compressed")
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > MAX_ANSWER_SIZE:
                    raise httpx.DecodingError("the answer is too long")
        return response.status_code, answer
