"""``python -m inngest_connect_asgi.testing``: LocalGateway in the foreground."""

from __future__ import annotations

import argparse
import signal
import threading

from .gateway import LocalGateway

__all__ = ["main"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m inngest_connect_asgi.testing",
        description="A small Inngest on loopback, for tests and demos.",
    )
    parser.add_argument("--api-port", type=int, default=8288)
    parser.add_argument("--gateway-port", type=int, default=8289)
    parser.add_argument("--heartbeat-interval", default="10s", metavar="DURATION")
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with LocalGateway(
        api_port=options.api_port,
        gateway_port=options.gateway_port,
        heartbeat_interval=options.heartbeat_interval,
    ) as gateway:
        origin = gateway.origin
        print(f"LocalGateway at {origin}; INNGEST_DEV={origin}", flush=True)
        shown = 0
        while not ended.wait(0.1):
            for seen in gateway.seen[shown:]:
                print(seen, flush=True)
                shown += 1


if __name__ == "__main__":
    main()
