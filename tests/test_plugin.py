"""The pytest plugin, in pytest runs of its own, and the examples' own tests."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

ROOT = pathlib.Path(__file__).parent.parent

STRICT = (
    *("-W", "error"),
    # What older Starlettes and uvicorns ask asyncio, from Python 3.14 on.
    *("-W", "ignore:'asyncio.iscoroutinefunction' is:DeprecationWarning"),
)

APP = """
import inngest
from starlette.applications import Starlette

from inngest_connect_asgi import InngestConnectMiddleware

client = inngest.Inngest(app_id="shop")


@client.create_function(fn_id="greet", trigger=inngest.TriggerEvent(event="greet"))
async def greet(ctx):
    return f"hello {ctx.event.data['name']}"


@client.create_function(fn_id="bow", trigger=inngest.TriggerEvent(event="greet"))
def bow(ctx):
    return "bows"


app = InngestConnectMiddleware(Starlette(), client=client, functions=[greet, bow])
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=APP)
    pytester.makeini("[pytest]\npythonpath = .\n")
    return pytester


def run_tests(project: pytest.Pytester, code: str, *arguments: str) -> pytest.RunResult:
    project.makepyfile(test_shop=code)
    return project.runpytest_subprocess(*STRICT, *arguments)


def test_a_function_is_tested_in_a_few_lines(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a client of the first test, and whatever the environment said before."""
    monkeypatch.setenv("INNGEST_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("INNGEST_CONNECT_ENABLED", "0")
    code = """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_greets(inngest_gateway, number):
            assert inngest_gateway.connections == inngest_gateway.seen == []
            with inngest_gateway.serving("shop:app"):
                run = inngest_gateway.run(
                    "greet", {"name": "you"}, function="shop-greet"
                )
            assert run.output == "hello you"
            assert len(inngest_gateway.connections) == 1
            assert inngest_gateway.connections[0].close_reason == "WORKER_SHUTDOWN"

        @pytest.mark.anyio
        async def test_greets_in_a_coroutine(inngest_gateway):
            with inngest_gateway.serving("shop:app"):
                run = inngest_gateway.run("greet", function="shop-bow")
            assert run.output == "bows"

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        def test_leaves_the_environment_as_it_was():
            assert "INNGEST_DEV" not in os.environ
            assert os.environ["INNGEST_CONNECT_ENABLED"] == "0"
    """
    run_tests(project, code).assert_outcomes(passed=4)


def test_an_app_may_be_imported_early(project: pytest.Pytester) -> None:
    """By a conftest.py even, where the project asks for the gateway to be there."""
    project.makeconftest("import shop")
    code = """
        from shop import app

        def test_greets(inngest_gateway):
            with inngest_gateway.serving(app):
                inngest_gateway.run("greet", {"name": "you"})
    """
    result = run_tests(project, code, "-o", "inngest_gateway_early=true")
    result.assert_outcomes(passed=1)


def test_an_app_that_was_imported_too_early_is_told_so(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INNGEST_DEV", "http://127.0.0.1:1")
    code = """
        from shop import app

        def test_greets(inngest_gateway):
            with inngest_gateway.serving(app, timeout=0.5):
                pass
    """
    result = run_tests(project, code)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*was this one made before INNGEST_DEV was http:*")


def test_what_keeps_an_app_from_starting_is_told(project: pytest.Pytester) -> None:
    code = """
        import pytest
        from inngest_connect_asgi import InngestConnectMiddleware

        async def fails(scope, receive, send):
            await receive()
            raise OSError("no database")

        async def refuses(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no queue"})

        @pytest.mark.parametrize("app", [fails, refuses])
        def test_starts(inngest_gateway, app):
            with inngest_gateway.serving(app):
                pass
    """
    result = run_tests(project, code)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["E*OSError: no database", "E*RuntimeError: The app's startup failed: no queue"]
    )


def test_what_has_to_be_installed_is_named(project: pytest.Pytester) -> None:
    project.makeconftest("import sys; sys.modules['uvicorn'] = None")
    result = run_tests(project, "def test_greets(inngest_gateway): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines('*pip install "inngest-connect-asgi?testing?"')


def test_a_run_of_pytest_without_the_fixture_pays_nothing() -> None:
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import inngest_connect_asgi.testing.plugin\n"
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.split() == [
        "inngest_connect_asgi",
        "inngest_connect_asgi.errors",
        "inngest_connect_asgi.testing",
        "inngest_connect_asgi.testing.plugin",
    ]


@pytest.mark.parametrize("name", ["fastapi", "django"])
def test_the_tests_of_the_examples_pass(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *STRICT, "-p", "no:cacheprovider"],
        cwd=ROOT / "examples" / name,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
