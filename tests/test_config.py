"""Options that make no sense fail at construction, and say which and why."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import inngest
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from inngest_connect_asgi import ConfigurationError, InngestConnectMiddleware

from .harness import StartupFailed, bare_app, lifespan, make_function, run

KEY = "signkey-test-" + "ab" * 16


async def noop(ctx: inngest.Context) -> None:
    pass


def client(app_id: str = "app", **options: Any) -> inngest.Inngest:
    defaults: dict[str, Any] = {"is_production": False, "logger": None}
    return inngest.Inngest(app_id=app_id, **(defaults | options))


def pair(
    app_id: str = "app", **options: Any
) -> tuple[inngest.Inngest, list[inngest.Function[Any]]]:
    made = client(app_id, **options)
    return made, [make_function(made, noop)]


def make(**options: Any) -> InngestConnectMiddleware:
    made, functions = pair()
    defaults: dict[str, Any] = {"client": made, "functions": functions}
    return InngestConnectMiddleware(bare_app, **(defaults | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client": None}, "give client= and functions="),
        ({"functions": None}, "give client= and functions="),
        ({"functions": []}, "has no functions"),
        ({"functions": [noop]}, "made with client.create_function"),
        ({"client": "app"}, "client must be an inngest.Inngest"),
        ({"apps": [pair()]}, "either client= and functions=, or apps="),
        ({"isolation": "fork"}, 'isolation must be "auto", "thread", "interpreter" or'),
        ({"instance_id": " "}, "instance_id must be a text and not empty"),
        ({"instance_id": 7}, "instance_id must be a text"),
        ({"max_worker_concurrency": "8"}, "max_worker_concurrency must be at least 1"),
        ({"max_worker_concurrency": 0}, "max_worker_concurrency must be at least 1"),
        ({"gateway_url": "http://gateway"}, "gateway_url must be .* not a ws:// or"),
        ({"gateway_url": "wss://["}, "gateway_url must be .* not a URL"),
        ({"gateway_url": "ws://gateway:port"}, "gateway_url must be .* not a URL"),
        ({"gateway_url": "wss://me:secret@gateway"}, "gateway_url must be .* password"),
        ({"reply_buffer_size": 1024}, "reply_buffer_size must be at least 8323072"),
        ({"reply_buffer_size": "a lot"}, "reply_buffer_size must be at least 8323072"),
        ({"instance_id": "half \ud800"}, "instance_id must be a text"),
        ({"max_worker_concurrency": 10**30}, "max_worker_concurrency must be no more"),
        ({"shutdown_timeout": None}, "shutdown_timeout must be a positive number"),
        ({"shutdown_timeout": "25"}, "shutdown_timeout must be a positive number"),
        ({"probe": 8081}, "probe must be a port"),
        ({"health_path": True}, "health_path must be a path"),
        ({"startup_timeout": 0}, "startup_timeout must be a positive number"),
        ({"shutdown_timeout": -1.0}, "shutdown_timeout must be a positive number"),
        ({"shutdown_timeout": float("nan")}, "shutdown_timeout must be a positive"),
        ({"stall_timeout": float("inf")}, "stall_timeout must be a positive number"),
        ({"wedge_timeout": 0}, "wedge_timeout must be a positive number"),
        ({"health_path": "healthz"}, "health_path must be a path such as /healthz"),
        ({"health_path": "/healthz/"}, "health_path must be a path such as /healthz"),
    ],
)
def test_names_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        make(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INNGEST_CONNECT_ENABLED", "maybe"),
        ("INNGEST_CONNECT_GATEWAY_URL", "gateway:443"),
        ("INNGEST_CONNECT_ISOLATION", "container"),
        ("INNGEST_CONNECT_MAX_WORKER_CONCURRENCY", "many"),
        ("INNGEST_CONNECT_MAX_WORKER_CONCURRENCY", "0"),
        ("INNGEST_THREAD_POOL_MAX_WORKERS", "-1"),
    ],
)
def test_names_the_environment_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        make()


@pytest.mark.parametrize("name", [b"h\xff", OSError("no name")], ids=repr)
def test_any_host_has_an_instance_id(
    name: bytes | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def host_name() -> str:
        if isinstance(name, OSError):
            raise name
        return os.fsdecode(name)

    monkeypatch.setattr(socket, "gethostname", host_name)
    settings = make()._settings
    assert settings is not None
    assert settings.configuration().instance_id.encode()


def test_takes_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNGEST_CONNECT_MAX_WORKER_CONCURRENCY", "3")
    monkeypatch.setenv("INNGEST_CONNECT_GATEWAY_URL", "wss://gateway.test/connect")
    monkeypatch.setenv("INNGEST_CONNECT_ISOLATION", "process")
    monkeypatch.setenv("INNGEST_THREAD_POOL_MAX_WORKERS", "5")
    settings = make()._settings
    assert settings is not None
    assert settings.threads == 5
    assert settings.isolation == "process"
    configuration = settings.configuration()
    assert configuration.max_worker_concurrency == 3
    assert configuration.gateway_url == "wss://gateway.test/connect"


def test_an_option_goes_before_its_environment_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INNGEST_CONNECT_MAX_WORKER_CONCURRENCY", "many")
    monkeypatch.setenv("INNGEST_CONNECT_GATEWAY_URL", "gateway")
    monkeypatch.setenv("INNGEST_CONNECT_ISOLATION", "container")
    options = {"max_worker_concurrency": 1, "gateway_url": "ws://gateway"}
    settings = make(**options, isolation="thread")._settings
    assert settings is not None
    assert settings.configuration().max_worker_concurrency == 1
    assert settings.configuration().gateway_url == "ws://gateway"
    assert settings.isolation == "thread"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (pair("app"), "two clients with the app_id 'app'"),
        (pair("other", env="branch"), "a different env: None and 'branch'"),
        (
            pair("other", api_base_url="http://elsewhere.test"),
            "a different api_base_url",
        ),
        (
            pair("other", is_production=True, signing_key=KEY),
            "a different is_production",
        ),
    ],
)
def test_apps_that_do_not_fit_together(other: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        InngestConnectMiddleware(bare_app, apps=[pair(), other])


def test_apps_with_different_keys() -> None:
    with pytest.raises(ConfigurationError, match="different signing_key") as raised:
        InngestConnectMiddleware(
            bare_app,
            apps=[
                pair("one", is_production=True, signing_key=KEY),
                pair("two", is_production=True, signing_key=KEY[:-2] + "cd"),
            ],
        )
    assert "abab" not in str(raised.value)


def test_no_apps() -> None:
    with pytest.raises(ConfigurationError, match="apps is empty"):
        InngestConnectMiddleware(bare_app, apps=[])


@pytest.mark.parametrize("apps", [[client()], [noop], client()])
def test_apps_that_are_no_pairs(apps: Any) -> None:
    with pytest.raises(ConfigurationError, match="apps must be a list of pairs"):
        InngestConnectMiddleware(bare_app, apps=apps)


def test_two_functions_with_one_id() -> None:
    made, functions = pair()
    with pytest.raises(ConfigurationError, match="two functions with the id"):
        make(client=made, functions=functions * 2)


def test_no_signing_key_in_production() -> None:
    made, functions = pair(is_production=True)
    with pytest.raises(ConfigurationError, match="set INNGEST_SIGNING_KEY"):
        make(client=made, functions=functions)


@pytest.mark.parametrize("key", ["secret", "signkey-test-xyz", "signkey-test-abc"])
def test_a_malformed_signing_key_is_not_repeated(key: str) -> None:
    made, functions = pair(is_production=True, signing_key=key)
    with pytest.raises(ConfigurationError, match="malformed") as raised:
        make(client=made, functions=functions)
    assert key not in str(raised.value)


@pytest.mark.parametrize("details", [True, False])
def test_switched_off_nothing_is_checked_or_started(details: bool) -> None:
    app = InngestConnectMiddleware(Starlette(), enabled=False, health_details=details)

    async def main() -> None:
        async with lifespan(app):
            pass

    run(main)


class Subclass(InngestConnectMiddleware):
    def __init__(self, app: ASGIApp, **options: Any) -> None:
        super().__init__(app, **options)


@pytest.mark.parametrize("middleware", [InngestConnectMiddleware, Subclass])
def test_under_add_middleware_it_fails_the_start_up(middleware: Any) -> None:
    """A server takes an exception there for an app without lifespan."""
    made, functions = pair()
    app = Starlette()
    app.add_middleware(
        middleware,
        client=made,
        functions=functions,
        max_worker_concurrency=0,
    )

    async def main() -> None:
        with pytest.raises(StartupFailed, match="max_worker_concurrency"):
            async with lifespan(app):
                pass

    run(main)


def test_a_repr_of_what_was_configured_has_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", KEY[:-2] + "cd")
    made, functions = pair(is_production=True, signing_key=KEY)
    app = InngestConnectMiddleware(bare_app, client=made, functions=functions)
    assert app._settings is not None
    configuration = app._settings.configuration()
    assert configuration.signing_key is not None
    assert configuration.signing_key_fallback is not None
    for secret in (
        KEY,
        "ab" * 16,
        configuration.signing_key,
        configuration.signing_key_fallback,
    ):
        assert secret not in repr(configuration)
        assert secret not in repr(app._settings)


def test_nothing_starts_before_the_lifespan_and_no_signal_is_handled() -> None:
    """In a process of its own: here, much has happened already."""
    code = """
import os, signal, threading
from tests.harness import lifespan, run, until
from tests.test_config import make

def state():
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    return threading.active_count(), descriptors

def handlers():
    return [signal.getsignal(number) for number in signal.valid_signals()]

before = state(), handlers()
app = make()
assert (state(), handlers()) == before, "made"

async def main():
    inside = handlers()
    async with lifespan(app):
        assert threading.active_count() > before[0][0], "the worker lives"
        assert handlers() == inside, "started"

run(main)
assert handlers() == before[1], "ended"
# A thread may be on its way out.
run(lambda: until(lambda: state()[0] == before[0][0]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def instance_id(queue: Any, app: InngestConnectMiddleware) -> None:
    assert app._settings is not None
    queue.put(app._settings.configuration().instance_id)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_processes_that_were_forked_are_instances_of_their_own() -> None:
    app = make()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    names = set()
    for _ in range(2):
        child = context.Process(target=instance_id, args=(queue, app))
        child.start()
        names.add(queue.get())
        child.join()
    assert len(names) == 2


def test_the_package_says_that_it_is_typed() -> None:
    import inngest_connect_asgi

    assert inngest_connect_asgi.__file__ is not None
    directory = pathlib.Path(inngest_connect_asgi.__file__).parent
    assert (directory / "py.typed").exists()


def test_an_interpreter_needs_a_python_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inngest_connect_asgi.libraries.is_installed", lambda _: False)
    with pytest.raises(ConfigurationError, match=r"needs Python 3\.14 or later, and"):
        make(isolation="interpreter")
    monkeypatch.setattr("inngest_connect_asgi.libraries.is_installed", lambda _: True)
    settings = make(isolation="interpreter")._settings
    assert settings is not None
    assert settings.isolation == "interpreter"
