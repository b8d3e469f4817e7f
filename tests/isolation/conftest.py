from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..hosts import Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()
