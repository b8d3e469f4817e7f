"""The workers that are held against each other, each with its load generator."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx
from typing_extensions import Self

from tests.servers import Uvicorn

from .generator import Generator
from .processes import Memory, cpu_seconds, memory, tree

__all__ = [
    "APP",
    "NODE",
    "TITLES",
    "Target",
    "names",
    "node_version",
    "typescript_missing",
]

ROOT = pathlib.Path(__file__).parent.parent
APP = "benchmarks.app:app"
NODE = ROOT / "benchmarks" / "typescript"
READY_TIMEOUT = 30.0

TITLES = {
    "official": "`inngest.connect`",
    "thread": "this worker, thread",
    "interpreter": "this worker, interpreter",
    "process": "this worker, process",
    "serve": "serve, under uvicorn",
    "typescript": "TypeScript's SDK",
    "echo": "nothing but the wire",
    "none": "the bare app",
}


@functools.cache
def node_version() -> str:
    """As Node gives it, such as ``v22.1.0``; empty where there is none."""
    node = shutil.which("node")
    if node is None:
        return ""
    done = subprocess.run([node, "--version"], capture_output=True, text=True)
    return done.stdout.strip()


@functools.cache
def typescript_missing() -> str | None:
    """Why TypeScript's SDK can't be measured here, if so."""
    if not node_version():
        return "there is no Node"
    if not (NODE / "node_modules" / "inngest").exists():
        return "its packages are not installed (npm ci in benchmarks/typescript)"
    try:
        with Target("typescript") as target:
            target.wait_ready()
    except RuntimeError:
        return f"its worker does not get ready on Node {node_version()}"
    return None


def node_options() -> dict[str, str]:
    """What Node needs to have a WebSocket, which it has of itself since 22."""
    if int(node_version().lstrip("v").split(".")[0]) < 22:
        return {"NODE_OPTIONS": "--experimental-websocket"}
    return {}


def names() -> list[str]:
    """Which workers can be measured here."""
    found = ["official", "thread", "process", "serve"]
    if sys.version_info >= (3, 14):
        found.insert(2, "interpreter")
    if typescript_missing() is None:
        found.append("typescript")
    return found


class Target:
    """A worker in an app of its own, and the generator that loads it.

    Leaving the context ends both.

    Args:
        name: A key of :data:`TITLES`.
        loop: uvicorn's ``--loop``.
        environ: Further environment for the app.
        options: For the middleware, where there is one.
    """

    def __init__(
        self,
        name: str,
        *,
        loop: str = "asyncio",
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.generator: Generator
        self._server: Uvicorn | None = None
        self._process: subprocess.Popen[bytes] | None = None
        connects = name not in ("serve", "none")
        if connects:
            self.generator = Generator("connect")
        self.started_at = time.monotonic()
        if name == "echo":
            origin = self.generator.environ["INNGEST_DEV"]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.echo", origin], cwd=ROOT
            )
        elif name == "typescript":
            self._process = subprocess.Popen(
                ["node", "worker.mjs"],
                cwd=NODE,
                env={**os.environ, **self.generator.environ, **node_options()},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        else:
            if name in ("thread", "interpreter", "process"):
                options["isolation"] = name
            dev = self.generator.environ if connects else {"INNGEST_DEV": "1"}
            self._server = Uvicorn(
                {"BENCHMARK_WORKER": name, **dev, **(environ or {})},
                "--no-access-log",
                f"--loop={loop}",
                app=APP,
                **options,
            )
        if name == "serve":
            self.generator = Generator("serve", f"{self.url}/api/inngest")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._server is not None:
            self._server.__exit__(exc_type, exc_value, traceback)
        if self.name != "none":
            self.generator.close()

    @property
    def url(self) -> str:
        """Of the web app."""
        assert self._server is not None
        return self._server.url

    @property
    def pids(self) -> list[int]:
        """The worker's processes, and its app's."""
        process = self._process if self._server is None else self._server
        assert process is not None
        return tree(process.pid)

    @property
    def connects(self) -> bool:
        return self.name not in ("serve", "none")

    def expected(self, status: int) -> int:
        """The status of a reply, where Python's SDK says ``status``."""
        if self.name == "echo":
            return 200
        # A finished run is a report of steps there as well.
        return 206 if self.name == "typescript" else status

    def wait_ready(self) -> float:
        """Wait until requests can come; returns the seconds since its start."""
        if self.connects:
            live = self.generator.ask("wait_live", timeout=READY_TIMEOUT)
            at: float = live["at"]
            return at - self.started_at
        httpx.get(f"{self.url}/ping").raise_for_status()
        return time.monotonic() - self.started_at

    def memory(self) -> Memory:
        return memory(*self.pids)

    def cpu_seconds(self) -> float:
        return cpu_seconds(*self.pids)
