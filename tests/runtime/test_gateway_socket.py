from __future__ import annotations

import asyncio
import contextlib
import pathlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from socket import SHUT_WR

import pytest
import trustme
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from inngest_connect_asgi.messages import Outcome, Result
from inngest_connect_asgi.network.access import Network
from inngest_connect_asgi.protocol.actions import Send, SendReply
from inngest_connect_asgi.runtime import gateway_socket
from inngest_connect_asgi.runtime.gateway_socket import (
    BATCH_SIZE,
    SUBPROTOCOL,
    GatewaySocket,
)

from ..harness import run, until
from ..simulation import lease

REPLY_SIZE = 4 * 1024 * 1024
HEARTBEAT = b"heartbeat"


class Listener:
    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.gone = asyncio.Event()
        self.messages: list[bytes | str] = []
        self.written: list[Send | SendReply] = []
        self.losses: list[str] = []
        self.wanted = True

    def opened(self, link: int) -> None:
        self.open.set()

    def received(self, link: int, messages: Sequence[bytes | str]) -> None:
        self.messages += messages

    def wants(self, frame: Send | SendReply) -> bool:
        return self.wanted

    def sent(self, frames: Iterable[Send | SendReply]) -> None:
        for frame in frames:
            self.written.append(frame)

    def lost(self, link: int, reason: str) -> None:
        self.losses.append(reason)
        self.gone.set()


@contextlib.asynccontextmanager
async def gateway(
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[str, asyncio.Queue[ServerConnection]]]:
    """A server that reads nothing by itself; yields its URL and its connections."""
    connections: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        connections.put_nowait(connection)
        await connection.wait_closed()

    async with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=[SUBPROTOCOL],
        ssl=tls,
        max_size=2 * REPLY_SIZE,
        max_queue=1000,
        compression=None,
        close_timeout=0.1,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", connections


def reply(number: int, size: int = REPLY_SIZE) -> SendReply:
    return SendReply(1, Result(lease(f"r{number}"), Outcome(200, b"x" * size)))


@pytest.fixture
def tls(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_heartbeat_is_not_behind_the_replies_that_wait(
    secure: bool, request: pytest.FixtureRequest
) -> None:
    context = request.getfixturevalue("tls") if secure else None

    async def main() -> None:
        listener = Listener()
        async with gateway(context) as (url, connections):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()
            for number in range(20):
                socket.send(reply(number))
            listener.sent(socket.write())
            # The other end takes nothing: what does not fit its buffers waits here.
            await until(lambda: socket._paused)
            assert socket._connection is not None
            waiting = socket._connection.transport.get_write_buffer_size()
            assert waiting <= REPLY_SIZE + 64 * 1024
            assert len(socket._bulk) >= 15
            before = len(listener.written)
            socket.send(Send(1, HEARTBEAT))
            listener.sent(socket.write())
            connection.transport.resume_reading()
            received = [await connection.recv() for _ in range(before + 1)]
            assert received[-1] == HEARTBEAT
            for _ in range(20 - before):
                await connection.recv()
            await asyncio.wait([socket.abort()])

    run(main)


def test_an_acknowledgement_that_nobody_wants_any_more_is_not_written() -> None:
    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, connections):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()
            connection.transport.resume_reading()
            socket.send(Send(1, b"acknowledgement", lease("r").delivery))
            listener.wanted = False
            assert not list(socket.write())
            listener.wanted = True
            socket.send(Send(1, HEARTBEAT))
            list(socket.write())
            assert await connection.recv() == HEARTBEAT
            await asyncio.wait([socket.abort()])

    run(main)


def test_what_is_written_is_told_though_more_can_not_be_written() -> None:
    """Or a request would not run whose acknowledgement has left."""

    class Odd:
        """A frame of which nobody knows why it has no bytes."""

        acknowledges, delivery = False, None

        @property
        def data(self) -> bytes:
            raise RuntimeError("boom")

    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, _):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            large = Send(1, bytes(BATCH_SIZE), lease("r").delivery)
            socket.send(large)
            socket.send(Odd())  # type: ignore[arg-type]
            with pytest.raises(RuntimeError, match="boom"):
                listener.sent(socket.write())
            assert listener.written == [large]
            await asyncio.wait([socket.abort()])

    run(main)


@pytest.mark.parametrize("when", ["before", "as it writes"])
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_nothing_is_taken_for_written_on_a_connection_that_broke(
    secure: bool, when: str, request: pytest.FixtureRequest
) -> None:
    """Or a request would run whose acknowledgement never left."""
    context = request.getfixturevalue("tls") if secure else None

    async def main() -> None:
        listener = Listener()
        async with gateway(context) as (url, _):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            assert socket._connection is not None
            transport = socket._connection.transport
            if when == "before":
                transport.abort()
            else:
                # The kernel says so, and the loop has not heard of it.
                transport.get_extra_info("socket").shutdown(SHUT_WR)
            for number in range(10):
                delivery = lease(f"r{number}").delivery
                socket.send(Send(1, b"acknowledgement", delivery))
                assert not list(socket.write())
            await asyncio.wait_for(listener.gone.wait(), 10)

    run(main)


def test_a_gateway_that_says_nothing_more_is_lost_at_once() -> None:
    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, connections):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()
            for number in range(3):
                socket.send(reply(number))
            listener.sent(socket.write())
            await until(lambda: socket._paused)
            # Its half is closed while ours has a reply to write, which it still takes.
            connection.transport.write_eof()
            connection.transport.resume_reading()
            await asyncio.wait_for(listener.gone.wait(), 10)
            assert listener.losses == ["the gateway ended the connection"]

    run(main)


PING = bytes((0x89, 125)) + bytes(125)


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_gateway_that_sends_pings_and_reads_no_answers_is_lost(
    secure: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_socket, "MAX_UNSENT", 256 * 1024)
    context = request.getfixturevalue("tls") if secure else None

    async def main() -> None:
        listener = Listener()
        async with gateway(context) as (url, connections):
            GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()
            # Far more than the system takes for a connection, in both directions.
            for _ in range(1000):
                if listener.gone.is_set():
                    break
                connection.transport.write(PING * 1000)
                await asyncio.sleep(0)
            await asyncio.wait_for(listener.gone.wait(), 20)
            assert listener.losses == ["the gateway sends pings and reads no answers"]

    run(main)


def test_a_message_in_very_many_pieces_takes_no_more_than_one_in_few() -> None:
    first, piece, empty, last = b"\x02\x02ab", b"\x00\x02cd", b"\x00\x00", b"\x80\x02ef"
    pieces = 50_000

    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, connections):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()
            await until(lambda: socket._connection)
            assert socket._connection is not None
            connection.transport.write(first + (piece + empty * 9) * pieces)
            fragments = socket._connection._fragments
            await until(lambda: len(fragments) >= 2 * (pieces + 1), 60)
            assert sys.getsizeof(fragments) < 4 * 2 * pieces
            connection.transport.write(last + first.replace(b"\x02", b"\x82", 1))
            await until(lambda: len(listener.messages) == 2)
            assert listener.messages == [b"ab" + b"cd" * pieces + b"ef", b"ab"]
            await asyncio.wait([socket.abort()])

    run(main)


@pytest.mark.parametrize(
    "callback",
    ["data_received", "eof_received", "pause_writing", "close"],
)
def test_whatever_is_raised_a_socket_is_lost_and_says_so(
    callback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, connections):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()

            def broken(*args: object) -> None:
                raise RuntimeError("boom")

            monkeypatch.setattr(ClientConnection, callback, broken)
            if callback == "data_received":
                await connection.send(b"x")
            elif callback == "eof_received":
                connection.transport.write_eof()
            elif callback == "pause_writing":
                for number in range(5):
                    socket.send(reply(number))
                list(socket.write())
            else:
                socket.close("WORKER_SHUTDOWN")
                list(socket.write())
            await asyncio.wait_for(listener.gone.wait(), 10)
            assert listener.losses == ["the connection broke: RuntimeError: boom"]
            connection.transport.abort()

    run(main)


def test_what_breaks_while_it_is_opened_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        def broken(*args: object) -> None:
            raise RuntimeError("boom")

        monkeypatch.setattr(ClientConnection, "data_received", broken)
        listener = Listener()
        async with gateway() as (url, _):
            GatewaySocket(1, url, listener, Network())
            await asyncio.wait_for(listener.gone.wait(), 10)
            assert listener.losses == ["the connection broke: RuntimeError: boom"]

    run(main)


def test_the_words_of_a_close_frame_are_quoted_unless_they_are_the_protocols() -> None:
    async def main() -> None:
        for reason, shown in (
            ("connect_internal_error", "connect_internal_error"),
            ("\x1b[2J owned\n", "'\\x1b[2J owned\\n'"),
        ):
            listener = Listener()
            async with gateway() as (url, connections):
                GatewaySocket(1, url, listener, Network())
                await listener.open.wait()
                connection = await connections.get()
                connection.transport.resume_reading()
                await connection.close(1011, reason)
                await asyncio.wait_for(listener.gone.wait(), 10)
                assert listener.losses == [shown]

    run(main)


# A gateway that is none


def refusal(status: int, headers: dict[str, str] | None = None) -> str:
    """Why a connection was lost that a server has refused."""

    def refuse(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(HTTPStatus(status), "")
        response.headers.update(headers or {})
        return response

    async def main() -> str:
        async with serve(
            connection_lost, "127.0.0.1", 0, process_request=refuse
        ) as server:
            port = server.sockets[0].getsockname()[1]
            listener = Listener()
            GatewaySocket(1, f"ws://127.0.0.1:{port}", listener, Network())
            await listener.gone.wait()
        (why,) = listener.losses
        return why

    return asyncio.run(main())


async def connection_lost(connection: ServerConnection) -> None:
    await connection.wait_closed()


def test_an_answer_that_is_no_upgrade_is_a_loss() -> None:
    assert refusal(503) == "the gateway answered 503"


def test_a_redirect_is_not_followed() -> None:
    assert refusal(302, {"Location": "ws://elsewhere.test"}) == (
        "the gateway answered 302"
    )


def test_nobody_there_is_a_loss() -> None:
    async def main() -> None:
        listener = Listener()
        GatewaySocket(1, "ws://127.0.0.1:1", listener, Network())
        await listener.gone.wait()
        (why,) = listener.losses
        assert why.startswith("the gateway could not be reached")

    run(main)


def test_a_gateway_that_speaks_no_websocket_is_named_for_it() -> None:
    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, connections):
            GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            connection = await connections.get()
            # A frame with a bit that no extension has asked for.
            connection.transport.write(b"\xf2\x00")
            connection.transport.resume_reading()
            await listener.gone.wait()
        (why,) = listener.losses
        assert why.startswith("the gateway broke the WebSocket protocol")

    run(main)


def test_a_transport_that_is_odd_or_gone_is_taken_for_closing() -> None:
    class Odd:
        def is_closing(self) -> bool:
            raise AttributeError("it has forgotten its loop")

    assert gateway_socket._is_closing(Odd())  # type: ignore[arg-type]


def test_a_system_without_the_option_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("socket.TCP_NOTSENT_LOWAT", raising=False)

    async def main() -> None:
        listener = Listener()
        async with gateway() as (url, _):
            socket = GatewaySocket(1, url, listener, Network())
            await listener.open.wait()
            await asyncio.wait([socket.abort()])
        assert not listener.losses

    run(main)
