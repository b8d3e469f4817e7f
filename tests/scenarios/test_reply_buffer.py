"""Thousands of runs end while the server is away."""

from __future__ import annotations

import time

import pytest

from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.testing.calls import call_request

from ..hosts import ISOLATIONS
from ..processes import children, peak_memory
from ..servers import Uvicorn

RUNS = 2_000
SIZE = 100_000
"""Bytes of each output: 200 MB in all."""
BATCH = 250
"""How many end at once."""
BOUND = 8 * 1024 * 1024


@pytest.mark.timeout(180)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_replies_that_wait_stay_within_their_bound(isolation: str) -> None:
    with (
        LocalGateway(
            heartbeat_interval="10s", extend_lease_interval="10m", lease_duration=1e4
        ) as gateway,
        Uvicorn(
            gateway.environ, isolation=isolation, reply_buffer_size=BOUND
        ) as server,
    ):

        def observed(name: str) -> int:
            checks = server.get("/healthz").json()["checks"]
            value: int = checks[name][0]["observedValue"]
            return value

        def wait_until_observed(name: str, wanted: int) -> None:
            deadline = time.monotonic() + 60
            while (value := observed(name)) != wanted:
                assert time.monotonic() < deadline, f"{name} is still {value}"
                time.sleep(0.1)

        gateway.wait_for_worker()
        request = call_request(data={"size": SIZE})
        requested = [
            gateway.request("app-hold", request).request_id for _ in range(RUNS)
        ]
        gateway.wait_until(lambda: len(gateway.executions) == RUNS, 60)
        pids = [server.pid, *children(server.pid)]

        gateway.api_down()
        gateway.drop()
        # What is on its way through the worker all at once is not in the buffer.
        for ended in range(BATCH, RUNS + 1, BATCH):
            server.post(f"/release?count={BATCH}")
            wait_until_observed("requests:done", ended)
            if ended == 2 * BATCH:
                # Twice as much as fits, and all that a batch itself takes.
                before = [peak_memory(pid) for pid in pids]
        waiting, given_up = observed("replies:waiting"), observed("replies:givenUp")
        assert waiting + given_up == RUNS
        # Up to four may be on their way to the API, and can't be given up.
        assert BOUND * 0.9 < waiting * SIZE < BOUND + 4 * SIZE
        for pid, peak in zip(pids, before, strict=True):
            # Without a bound it would be nearly all of them.
            assert peak_memory(pid) - peak < RUNS * SIZE / 2

        gateway.api_up()
        wait_until_observed("replies:waiting", 0)
        assert observed("replies:flushed") + observed("replies:givenUp") == RUNS
        given_up = observed("replies:givenUp")
        assert server.log.count("Gave up a reply") == given_up
        assert set(gateway.replies) >= set(requested[-(waiting - 4) :])
        assert len(gateway.replies) == RUNS - given_up
