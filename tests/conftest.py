from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from inngest_connect_asgi.isolation import launch
from inngest_connect_asgi.testing import LocalGateway

from .hosts import ISOLATIONS, prepared

if measured := os.environ.get("COVERAGE_PROCESS_CONFIG"):
    # The runtime's process runs nothing by itself, and coverage's beginning neither.
    launch._PREPARE = prepared(
        f"import os; os.environ['COVERAGE_PROCESS_CONFIG'] = {measured!r}\n"
        "if sys.argv[1].endswith('child'):\n"
        "    import coverage; coverage.process_startup()"
    )


@pytest.fixture
def gateway() -> Iterator[LocalGateway]:
    """A gateway in a hurry: what takes seconds in the real one takes a tenth."""
    with LocalGateway(
        heartbeat_interval="200ms", extend_lease_interval="100ms", lease_duration=2.0
    ) as gateway:
        yield gateway


@pytest.fixture(params=ISOLATIONS)
def isolation(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    no_inngest_environment: None,
) -> str:
    """Has every worker of a test live there."""
    value: str = request.param
    monkeypatch.setenv("INNGEST_CONNECT_ISOLATION", value)
    return value


@pytest.fixture(autouse=True)
def no_inngest_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell says about Inngest is not part of a test."""
    for name in list(os.environ):
        if name.startswith("INNGEST_"):
            monkeypatch.delenv(name)
