from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Coroutine

import httpx
import pytest

from inngest_connect_asgi.configuration import Configuration
from inngest_connect_asgi.messages import Result
from inngest_connect_asgi.network.access import Network
from inngest_connect_asgi.protocol import frames
from inngest_connect_asgi.protocol.actions import Flush, StartLink
from inngest_connect_asgi.runtime.api import MAX_ANSWER_SIZE, Answer, Api

from ..harness import run
from ..simulation import DONE, configuration, lease

Handler = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
START = StartLink(1, b"body", "key")


class FakeNetwork(Network):
    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler

    def http_client(self, url: str, timeout: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._handler))


async def pieces(*some: bytes) -> AsyncIterator[bytes]:
    for piece in some:
        yield piece


async def ask(
    handler: Handler,
    call: StartLink | Flush = START,
    settings: Configuration | None = None,
) -> Answer:
    crashes: list[BaseException] = []
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    network = FakeNetwork(handler)
    async with Api(settings or configuration(), network, crashes.append) as api:
        if isinstance(call, StartLink):
            api.start(call, answered.set_result)
        else:
            api.flush(call, answered.set_result)
        answer = await answered
    assert not crashes
    return answer


def asked(call: StartLink | Flush = START, **options: object) -> httpx.Request:
    """The request that a call makes."""
    requests: list[httpx.Request] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, content=pieces(b"ans", b"wer"))

    async def main() -> None:
        settings = configuration(**options)
        assert await ask(handler, call, settings) == Answer(200, b"answer", None)

    run(main)
    return requests[0]


def test_a_start() -> None:
    request = asked()
    assert str(request.url) == "http://api.test/v0/connect/start"
    assert request.content == b"body"
    assert request.headers["authorization"] == "Bearer key"
    assert request.headers["accept-encoding"] == "identity"
    assert "x-inngest-env" not in request.headers


def test_a_flush() -> None:
    result = Result(lease("job"), DONE)
    request = asked(Flush(result, None), environment="branch")
    assert str(request.url) == "http://api.test/v0/connect/flush"
    assert request.content == frames.reply(result.lease, result.outcome)
    assert "authorization" not in request.headers
    assert request.headers["x-inngest-env"] == "branch"


def test_a_password_of_the_origin_goes_in_a_header_unless_there_is_a_key() -> None:
    origin = "http://me:secret@api.test/"
    request = asked(StartLink(1, b"", None), api_origin=origin)
    assert str(request.url) == "http://api.test/v0/connect/start"
    assert request.headers["authorization"].startswith("Basic ")
    request = asked(api_origin=origin)
    assert request.headers["authorization"] == "Bearer key"


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), MemoryError()])
def test_whatever_is_raised_is_an_answer(error: BaseException) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        raise error

    async def main() -> None:
        answer = await ask(handler)
        assert (answer.status, answer.body) == (0, b"")
        assert answer.error is not None
        assert "the start API could not be reached" in answer.error

    run(main)


def answered_with(response: httpx.Response) -> str:
    async def handler(request: httpx.Request) -> httpx.Response:
        return response

    errors: list[str | None] = []

    async def main() -> None:
        errors.append((await ask(handler)).error)

    run(main)
    (error,) = errors
    assert error is not None
    return error


def test_an_answer_that_is_compressed_is_none() -> None:
    headers = {"content-encoding": "gzip"}
    body = pieces(gzip.compress(b"x"))
    response = httpx.Response(200, headers=headers, content=body)
    assert "compressed" in answered_with(response)


def test_an_answer_that_is_too_long_is_none() -> None:
    body = pieces(*[bytes(MAX_ANSWER_SIZE // 2)] * 3)
    assert "too long" in answered_with(httpx.Response(200, content=body))


def test_what_is_under_way_ends_with_it_and_is_told() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        answers: list[Answer] = []
        async with Api(configuration(), FakeNetwork(handler), print) as api:
            task = api.start(START, answers.append)
            await asyncio.sleep(0)
        assert task.cancelled()
        (answer,) = answers
        assert answer.error is not None

    run(main)


def test_what_is_raised_on_an_answer_is_a_crash() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=pieces())

    boom = RuntimeError("boom")

    def fail(answer: Answer) -> None:
        raise boom

    async def main() -> None:
        crashed: asyncio.Future[BaseException]
        crashed = asyncio.get_running_loop().create_future()
        network = FakeNetwork(handler)
        async with Api(configuration(), network, crashed.set_result) as api:
            api.start(START, fail)
            assert await crashed is boom

    run(main)
