"""The fault campaign, in short; ``scripts/faults`` runs the long one."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.config import Isolation

from .campaign import Campaign


@pytest.mark.timeout(150)
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_no_reply_is_lost_and_nothing_runs_twice(isolation: Isolation) -> None:
    ledger = Campaign(1, 500, isolation).run()
    assert ledger.clean, ledger.complaint()
    assert ledger.acked > 400
    assert sum(ledger.faults.values()) > 5
