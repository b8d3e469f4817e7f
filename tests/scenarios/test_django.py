"""The Django example: database connections, system checks, and real servers."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from inngest_connect_asgi.testing import LocalGateway

from ..servers import Server, Uvicorn, free_port

ROOT = pathlib.Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "django"
APP = "django_app.asgi:application"


# Databases


class Postgres:
    """A PostgreSQL server of its own, as Debian packages it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.port = free_port()
        # It refuses to run as root.
        self._as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._as:
            shutil.chown(directory, "postgres")
        data = str(directory / "data")
        self._run("initdb", "--auth=trust", "--no-sync", "-U", "postgres", "-D", data)
        options = f"-p {self.port} -k {directory} -c fsync=off -c listen_addresses="
        self._run(
            "pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}/log", "start"
        )

    def _run(self, program: str, *arguments: str) -> str:
        return subprocess.run(
            [*self._as, find_postgres(program), *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.directory,
        ).stdout

    def query(self, sql: str) -> str:
        arguments = ("-h", str(self.directory), "-p", str(self.port), "-U", "postgres")
        return self._run("psql", *arguments, "-Atc", sql).strip()

    @property
    def connections(self) -> int:
        """How many clients are connected, but for the one that asks."""
        return int(
            self.query(
                "select count(*) from pg_stat_activity where "
                "backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
        )

    def kill_backends(self) -> None:
        self.query(
            "select pg_terminate_backend(pid) from pg_stat_activity where "
            "backend_type = 'client backend' and pid <> pg_backend_pid()"
        )

    def stop(self) -> None:
        data = str(self.directory / "data")
        self._run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def find_postgres(program: str) -> str:
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(found[-1]) if found else (shutil.which(program) or "")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not find_postgres("initdb"):
        pytest.skip("PostgreSQL is not installed: its connections were not tested")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="pg"))
    server = Postgres(directory)
    yield server
    server.stop()
    shutil.rmtree(directory)


# A project


class Project:
    """The example with another database and more functions."""

    def __init__(self, directory: pathlib.Path, database: dict[str, Any]) -> None:
        self.directory = directory
        package = directory / "django_app"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "settings.py").write_text(
            "from project.settings import *\n"
            f"DATABASES = {{'default': {database!r}}}\n"
            "ASGI_APPLICATION = 'django_app.asgi.application'\n"
        )
        (package / "asgi.py").write_text(ASGI)
        (package / "functions.py").write_text(FUNCTIONS)
        self.environ = {
            "DJANGO_SETTINGS_MODULE": "django_app.settings",
            "PYTHONPATH": os.pathsep.join([str(directory), str(EXAMPLE)]),
        }
        self.manage("migrate", "--verbosity=0")

    def manage(self, *arguments: str, **environ: str) -> str:
        result = subprocess.run(
            [sys.executable, EXAMPLE / "manage.py", *arguments],
            env={**os.environ, "INNGEST_DEV": "1", **self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return result.stdout

    def serve(self, gateway: LocalGateway) -> Uvicorn:
        return Uvicorn({**gateway.environ, **self.environ}, app=APP)


ASGI = textwrap.dedent(
    """
    from django.core.asgi import get_asgi_application
    from inngest_connect_asgi import InngestConnectMiddleware

    application = get_asgi_application()

    from django_app.functions import client, functions

    application = InngestConnectMiddleware(
        application, client=client, functions=functions
    )
    """
)

FUNCTIONS = textwrap.dedent(
    """
    import threading
    import time

    import inngest
    from asgiref.sync import sync_to_async
    from django.db import connection, transaction
    from orders.models import Order

    client = inngest.Inngest(app_id="app", logger=None)
    functions = []

    def function(handler):
        trigger = inngest.TriggerEvent(event=handler.__name__)
        make = client.create_function(
            fn_id=handler.__name__, trigger=trigger, retries=0
        )
        functions.append(make(handler))

    @function
    def write(ctx):
        Order.objects.create(item="sync", price=1)
        return Order.objects.count()

    @function
    async def awrite(ctx):
        await Order.objects.acreate(item="async", price=1)
        return await Order.objects.acount()

    @function
    def leave_open(ctx):
        transaction.atomic().__enter__()
        Order.objects.create(item="lost", price=1)

    @function
    def leave_off(ctx):
        transaction.set_autocommit(False)
        Order.objects.create(item="lost", price=1)

    @function
    def break_off(ctx):
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("nonsense")

    @function
    def lost(ctx):
        return Order.objects.filter(item="lost").count()

    @function
    def hold(ctx):
        time.sleep(ctx.event.data["seconds"])

    @function
    async def ahold(ctx):
        await sync_to_async(time.sleep)(ctx.event.data["seconds"])
    """
)


def postgres_settings(server: Postgres, max_age: int) -> dict[str, Any]:
    name = f"test_{uuid.uuid4().hex}"
    server.query(f"create database {name}")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": "postgres",
        "HOST": str(server.directory),
        "PORT": server.port,
        "CONN_MAX_AGE": max_age,
    }


def sqlite_settings(directory: pathlib.Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(directory / "db.sqlite3"),
        "OPTIONS": {"timeout": 20},
    }


@pytest.fixture(params=["sqlite", "postgres"])
def project(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Project:
    if request.param == "sqlite":
        return Project(tmp_path, sqlite_settings(tmp_path))
    server = request.getfixturevalue("postgres")
    return Project(tmp_path, postgres_settings(server, 600))


@pytest.fixture
def sqlite_project(tmp_path: pathlib.Path) -> Project:
    return Project(tmp_path, sqlite_settings(tmp_path))


def run_one(gateway: LocalGateway, name: str, **data: Any) -> Any:
    run = gateway.wait_for_run(gateway.send(name, data), 30)
    assert run.status == "completed", (name, run.error)
    return run.output


# Functions


def test_functions_use_the_orm(gateway: LocalGateway, project: Project) -> None:
    with project.serve(gateway) as server:
        gateway.wait_for_worker()
        assert run_one(gateway, "write") == 1
        assert run_one(gateway, "awrite") == 2
        assert server.get("/orders/1").json()["item"] == "sync"
        server.signal(signal.SIGTERM)
        server.wait()
        assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["leave_open", "leave_off", "break_off"])
def test_a_transaction_that_is_left_open_does_not_poison_the_next_run(
    gateway: LocalGateway, project: Project, name: str
) -> None:
    # One thread, so that the next run has the same connection.
    gateway_environ = {**gateway.environ, "INNGEST_THREAD_POOL_MAX_WORKERS": "1"}
    with Uvicorn({**gateway_environ, **project.environ}, app=APP):
        gateway.wait_for_worker()
        gateway.wait_for_run(gateway.send(name), 30)
        assert run_one(gateway, "write") == 1
        assert run_one(gateway, "lost") == 0
        # Another thread's connection sees it: it was committed.
        assert run_one(gateway, "awrite") == 2


def test_connections_that_the_server_closed_are_replaced(
    gateway: LocalGateway, postgres: Postgres, tmp_path: pathlib.Path
) -> None:
    settings = {**postgres_settings(postgres, 600), "CONN_HEALTH_CHECKS": True}
    project = Project(tmp_path, settings)
    environ = {"INNGEST_THREAD_POOL_MAX_WORKERS": "1", **gateway.environ}
    with Uvicorn({**environ, **project.environ}, app=APP):
        gateway.wait_for_worker()
        assert run_one(gateway, "write") == 1
        assert postgres.connections == 1
        postgres.kill_backends()
        assert run_one(gateway, "write") == 2
        assert run_one(gateway, "awrite") == 3
        postgres.kill_backends()
        assert run_one(gateway, "awrite") == 4


@pytest.mark.parametrize("max_age", [0, 600])
def test_connections_do_not_pile_up(
    postgres: Postgres, tmp_path: pathlib.Path, max_age: int
) -> None:
    project = Project(tmp_path, postgres_settings(postgres, max_age))
    threads = {"INNGEST_THREAD_POOL_MAX_WORKERS": "4"}
    # One that has time: no heartbeat may be missed on a busy machine.
    with ExitStack() as stack:
        gateway = stack.enter_context(LocalGateway())
        environ = {**threads, **gateway.environ, **project.environ}
        stack.enter_context(Uvicorn(environ, app=APP))
        gateway.wait_for_worker()
        for _ in range(10):
            ids = [
                gateway.send(name) for name in ("write", "awrite") for _ in range(25)
            ]
            for event_id in ids:
                assert gateway.wait_for_run(event_id, 30).status == "completed"
        assert run_one(gateway, "write") == 501
        assert postgres.connections <= (4 if max_age else 0)


@pytest.mark.parametrize(
    "broken",
    [
        "close_old_connections",
        "reset_queries",
        "close_caches",
        "connections.close_all",
        "ThreadSensitiveContext",
    ],
)
def test_a_failure_to_clean_up_fails_no_run(
    gateway: LocalGateway, sqlite_project: Project, broken: str
) -> None:
    module = sqlite_project.directory / "django_app" / "functions.py"
    with module.open("a") as functions:
        functions.write(
            "from inngest_connect_asgi.integrations import django as connections\n"
            "def fail():\n"
            "    raise RuntimeError('it is broken')\n"
            f"connections.{broken} = fail\n"
        )
    with sqlite_project.serve(gateway) as server:
        gateway.wait_for_worker()
        assert run_one(gateway, "write") == 1
        assert run_one(gateway, "awrite") == 2
        server.wait_for_log("RuntimeError: it is broken")
    assert all(run.attempts == 1 for run in gateway.runs)
    assert "failed around a run" in server.log or "clean up" in server.log


def test_a_slow_function_does_not_hold_up_views_or_other_functions(
    gateway: LocalGateway, sqlite_project: Project
) -> None:
    with sqlite_project.serve(gateway) as server:
        gateway.wait_for_worker()
        assert run_one(gateway, "write") == 1
        slow = [gateway.send(name, {"seconds": 5}) for name in ("hold", "ahold")]
        gateway.wait_until(lambda: len(gateway.received("WORKER_REQUEST_ACK")) == 3)
        assert server.get("/orders/1").status_code == 200
        assert run_one(gateway, "write") == 2
        assert run_one(gateway, "awrite") == 3
        running = [run for run in gateway.runs if run.status == "running"]
        assert len(running) == 2
        for event_id in slow:
            assert gateway.wait_for_run(event_id, 30).status == "completed"


def test_django_is_not_imported_for_others() -> None:
    code = (
        "import sys, inngest_connect_asgi.asgi.middleware;"
        "import inngest_connect_asgi.worker.service;"
        "print({m.partition('.')[0] for m in sys.modules} & {'django', 'asgiref'})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_the_runserver_of_daphne_says_that_it_starts_no_worker(
    gateway: LocalGateway, sqlite_project: Project
) -> None:
    pytest.importorskip("daphne", reason="nothing was tested with daphne")
    package = sqlite_project.directory / "django_app"
    with (package / "settings.py").open("a") as settings:
        settings.write("INSTALLED_APPS = ['daphne', *INSTALLED_APPS]\n")
    command = ["django", "runserver", "--noreload", str(free_port())]
    with Server(command, {**gateway.environ, **sqlite_project.environ}) as server:
        server.wait_for_log("Inngest Connect is not running")
    assert not gateway.connections


# manage.py check


def test_check_has_nothing_to_say_of_a_sound_project(sqlite_project: Project) -> None:
    assert "no issues" in sqlite_project.manage("check")


def test_check_finds_functions_that_are_served_as_well(
    sqlite_project: Project,
) -> None:
    package = sqlite_project.directory / "django_app"
    (package / "urls.py").write_text(
        "import inngest.django\n"
        "from django_app.functions import client, functions\n"
        "urlpatterns = [inngest.django.serve(client, functions[:1])]\n"
    )
    with (package / "settings.py").open("a") as settings:
        settings.write("ROOT_URLCONF = 'django_app.urls'\n")
    output = sqlite_project.manage("check")
    assert "inngest_connect_asgi.W002" in output
    assert "app-write" in output
    assert "app-awrite" not in output


@pytest.mark.parametrize("asgi", ["absent", "unwrapped"])
def test_check_finds_a_project_that_never_connects(
    sqlite_project: Project, asgi: str
) -> None:
    module = sqlite_project.directory / "django_app" / "asgi.py"
    if asgi == "absent":
        module.unlink()
    else:
        module.write_text(ASGI.partition("from django_app")[0])
    assert "inngest_connect_asgi.W001" in sqlite_project.manage("check")


def test_check_finds_a_configuration_that_would_not_start(
    sqlite_project: Project,
) -> None:
    output = sqlite_project.manage("check", INNGEST_DEV="0")
    assert "inngest_connect_asgi.E001" in output
    assert "INNGEST_SIGNING_KEY" in output
