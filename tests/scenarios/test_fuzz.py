"""The fuzzer's targets, in short; ``scripts/fuzz`` runs them for longer."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from ..fuzz import TARGETS, mutations, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_break_it(target: str) -> None:
    for data in islice(mutations(seeds(target), random.Random(1)), 150):
        TARGETS[target](data)
