"""A fork of the app holds no connection, no port and no pipe of ours."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable

import pytest

from inngest_connect_asgi import forks
from inngest_connect_asgi.event_loop import EventLoop
from inngest_connect_asgi.testing import LocalGateway

from ..processes import descriptors
from ..servers import free_port


def in_fork(check: Callable[[], object]) -> None:
    """Run a check in a fork of this process."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Of 3.12 on: this process has threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    assert not said, said


def check_gone(numbers: Iterable[int]) -> None:
    for number in numbers:
        assert os.readlink(f"/proc/self/fd/{number}") == "/dev/null", number


def run(main: Callable[[EventLoop], Awaitable[None]]) -> None:
    loop = EventLoop()
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.close()


def test_what_a_loop_has_is_not_in_a_fork() -> None:
    async def main(loop: EventLoop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            loop.add_reader(listener, lambda: None)
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *listener.getsockname()
            )
            # As a pooled connection is, that nobody reads from.
            transport.pause_reading()
            connection = transport.get_extra_info("socket").fileno()
            epoll = loop._selector.fileno()  # type: ignore[attr-defined]
            ours = [connection, listener.fileno(), epoll]
            in_fork(lambda: check_gone(ours))
            # This process has them still.
            with pytest.raises(AssertionError):
                check_gone(ours[:1])
            transport.abort()
            assert loop.remove_reader(listener)

    run(main)


def test_what_is_written_after_a_fork_still_arrives() -> None:
    async def main(loop: EventLoop) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            got: asyncio.Future[bytes] = loop.create_future()
            loop.add_reader(ours, lambda: got.set_result(ours.recv(9)))
            number = ours.fileno()
            in_fork(lambda: check_gone([number]))
            theirs.send(b"hello")
            assert await asyncio.wait_for(got, 10) == b"hello"
            assert loop.remove_reader(ours)

    run(main)


def test_a_number_that_is_somebody_elses_by_now_is_left_alone(
    tmp_path: pathlib.Path,
) -> None:
    sock = socket.socket()
    forks.hold(sock)
    number = sock.fileno()
    sock.close()
    theirs = os.open(tmp_path / "theirs", os.O_CREAT)
    if theirs != number:
        os.dup2(theirs, number)
        os.close(theirs)

    def check() -> None:
        link = os.readlink(f"/proc/self/fd/{number}")
        assert link == str(tmp_path / "theirs")

    in_fork(check)
    os.close(number)


def test_a_closed_loop_hurts_no_fork() -> None:
    loop = EventLoop()
    selector = loop._selector  # type: ignore[attr-defined]
    loop.close()
    in_fork(lambda: None)
    del selector


APP = """
import asyncio, multiprocessing, os, sys, time
import inngest
from inngest_connect_asgi import connect_worker

isolation, how, probe = sys.argv[1:]
client = inngest.Inngest(app_id="app", logger=None)
trigger = inngest.TriggerEvent(event="x")

@client.create_function(fn_id="f", trigger=trigger)
async def f(ctx):
    return "done"

def linger():
    print(os.getpid(), flush=True)
    time.sleep(600)

async def main():
    options = {"isolation": isolation, "probe": probe}
    async with connect_worker(client, [f], **options) as worker:
        await worker.ready(30)
        if how == "os":
            if os.fork() == 0:
                linger()
        else:
            context = multiprocessing.get_context("fork")
            context.Process(target=linger, daemon=True).start()
        await asyncio.Event().wait()

asyncio.run(main())
"""


OURS: dict[str, set[str]] = {
    "thread": {"socket", "anon_inode"},
    "process": {"pipe"},
    # It is closed before the fork, with all that it has.
    "interpreter": set(),
}


def wait_free(port: int, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
def test_when_an_app_is_killed_its_fork_keeps_nothing_of_ours(
    gateway: LocalGateway, isolation: str, how: str
) -> None:
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            APP,
            isolation,
            how,
            f"127.0.0.1:{port}",
        ],
        env={**os.environ, **gateway.environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    fork = 0
    with process:
        try:
            assert process.stdout is not None
            fork = int(process.stdout.readline())
            connection = gateway.wait_for_worker()
            mine, theirs = descriptors(process.pid), descriptors(fork)
            gone = [
                mine.get(fd, "").partition(":")[0]
                for fd, name in theirs.items()
                if name == "/dev/null"
            ]
            # And what multiprocessing itself lets go of.
            assert OURS[isolation] <= set(gone), gone
            process.kill()
            process.wait()
            gateway.wait_until(lambda: connection.phase == "closed")
            wait_free(port)
        finally:
            process.kill()
            if fork:
                os.kill(fork, signal.SIGKILL)
