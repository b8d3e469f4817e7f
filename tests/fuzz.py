"""Whatever the network sends, the worker answers the next good request.

    python -m tests.fuzz [--seconds 60] [target ...]

Each target is a function that takes any bytes, and fails when a promise is broken.
Coverage-guided by atheris, where that installs, each in a process of its own;
otherwise the same targets are fed mutated seeds at random, and that is said.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import importlib
import importlib.util
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import FunctionType
from typing import Any

import inngest

from inngest_connect_asgi.health import page
from inngest_connect_asgi.health.report import Health
from inngest_connect_asgi.isolation import pipe
from inngest_connect_asgi.messages import Outcome, Request
from inngest_connect_asgi.network.access import Network
from inngest_connect_asgi.protocol import frames
from inngest_connect_asgi.protocol.actions import Send, SendReply
from inngest_connect_asgi.protocol.durations import parse_duration
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.runtime.gateway_socket import GatewaySocket
from inngest_connect_asgi.worker.runner import FunctionRunner

from .protocol.wire import judge
from .simulation import Simulation, frame, lease

__all__ = ["TARGETS", "seeds"]

MESSAGES = (
    wire.StartResponse,
    wire.GatewayConnectionReadyData,
    wire.GatewayExecutorRequestData,
    wire.WorkerReplyAckData,
    wire.WorkerRequestExtendLeaseAckData,
    wire.SystemError,
)


class Script:
    """Arbitrary bytes, read as numbers, bytes and text until none are left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def number(self) -> int:
        if not self:
            return 0
        self._position += 1
        return self._data[self._position - 1]

    def chunk(self) -> bytes:
        length = self.number()
        self._position += length
        return self._data[self._position - length : self._position]

    def text(self) -> str:
        return self.chunk().decode(errors="replace")

    def rest(self) -> bytes:
        rest, self._position = self._data[self._position :], len(self._data)
        return rest


def fuzz_frames(data: bytes) -> None:
    """Anything is a message or malformed."""
    try:
        message = frames.decode(data)
    except frames.Malformed:
        pass
    else:
        data = message.payload
    for kind in MESSAGES:
        try:
            frames.parse(kind, data)
        except frames.Malformed:
            continue
    try:
        request = frames.executor_request(data)
    except frames.Malformed:
        return
    assert request.app_name
    # What is said about a request echoes it, whatever is in it.
    frames.decode(frames.request_ack(request.lease))
    frames.decode(frames.extend_lease(request.lease))
    frames.reply(request.lease, Outcome(200, b""))


def fuzz_codec(data: bytes) -> None:
    """Anything is read, or refused, as protobuf does it."""
    for kind in judge.CLASSES:
        judge.agree(kind, data)


def fuzz_durations(data: bytes) -> None:
    """Anything is a number of seconds that a clock can take, or a ValueError."""
    try:
        seconds = parse_duration(data.decode(errors="replace"))
    except ValueError:
        return
    assert 0.0 <= seconds < 1e80


def fuzz_core(data: bytes) -> None:
    """No order of events and no bytes make the core raise, or spin."""
    script = Script(data)
    sim = Simulation(signing_key="key", signing_key_fallback="other")
    if script.number() % 2:
        sim.connect()
    results = 0
    while script and not sim.finished:
        op = script.number() % 16
        if op == 0:
            sim.advance(script.number() / 8)
        elif op == 1 and sim.starts:
            status = (200, 401, 429, 500)[script.number() % 4]
            sim.start_answer(status, body=script.chunk())
        elif op == 2 and sim.starts:
            sim.start_answer(group=script.text())
        elif op == 3 and sim.opening:
            sim.open()
        elif op == 4:
            for link in list(sim.queued):
                sim.write(link)
        elif op == 5 and sim.queued:
            sim.lose(_pick(script, sim.queued), script.text())
        elif op == 6 and (sim.starts or sim.opening):
            sim.lose(_pick(script, sim.starts or sim.opening), script.text())
        elif op == 7 and sim.flushes:
            request_id = sorted(sim.flushes)[script.number() % len(sim.flushes)]
            sim.flush_answer(request_id, (200, 401, 400, 500)[script.number() % 4])
        elif op == 8 and sim.queued:
            sim.request(_pick(script, sim.queued), f"r{script.number() % 8}")
        elif op == 9:
            for request_id in list(sim.requested)[results:]:
                results += 1
                sim.result(request_id)
        elif op == 10:
            sim.pong()
        elif op == 11:
            sim.drain(script.number() / 8)
        elif op == 12 and sim.queued:
            text = script.text()
            sim.do(sim.core.received(_pick(script, sim.queued), text, sim.now))
        elif op == 13 and sim.queued:
            raw = script.chunk()
            sim.do(sim.core.received(_pick(script, sim.queued), raw, sim.now))
        elif sim.queued:
            # As a kind of message, or its handshake would hardly be found.
            kind = script.number() % 18
            sim.receive(_pick(script, sim.queued), kind, script.chunk())
        sim.advance(0.0)
    for message in sim.told:
        list(pipe.Decoder().feed(bytes(pipe.encode(message))))
    if not sim.core.parts.stopping:
        _a_good_request_runs(sim)


def _pick(script: Script, links: Iterable[int]) -> int:
    choice = sorted(links)
    return choice[script.number() % len(choice)]


def _a_good_request_runs(sim: Simulation) -> None:
    """From wherever it is: the server is well again."""
    sim.pong()
    for link in {*sim.starts, *sim.opening, *sim.queued}:
        sim.lose(link)
    for _ in range(100):
        if sim.starts:
            break
        sim.advance(1.0)
    link = sim.connect()
    assert sim.state.connection == "ready", sim.state
    before = sim.requested["good"]
    assert not before
    sim.request(link, "good")
    sim.write(link)
    assert sim.requested["good"] == 1
    sim.result("good")
    sim.write(link)
    sim.ack(link, "good")
    assert "good" in sim.delivered


def fuzz_health(data: bytes) -> None:
    """Whatever is told of the server, report and page show it as text."""
    script = Script(data)
    text = _show(*(script.text() for _ in range(5)))
    text.encode()
    # Nothing adds a tag to those that plain words make.
    tags = set(_tags(text)) - set(_tags(_show(*("word" for _ in range(5)))))
    assert not tags, tags


def _show(group: str, request_id: str, function: str, run: str, reason: str) -> str:
    """The page, of a worker that was told all this."""
    sim = Simulation()
    health = Health(wedge_timeout=None, clock=lambda: sim.now)
    sim.start_answer(group=group)
    link = sim.open()
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.write(link)
    sim.ready(link)
    request = wire.GatewayExecutorRequestData(
        request_id=request_id or "r",
        app_name="app",
        function_slug=function,
        run_id=run,
    )
    sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST, request.SerializeToString())
    sim.write(link)
    sim.advance(1.0)
    health.update(sim.state)
    sim.lose(link, reason)
    health.update(sim.state)
    json.dumps(health.report(details=True)).encode()
    return page.render(health)


def _tags(text: str) -> list[str]:
    return re.findall(r"<\s*/?\s*([^\s>/]+)", text)


class _Runner:
    """The SDK, with a function of each kind; made once."""

    def __init__(self) -> None:
        client = inngest.Inngest(
            app_id="app",
            api_base_url="http://127.0.0.1:9",
            is_production=False,
            logger=None,
        )

        @client.create_function(fn_id="a", trigger=inngest.TriggerEvent(event="a"))
        async def function(ctx: inngest.Context) -> str:
            return await ctx.step.run("step", _step)

        @client.create_function(fn_id="s", trigger=inngest.TriggerEvent(event="s"))
        def sync_function(ctx: inngest.ContextSync) -> str:
            return ctx.step.run("step", lambda: "done")

        self._runner = FunctionRunner(client, [function, sync_function])
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(1)

    def run(self, function: str, step: str | None, payload: bytes) -> Outcome:
        about = replace(lease("r"), function_slug=function, step_id=step)
        request = Request(about, "app", "job", payload)
        return self._loop.run_until_complete(self._runner.run(request, self._pool))


async def _step() -> str:
    return "done"


_runner: _Runner | None = None


def fuzz_sdk(data: bytes) -> None:
    """Any payload of a request has an outcome, and so has the next good one."""
    global _runner
    runner = _runner = _runner or _Runner()
    script = Script(data)
    choice = script.number() % 3
    function = ("app-a", "app-s")[choice] if choice < 2 else script.text()
    step = script.text() if script.number() % 2 else None
    payload = script.rest() if script.number() % 2 else _distorted(script)
    if b'"use_api"' in payload and b"true" in payload:
        # It would ask an API that is not there.
        return
    outcome = runner.run(function, step, payload)
    assert outcome.status in (200, 206, 500)
    json.loads(outcome.body)
    frames.reply(lease("r"), outcome)
    assert runner.run("app-a", "step", GOOD_PAYLOAD).status == 206


def _distorted(script: Script) -> bytes:
    """A good payload with other values in some places."""
    payload = json.loads(GOOD_PAYLOAD)
    while script:
        place = payload
        for _ in range(script.number() % 4):
            inner = [each for each in place.values() if isinstance(each, dict)]
            if inner:
                place = inner[script.number() % len(inner)]
        names = [*place, "step", "_inngest"]
        odd: tuple[Any, ...] = (
            None,
            0,
            -1,
            1e300,
            "",
            [],
            {},
            [None],
            {"data": 1},
            {"error": {}},
            "x",
        )
        place[names[script.number() % len(names)]] = copy.deepcopy(
            [*odd, {"type": "data"}, script.text()][script.number() % (len(odd) + 2)]
        )
    return json.dumps(payload).encode()


GOOD_PAYLOAD = json.dumps(
    {
        "ctx": {
            "attempt": 0,
            "disable_immediate_execution": True,
            "run_id": "run",
            "stack": {"stack": []},
        },
        "event": {"id": "e", "name": "a", "data": {}, "ts": 1},
        "events": [{"id": "e", "name": "a", "data": {}, "ts": 1}],
        "steps": {},
        "use_api": False,
    }
).encode()


class _Listener:
    def __init__(self) -> None:
        self.losses: list[str] = []

    def opened(self, link: int) -> None:
        pass

    def received(self, link: int, messages: Sequence[bytes | str]) -> None:
        pass

    def wants(self, frame: Send | SendReply) -> bool:
        return True

    def sent(self, frames: Iterable[Send | SendReply]) -> None:
        for _ in frames:
            pass

    def lost(self, link: int, reason: str) -> None:
        self.losses.append(reason)


class _Sockets:
    """A server that says what it is told to, on a loop of its own; made once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._answer = (False, b"")
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        self._url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upgrade, data = self._answer
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if upgrade:
                from websockets.utils import accept_key

                match = re.search(rb"Sec-WebSocket-Key: (\S+)", request)
                assert match is not None
                data = (
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\n"
                    "Sec-WebSocket-Protocol: v0.connect.inngest.com\r\n"
                    f"Sec-WebSocket-Accept: {accept_key(match[1].decode())}\r\n\r\n"
                ).encode() + data
            writer.write(data)
            writer.write_eof()
            # Until the client has gone, or what is left unread resets it.
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def connect(self, upgrade: bool, data: bytes) -> list[str]:
        self._answer = (upgrade, data)
        return self._loop.run_until_complete(self._connect())

    async def _connect(self) -> list[str]:
        listener = _Listener()
        socket = GatewaySocket(1, self._url, listener, Network())
        await asyncio.wait_for(asyncio.wait({socket._task}), 10)
        if not socket._task.done():
            raise TimeoutError("it hangs")
        socket._task.result()
        return listener.losses


_sockets: _Sockets | None = None


def fuzz_socket(data: bytes) -> None:
    """Whatever is at the other end, a socket is lost once, with a reason."""
    global _sockets
    sockets = _sockets = _sockets or _Sockets()
    losses = sockets.connect(data[:1] != b"h", data[1:])
    assert len(losses) == 1
    assert losses[0]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": fuzz_frames,
    "codec": fuzz_codec,
    "durations": fuzz_durations,
    "core": fuzz_core,
    "health": fuzz_health,
    "sdk": fuzz_sdk,
    "socket": fuzz_socket,
}


def _chunk(data: bytes) -> bytes:
    data = data[:255]
    return bytes([len(data)]) + data


def seeds(target: str) -> list[bytes]:
    """Something sensible to begin with."""
    request = wire.GatewayExecutorRequestData(
        request_id="r1",
        lease_id="l",
        app_name="app",
        function_slug="app-f",
        step_id="step",
        request_payload=b"{}",
        system_trace_ctx=b"{}",
    ).SerializeToString()
    ready = wire.GatewayConnectionReadyData(
        heartbeat_interval="10s", extend_lease_interval="5s", status_interval="1m0s"
    ).SerializeToString()
    failed = wire.SystemError(code="c", message="m").SerializeToString()
    start = wire.StartResponse(
        connection_id="c", gateway_endpoint="ws://gateway.test", gateway_group="g"
    ).SerializeToString()
    if target == "frames":
        return [
            frame(wire.GATEWAY_EXECUTOR_REQUEST, request),
            frame(wire.GATEWAY_CONNECTION_READY, ready),
            *(request, ready, failed, start),
        ]
    if target == "codec":
        hello = wire.WorkerConnectRequestData(
            auth_data=wire.AuthData(session_token="s"),
            apps=[wire.AppConfiguration(app_name="a")],
            started_at=wire.Timestamp(seconds=1, nanos=-1),
            max_worker_concurrency=300,
        ).SerializeToString()
        status = wire.WorkerStatusData(
            in_flight_request_ids=["r1", "r2"], shutdown_requested=True
        ).SerializeToString()
        group = b"\x0b\x13\x08\x01\x14\x0c"
        return [*(request, ready, failed, start, hello, status), group, group * 2]
    if target == "durations":
        return [b"10s", b"1m30s", b"1.5h", b"500ms", "3µs".encode(), b"0", b"1d2w"]
    if target == "core":
        opened = bytes([0, 1, 0]) + _chunk(start) + bytes([3])
        greeted = opened + bytes([14, 0, 0]) + _chunk(b"") + bytes([4])
        live = greeted + bytes([14, 2]) + bytes([0]) + _chunk(ready) + bytes([4])
        asked = bytes([1, 8, 0, 1, 4, 9, 4, 0, 80])
        return [
            *(opened, greeted, live, asked),
            live + bytes([14, 3, 0]) + _chunk(request) + bytes([4, 9, 0, 200]),
            asked + bytes([14, 11, 0, 0, 0, 8, 2, 0, 3]),
            asked + bytes([5, 0]) + _chunk(b"connect_authentication_failed"),
            asked + bytes([0, 100, 7, 0, 3, 0, 255, 7, 0, 0]),
            bytes([1, 13]) + _chunk(b"\xff\xff") + bytes([0]),
            bytes([1, 8, 0, 1, 4, 11, 40, 0, 80, 9, 4, 0, 20]),
        ]
    if target == "health":
        parts = (b"group", b"<script>", b"app-f", b"\xe2\x80\xae&", b"\"'><b>")
        return [b"".join(map(_chunk, parts))]
    if target == "sdk":
        return [
            bytes([0, 0, 1]) + GOOD_PAYLOAD,
            bytes([1, 1]) + _chunk(b"step") + bytes([1]) + GOOD_PAYLOAD,
            bytes([0, 0, 1]) + b"{}",
            bytes([0, 0, 0, 0, 0, 1]),
            bytes([1, 0, 0, 1, 0, 2, 6, 2, 0, 0, 0, 3]),
        ]
    return [
        b"w" + bytes([0x82, 2]) + b"\x08\x00",
        b"w" + bytes([0x88, 6]) + b"\x03\xe8" + b"done",
        b"w" + bytes([0x88, 2]) + b"\x03\xed",
        b"w" + bytes([0x81, 1]) + b"x" + bytes([0x89, 0]),
        b"w" + bytes([0x82, 127]) + (1 << 40).to_bytes(8, "big"),
        b"hHTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno",
        b"hHTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\n\r\n",
        b"hHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ]


# Running them.


def mutations(corpus: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Seeds with some of their bytes changed, for ever."""
    yield from corpus
    while True:
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.randint(1, 8)):
            position = rng.randint(0, len(data))
            change = rng.randrange(4)
            if change == 0:
                data[position : position + rng.randint(1, 8)] = b""
            elif change == 1:
                data[position:position] = rng.randbytes(rng.randint(1, 8))
            elif change == 2:
                data[position : position + 1] = rng.randbytes(1)
            else:
                data[position:position] = rng.choice(corpus)
        yield bytes(data[:4096])


def run_at_random(target: str, seconds: float) -> int:
    """Returns how many times it ran."""
    function, corpus = TARGETS[target], seeds(target)
    deadline, executions = time.monotonic() + seconds, 0
    for data in mutations(corpus, random.Random(0)):
        try:
            function(data)
        except BaseException:
            print(f"{target} fails on {data!r}")
            raise
        executions += 1
        if time.monotonic() > deadline:
            break
    return executions


def run_guided(target: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    atheris: Any = importlib.import_module("atheris")
    for function in _functions_to_guide():
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def _functions_to_guide() -> Iterator[FunctionType]:
    """All of this package's, of the SDK's and of websockets', methods included."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(
            ("inngest_connect_asgi.", "inngest._internal.", "websockets.")
        ):
            continue
        for value in list(vars(module).values()):
            if getattr(value, "__module__", None) != name:
                continue
            members = list(vars(value).values()) if isinstance(value, type) else []
            for each in (value, *members):
                if isinstance(each, (staticmethod, classmethod)):
                    each = each.__func__
                if isinstance(each, FunctionType):
                    yield each


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="target", help=" ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="in all")
    parser.add_argument("--guided", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if arguments.guided is not None:
        run_guided(targets[0], arguments.guided)
    each = max(1.0, arguments.seconds / len(targets))
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print(
            "ATHERIS IS NOT INSTALLED HERE: the targets are fed seeds changed at "
            "random, and no coverage guides that. It finds much less."
        )
    failed = []
    for target in targets:
        if guided:
            executions, clean = _spawn_guided(target, int(each))
        else:
            executions, clean = run_at_random(target, each), True
        print(f"{target}: {executions} executions, {'clean' if clean else 'FAILED'}")
        if not clean:
            failed.append(target)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _spawn_guided(target: str, seconds: int) -> tuple[int, bool]:
    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(seeds(target)):
            pathlib.Path(directory, str(number)).write_bytes(seed)
        process = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "tests.fuzz", target),
                *("--guided", f"-max_total_time={seconds}", "-max_len=4096"),
                *("-print_final_stats=1", "-timeout=30"),
                *(f"-artifact_prefix={directory}/", directory),
            ],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    match = re.search(r"number_of_executed_units: (\d+)", process.stdout)
    executions = int(match[1]) if match else 0
    # An end by an exception of the target is none of libFuzzer's own.
    clean = process.returncode == 0 and executions > 0
    if not clean:
        print(process.stdout[-8000:])
    return executions, clean


if __name__ == "__main__":
    main()
