"""The load generator: the server's half of Connect, or a client of serve.

A process of its own, which takes commands as lines of JSON from standard input and
answers each with one. :class:`Generator` is the other end of that.

    python -m benchmarks.generator connect
    python -m benchmarks.generator serve http://127.0.0.1:8000/api/inngest
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from .gateway import Gateway
from .lean import new_event_loop
from .load import Load
from .serve import ServeClient

__all__ = ["DESCRIPTORS", "Generator", "allow_descriptors"]

DESCRIPTORS = 16384
"""Open files, for a connection per request in flight."""


def allow_descriptors() -> None:
    """Raise the limit on open files, for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def obey(arguments: list[str]) -> None:
    loop = asyncio.get_running_loop()
    load = Load()
    gateway = None
    if arguments[0] == "connect":
        load.lane = gateway = Gateway(load)
        print(json.dumps({"port": await gateway.listen()}), flush=True)
    else:
        load.lane = ServeClient(load, arguments[1])
        print(json.dumps({}), flush=True)

    async def answer(command: dict[str, Any]) -> Any:
        kind = command.pop("do")
        if kind in ("run", "hold"):
            lanes = command["count"]
            await load.lane.prepare(
                command["app"], command["function"], command["size"], lanes
            )
        if kind == "run":
            return await load.run(
                command["count"], command["seconds"], command["expected"]
            )
        if kind == "hold":
            return load.hold(command["count"])
        if kind == "collect":
            return await load.collect()
        assert gateway is not None
        if kind == "wait_live":
            await gateway.wait_live(command["timeout"])
            return {"at": gateway.live_at, "registered": gateway.registered}
        return await {"drop": gateway.drop, "drain": gateway.drain}[kind]()

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            result = {"result": await answer(json.loads(line))}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


class Generator:
    """A load generator in a process of its own.

    Raises:
        RuntimeError: From every method: what was asked for did not come about.
    """

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generator", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port: int = self._read().get("port", 0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def environ(self) -> Mapping[str, str]:
        """What leads a worker here."""
        return {"INNGEST_DEV": f"http://127.0.0.1:{self.port}"}

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        return json.loads(line)

    def begin(self, command: str, **arguments: Any) -> None:
        """Give a command without waiting for what comes of it."""
        assert self._process.stdin is not None
        line = json.dumps({"do": command, **arguments})
        print(line, file=self._process.stdin, flush=True)

    def end(self) -> Any:
        """Wait for what came of the command."""
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def ask(self, command: str, **arguments: Any) -> Any:
        self.begin(command, **arguments)
        return self.end()

    def begin_run(
        self,
        function: str,
        count: int,
        seconds: float,
        *,
        app: str = "app",
        size: int = 0,
        expected: int = 200,
    ) -> None:
        """Keep ``count`` requests in flight for so long, and let them end."""
        self.begin(
            "run",
            app=app,
            function=function,
            size=size,
            count=count,
            seconds=seconds,
            expected=expected,
        )

    def run(self, function: str, count: int, seconds: float, **options: Any) -> Any:
        self.begin_run(function, count, seconds, **options)
        return self.end()

    def hold(self, function: str, count: int) -> None:
        """Send ``count`` requests that wait, until :meth:`collect`."""
        self.ask("hold", app="app", function=function, size=0, count=count)

    def collect(self) -> None:
        self.ask("collect")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    allow_descriptors()
    new_event_loop().run_until_complete(obey(sys.argv[1:]))
