"""LocalGateway as a pytest fixture.

pytest loads this module in every test run where the package is installed, so it
imports nothing before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .gateway import LocalGateway

__all__ = ["inngest_gateway"]

EARLY = "inngest_gateway_early"

ELSEWHERE = (
    "INNGEST_API_BASE_URL",
    "INNGEST_BASE_URL",
    "INNGEST_CONNECT_ENABLED",
    "INNGEST_CONNECT_GATEWAY_URL",
    "INNGEST_EVENT_API_BASE_URL",
)
"""Variables that lead away from the gateway, or nowhere."""

GATEWAY: pytest.StashKey[LocalGateway] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        EARLY,
        "Start LocalGateway, and set INNGEST_DEV to it, before any conftest.py or test "
        "is imported",
        type="bool",
        default=False,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if early_config.getini(EARLY):
        monkeypatch = pytest.MonkeyPatch()
        early_config.add_cleanup(monkeypatch.undo)
        _lead_to(_start(early_config), monkeypatch)


@pytest.fixture
def inngest_gateway(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalGateway]:
    """A LocalGateway, to which the environment leads.

    Every test gets it as new, at an address that is the same for the whole session:
    a client that was made in one test still fits in the next.
    """
    gateway = _start(pytestconfig)
    _lead_to(gateway, monkeypatch)
    yield gateway
    gateway.reset()


def _start(config: pytest.Config) -> LocalGateway:
    gateway = config.stash.get(GATEWAY, None)
    if gateway is None:
        try:
            from .gateway import LocalGateway
        except ModuleNotFoundError as error:
            raise pytest.UsageError(
                f"inngest_gateway needs {error.name}: "
                'pip install "inngest-connect-asgi[testing]"'
            ) from error
        gateway = LocalGateway()
        gateway.start()
        config.add_cleanup(gateway.stop)
        config.stash[GATEWAY] = gateway
    return gateway


def _lead_to(gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
