"""How fast the probe server answers while the app's event loop is held up.

    python -m benchmarks.probe

For each isolation: a web app under uvicorn runs a function that holds its event
loop for ten seconds; in that time the probe server is asked fifty times.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time

from inngest_connect_asgi.testing import LocalGateway
from tests.servers import Uvicorn

SECONDS = 10
REQUESTS = 50
PORT = 18081


def ask(path: str) -> int:
    """A connection for every request, as the kubelet does it."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def measure(isolation: str) -> None:
    with LocalGateway(heartbeat_interval="1s") as gateway:
        options = {"isolation": isolation, "probe": f"127.0.0.1:{PORT}"}
        with Uvicorn(gateway.environ, **options):
            gateway.wait_for_worker()
            while ask("/healthz/ready") != 200:
                time.sleep(0.1)
            event_id = gateway.send("sleep", {"seconds": SECONDS})
            gateway.wait_until(lambda: gateway.received("WORKER_REQUEST_ACK"))
            times, wrong = [], 0
            start = time.monotonic()
            for number in range(REQUESTS):
                path = ("/healthz/ready", "/healthz/live")[number % 2]
                asked = time.perf_counter()
                wrong += ask(path) != 200
                times.append(time.perf_counter() - asked)
                time.sleep(max(0.0, start + (number + 1) * 0.19 - time.monotonic()))
            gateway.wait_for_run(event_id, 20)
    print(
        f"{isolation:8} median {statistics.median(times) * 1000:5.1f} ms, "
        f"slowest {max(times) * 1000:5.1f} ms, wrong answers {wrong}"
    )


if __name__ == "__main__":
    for isolation in ("thread", "process"):
        measure(isolation)
