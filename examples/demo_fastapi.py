"""The shop under uvicorn, beside LocalGateway: what happens, as it happens.

``scripts/demo`` runs it. It takes about half a minute, and stops by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import time
import timeit
from concurrent.futures import ThreadPoolExecutor, wait

import httpx
from server import say, serving

from inngest_connect_asgi.testing import LocalGateway

EXAMPLE = pathlib.Path(__file__).parent / "fastapi"

SECONDS = 5.0
INTERVAL = 1.0


def run_to_end(gateway: LocalGateway, event_id: str) -> None:
    run = gateway.wait_for_run(event_id, SECONDS * 10)
    for step in run.steps.values():
        say(f"  step {step.name}: {step.data!r}")
    say(f"  run {run.status}; output: {run.output!r}")
    if run.status != "completed":
        raise SystemExit(f"the run failed: {run.error}")


def watch(gateway: LocalGateway, url: str, path: str, **params: float) -> float:
    """Ask for a run, and print heartbeats until it has ended.

    Returns:
        The longest silence between them, in seconds.
    """
    start = time.monotonic()
    shown = len(gateway.received("WORKER_HEARTBEAT"))
    run = None
    with ThreadPoolExecutor(1) as pool:
        # The function may hold up the very answer to this.
        asked = pool.submit(post, url, path, params=params)
        while run is None:
            wait([asked], 0.05)
            if asked.done():
                with contextlib.suppress(TimeoutError):
                    run = gateway.wait_for_run(asked.result(), 0.05)
            beats = gateway.received("WORKER_HEARTBEAT")
            for beat in beats[shown:]:
                say(f"    {beat.time - start:5.2f} s  heartbeat")
            shown = len(beats)
    end = time.monotonic()
    say(f"    {end - start:5.2f} s  run {run.status}")
    if run.status != "completed":
        raise SystemExit(f"the run failed: {run.error}")
    beats = gateway.received("WORKER_HEARTBEAT")
    times = [beat.time for beat in beats if start < beat.time < end]
    return max(b - a for a, b in itertools.pairwise([start, *times, end]))


def size_for(seconds: float) -> int:
    """The size of a sum that takes about so long."""
    size = 20_000_000
    times = timeit.repeat(lambda: sum(range(size)), number=1, repeat=3)
    return int(size * seconds / min(times))


def post(url: str, path: str, **arguments: object) -> str:
    answer = httpx.post(url + path, timeout=30, **arguments)  # type: ignore[arg-type]
    answer.raise_for_status()
    event_id = answer.json()["event_ids"][0]
    assert isinstance(event_id, str)
    return event_id


def demonstrate(gateway: LocalGateway, isolation: str) -> dict[str, float]:
    """One life of the shop; returns the longest silences, in seconds."""
    silences = {}
    say(f"The shop under uvicorn, with isolation={isolation!r}")
    environ = {**gateway.environ, "INNGEST_CONNECT_ISOLATION": isolation}
    with serving("app:app", EXAMPLE, **environ) as url:
        connection = gateway.wait_for_worker(timeout=30)
        functions = ", ".join(sorted(gateway.functions))
        say(f"  connected as {connection.hello.instance_id}: {functions}")

        if isolation == "auto":
            say(f"\nPOST {url}/orders: a function of two steps")
            order = {"item": "teapot", "price": 19.5}
            run_to_end(gateway, post(url, "/orders", json=order))

            say(f"\nPOST {url}/reports: holds the event loop for {SECONDS:g} s")
            silence = watch(gateway, url, "/reports", seconds=SECONDS)
            silences["event loop held, auto"] = silence

        size = size_for(SECONDS)
        if isolation == "auto":
            say(f"\nPOST {url}/trainings: native code keeps the interpreter's lock")
            silence = watch(gateway, url, "/trainings", size=size)
            silences["native code, auto, the first time"] = silence
            gateway.wait_until(lambda: connection.phase == "closed", timeout=30)
            say("  the connection has moved to a process")
        say(f"\nPOST {url}/trainings: native code keeps the interpreter's lock")
        what = "auto, again" if isolation == "auto" else isolation
        silences[f"native code, {what}"] = watch(gateway, url, "/trainings", size=size)
        say("\nSIGTERM")
    gateway.wait_until(lambda: all(c.closed_at for c in gateway.connections))
    for connection in gateway.connections:
        reason = connection.close_reason or "by the gateway, which heard nothing"
        say(f"  connection {connection.number} closed: {reason}")
    say()
    return silences


def main() -> None:
    silences = {}
    for isolation in ("auto", "process"):
        with LocalGateway(
            heartbeat_interval=f"{INTERVAL}s",
            extend_lease_interval=f"{INTERVAL}s",
            lease_duration=4 * SECONDS,
        ) as gateway:
            silences.update(demonstrate(gateway, isolation))
    say(f"The longest silence between heartbeats, {INTERVAL:g} s apart:")
    for what, silence in silences.items():
        say(f"  {silence:5.2f} s  {what}")


if __name__ == "__main__":
    main()
