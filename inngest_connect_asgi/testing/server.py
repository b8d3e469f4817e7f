"""The parts of LocalGateway, and the thread that they live in."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ..health.embedded import listen
from ..protocol.wire import connect as wire
from .api import API
from .connection import Seen
from .executor import Executor
from .faults import Faults
from .log import Log
from .router import Router
from .sockets import Sockets

__all__ = ["Options", "Server"]

T = TypeVar("T")

START_TIMEOUT = 10.0


@dataclass(frozen=True)
class Options:
    """Those of :class:`LocalGateway`, which says what they are."""

    heartbeat_interval: str
    extend_lease_interval: str
    status_interval: str
    lease_duration: float
    signing_keys: tuple[str, ...]
    retry_delay: float
    honour_previous_lease: bool
    request_ids: Literal["dispatch", "job"]
    drain_timeout: float
    use_api: bool
    api_port: int
    gateway_port: int


class Server:
    """A Connect API, a gateway and an executor, in a thread with an event loop.

    Every public method may be called from any other thread, and blocks.
    """

    def __init__(self, options: Options) -> None:
        self.faults = Faults()
        self.log: Log[Seen] = Log()
        self.router = Router(
            self.log,
            self.faults,
            options.lease_duration,
            heartbeat_interval=options.heartbeat_interval,
            honour_previous_lease=options.honour_previous_lease,
            one_id_per_job=options.request_ids == "job",
        )
        self.executor = Executor(
            log=self.log,
            router=self.router,
            retry_delay=options.retry_delay,
            use_api=options.use_api,
        )
        self.sockets = Sockets(
            log=self.log,
            faults=self.faults,
            router=self.router,
            intervals=wire.GatewayConnectionReadyData(
                heartbeat_interval=options.heartbeat_interval,
                extend_lease_interval=options.extend_lease_interval,
                status_interval=options.status_interval,
            ),
            on_apps=self.executor.register,
            drain_timeout=options.drain_timeout,
        )
        self.api_port, self.gateway_port = options.api_port, options.gateway_port
        self._options = options
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: A port is taken.
        """
        options = self._options
        api_listener = listen("127.0.0.1", options.api_port)
        gateway_listener = listen("127.0.0.1", options.gateway_port)
        self.api_port = api_listener.getsockname()[1]
        self.gateway_port = gateway_listener.getsockname()[1]
        self.api = API(
            log=self.log,
            faults=self.faults,
            router=self.router,
            executor=self.executor,
            sockets=self.sockets,
            gateway_url=f"ws://127.0.0.1:{self.gateway_port}/v0/connect",
        )
        self.accept(*options.signing_keys)
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(
                self._run(api_listener, gateway_listener, started)
            ),
            name="local-gateway",
            daemon=True,
        )
        self._thread.start()
        started.wait(START_TIMEOUT)

    async def _run(
        self,
        api_listener: socket.socket,
        gateway_listener: socket.socket,
        started: threading.Event,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        await self.sockets.start(gateway_listener)
        await self.api.start(api_listener)
        started.set()
        await self._ended.wait()
        await self.api.stop()
        await self.sockets.stop()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            thread.join()

    def reset(self) -> None:
        self.wait(self._reset())

    async def _reset(self) -> None:
        self.faults.reset()
        if not self.api.is_up:
            await self.api.start(listen("127.0.0.1", self.api_port))
        await self.executor.reset()
        await self.sockets.reset()
        self.router.reset()
        self.log.clear()

    def accept(self, *signing_keys: str) -> None:
        self.api.hashed_signing_keys = {_hash(key) for key in signing_keys}

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        async def call() -> T:
            return function(*args)

        return self.wait(call())


def _hash(signing_key: str) -> str:
    prefix, hyphen, secret = signing_key.rpartition("-")
    return prefix + hyphen + hashlib.sha256(bytes.fromhex(secret)).hexdigest()
