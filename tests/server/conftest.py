from __future__ import annotations

from collections.abc import Iterator

import pytest

from inngest_connect_asgi.testing import LocalGateway

from .suite import Server, Suite

OPTION = "--inngest-server"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION, help="the URL of an Inngest dev server, instead of LocalGateway"
    )


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server under test: LocalGateway, or the one that the command line names."""
    # Where this directory is collected with others, the option does not exist.
    url = request.config.getoption(OPTION, None)
    if url:
        yield Server(url.rstrip("/"))
    else:
        with LocalGateway() as gateway:
            yield Server(gateway.origin, gateway)


@pytest.fixture
def suite(server: Server, isolation: str) -> Suite:
    """An app for the functions of one test, in each isolation."""
    return Suite(server)
