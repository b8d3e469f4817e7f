from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from inngest_connect_asgi import event_loop

from .hosts import ISOLATIONS
from .servers import ROOT

HANGS = """
import socket, threading
def look_up(host, *args, **kwargs):
    threading.Event().wait()
socket.getaddrinfo = look_up
"""


def end_of(script: str) -> str:
    """Run a script with a DNS that never answers; it is to end all the same."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_exit_does_not_wait_for_a_lookup() -> None:
    said = end_of(
        """
import asyncio
from inngest_connect_asgi import event_loop
async def main(loop):
    try:
        await asyncio.wait_for(loop.getaddrinfo("api.inngest.com", 443), 0.1)
    except asyncio.TimeoutError:
        print("given up")
event_loop.run(main)
"""
    )
    assert said == "given up\n"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_worker_stops_while_a_lookup_hangs(isolation: str) -> None:
    said = end_of(
        f"""
import asyncio, os
os.environ["INNGEST_DEV"] = "http://api.inngest.test:8288"
import inngest
from inngest_connect_asgi import connect_worker
client = inngest.Inngest(app_id="app")
@client.create_function(fn_id="f", trigger=inngest.TriggerEvent(event="f"))
async def function(ctx): ...
async def main():
    async with connect_worker(client, [function], isolation={isolation!r}):
        await asyncio.sleep(0.5)
    print("stopped")
asyncio.run(main())
"""
    )
    assert said == "stopped\n"


def test_the_doctor_ends_where_a_lookup_hangs() -> None:
    script = """
import os
os.environ["INNGEST_DEV"] = "http://api.inngest.test:8288"
from inngest_connect_asgi.commands import doctor
doctor.TIMEOUT = 0.5
from inngest_connect_asgi.__main__ import main
main(["doctor"])
"""
    assert "FAIL" in end_of(script)


def test_what_is_looked_up_is_found() -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 80)
        name, _ = await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
        assert name == "127.0.0.1"

    event_loop.run(main)


def fail() -> None:
    raise LookupError("what it raised")


def exit_() -> None:
    sys.exit(3)


def stop() -> None:
    raise StopIteration


@pytest.mark.parametrize(
    ("raises", "error"),
    [(fail, LookupError), (exit_, SystemExit), (stop, RuntimeError)],
)
def test_whatever_a_lookup_raises_is_told(
    raises: object, error: type[BaseException]
) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(error):
            await asyncio.wait_for(loop.run_in_executor(None, raises), 10)  # type: ignore[arg-type]

    event_loop.run(main)


def test_without_a_thread_the_lookup_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await loop.getaddrinfo("127.0.0.1", 80)
        monkeypatch.undo()

    event_loop.run(main)


def test_a_lookup_that_ends_after_its_loop_hurts_nobody() -> None:
    ends, ended = threading.Event(), threading.Event()

    def look_up() -> None:
        ends.wait()
        ended.set()

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_in_executor(None, look_up)

    event_loop.run(main)
    ends.set()
    assert ended.wait(10)
    for thread in threading.enumerate():
        if thread.name == "inngest-connect-lookup":
            thread.join(10)
