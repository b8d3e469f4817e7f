"""A worker that goes the way which the environment names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping

import inngest
import trustme

from inngest_connect_asgi import connect_worker
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.service import Worker

from .harness import close_http, make_function, off_loop
from .hostile import tunnel

__all__ = [
    "Authority",
    "clean",
    "doctor",
    "go",
    "last_error",
    "over_tls",
    "worker_for",
]


class Authority:
    """A certificate authority that nobody knows but whoever is told."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def hashed(self) -> pathlib.Path:
        """A directory with the certificate, by the name by which OpenSSL finds it."""
        directory = self.file.parent / "hashed"
        directory.mkdir()
        command = ["openssl", "x509", "-noout", "-hash", "-in", str(self.file)]
        name = subprocess.check_output(command, text=True).strip()
        self._ca.cert_pem.write_to_path(directory / f"{name}.0")
        return directory

    def server(self, name: str = "127.0.0.1") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(name).configure_cert(context)
        return context


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment that says nothing of proxies and authorities."""
    return {
        name: value
        for name, value in environ.items()
        if not name.lower().endswith("_proxy")
        and not name.startswith(("INNGEST_", "SSL_CERT_"))
        and name not in ("OPENSSL_CONF", "REQUEST_METHOD")
    }


@contextlib.contextmanager
def over_tls(gateway: LocalGateway, tls: ssl.SSLContext) -> Iterator[tuple[int, int]]:
    """TLS in front of a gateway: yields the ports of API and gateway.

    Only the API is told of by name; it names the other one.
    """
    with (
        tunnel(gateway.api_port, tls) as api_port,
        tunnel(gateway.gateway_port, tls) as gateway_port,
    ):
        before = gateway._server.api.gateway_url
        gateway._server.api.gateway_url = f"wss://127.0.0.1:{gateway_port}/v0/connect"
        try:
            yield api_port, gateway_port
        finally:
            gateway._server.api.gateway_url = before


def make_client(origin: str) -> inngest.Inngest:
    return inngest.Inngest(
        app_id="app",
        api_base_url=origin,
        event_api_base_url=origin,
        is_production=False,
        logger=None,
    )


def last_error(worker: Worker) -> str:
    return str(worker.health()["checks"]["connection:state"][0]["lastError"])


async def noop(ctx: inngest.Context) -> str:
    return "done"


async def go(gateway: LocalGateway, origin: str, timeout: float = 20.0) -> None:
    """Connect to a gateway by way of ``origin``, and run a function.

    Raises:
        StartupError: There was no connection in time; says why.
    """
    async with worker_for(origin) as worker:
        await worker.ready(timeout)
        await off_loop(gateway.wait_for_worker)
        reply = await off_loop(gateway.request("app-noop").wait_for_reply)
        assert reply.status == wire.DONE


@contextlib.asynccontextmanager
async def worker_for(origin: str) -> AsyncIterator[Worker]:
    """A worker that runs, whether it gets through or not."""
    client = make_client(origin)
    functions = [make_function(client, noop, fn_id="noop")]
    try:
        async with connect_worker(client, functions) as worker:
            yield worker
    finally:
        await close_http(client)


def doctor(
    environ: Mapping[str, str], *before: str
) -> subprocess.CompletedProcess[str]:
    """Run it with this environment, and nothing else that concerns the network.

    Args:
        before: A command that runs it.
    """
    return subprocess.run(
        [*before, sys.executable, "-m", "inngest_connect_asgi", "doctor"],
        env={**clean(os.environ), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def _connect(origin: str) -> None:
    async with worker_for(origin) as worker:
        await worker.ready(20)


if __name__ == "__main__":
    if "truststore" in sys.argv[2:]:
        import truststore

        truststore.inject_into_ssl()
    asyncio.run(_connect(sys.argv[1]))
    print("connected")
