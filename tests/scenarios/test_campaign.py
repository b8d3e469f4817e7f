"""The fault campaign, in short; ``scripts/faults`` runs the long one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ..hosts import ISOLATIONS

PROGRAM = """
import json, sys
from tests.campaign import campaign
ledger = campaign(1, 500, sys.argv[1])
faults = sum(ledger.faults.values())
complaint = "" if ledger.clean else ledger.complaint()
print(json.dumps([complaint, ledger.acked, faults]))
"""


@pytest.mark.timeout(150)
@pytest.mark.parametrize("isolation", [*ISOLATIONS, "auto"])
def test_no_reply_is_lost_and_nothing_runs_twice(isolation: str) -> None:
    # A process of its own: it sets up a tracer provider, which nothing can undo.
    command = [sys.executable, "-c", PROGRAM, isolation]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    complaint, acked, faults = json.loads(done.stdout.splitlines()[-1])
    assert not complaint, complaint
    assert acked > 400
    assert faults > 5
