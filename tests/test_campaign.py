"""The fault campaign, in short; ``scripts/faults`` runs the long one."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from inngest_connect_asgi.worker.config import Isolation

from .campaign import campaign


@pytest.mark.timeout(150)
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_no_reply_is_lost_and_nothing_runs_twice(isolation: Isolation) -> None:
    # A process of its own: it sets up a tracer provider, which nothing can undo.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        ledger = pool.submit(campaign, 1, 500, isolation).result()
    assert ledger.clean, ledger.complaint()
    assert ledger.acked > 400
    assert sum(ledger.faults.values()) > 5
