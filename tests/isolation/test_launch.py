"""How a child is started: by nobody's leave, and from wherever the app is."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import types
import venv
import zipfile
from importlib.machinery import ModuleSpec
from typing import Any

import httpx
import pytest
import websockets

import inngest_connect_asgi
from inngest_connect_asgi.isolation import launch
from inngest_connect_asgi.testing import LocalGateway

from ..hosts import Running, inject

PACKAGE = pathlib.Path(inngest_connect_asgi.__file__).parent
SITE = pathlib.Path(httpx.__file__).parent.parent

# Ends well once a child of this process has made a connection.
SCRIPT = """
import asyncio, inngest
from inngest_connect_asgi import connect_worker, messages

assert messages.VERSION == 4711, messages.__file__
client = inngest.Inngest(app_id="app", logger=None)

async def noop(ctx):
    pass

trigger = inngest.TriggerEvent(event="noop")
functions = [client.create_function(fn_id="noop", trigger=trigger)(noop)]
at_last()

async def main():
    async with connect_worker(client, functions, isolation="process") as worker:
        await worker.ready(30)

asyncio.run(main())
"""


def copy_package(to: pathlib.Path) -> pathlib.Path:
    """A copy that knows no child but one of its own."""
    shutil.copytree(PACKAGE, to, ignore=shutil.ignore_patterns("__pycache__"))
    messages = to / "messages.py"
    text = re.sub(
        r"^VERSION = \d+$", "VERSION = 4711", messages.read_text(), flags=re.M
    )
    messages.write_text(text)
    return to


def run_script(
    gateway: LocalGateway,
    before: str = "",
    at_last: str = "pass",
    *,
    python: pathlib.Path | str = sys.executable,
    flags: tuple[str, ...] = (),
    cwd: pathlib.Path,
    **environ: str,
) -> str:
    script = (
        textwrap.dedent(before)
        + f"\ndef at_last():\n{textwrap.indent(textwrap.dedent(at_last), '    ')}\n"
        + SCRIPT
    )
    result = subprocess.run(
        [python, *flags, "-c", script],
        env={**os.environ, **gateway.environ, **environ},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stdout
    assert len(gateway.connections) == 1, result.stdout
    return result.stdout


# Where it finds the package


def test_in_a_folder_that_the_app_has_put_on_its_path(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    copy_package(tmp_path / "vendored" / "inngest_connect_asgi")
    # Relative, and gone from there by the time.
    before = "import sys; sys.path.insert(0, 'vendored')"
    at_last = f"import os; os.chdir({str(SITE)!r})"
    run_script(gateway, before, at_last, cwd=tmp_path)


def test_in_a_zip_file(gateway: LocalGateway, tmp_path: pathlib.Path) -> None:
    package = copy_package(tmp_path / "inngest_connect_asgi")
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for folder in (package, SITE / "httpx", SITE / "httpcore", SITE / "websockets"):
            for path in folder.rglob("*.py"):
                file.write(path, path.relative_to(folder.parent))
    shutil.rmtree(package)
    before = f"""
        import sys
        sys.path.insert(0, {str(archive)!r})
        import httpx
        assert httpx.__file__.startswith({str(archive)!r})
    """
    run_script(gateway, before, cwd=tmp_path)


@pytest.mark.parametrize("first", [False, True])
def test_by_an_import_hook_alone(
    gateway: LocalGateway, tmp_path: pathlib.Path, first: bool
) -> None:
    """As an editable install of setuptools has one; here under another name, too."""
    package = copy_package(tmp_path / "src" / "lib")
    before = f"""
        import sys
        from importlib.machinery import PathFinder
        from importlib.metadata import DistributionFinder, MetadataPathFinder
        from importlib.util import spec_from_file_location

        class Hook:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "inngest_connect_asgi":
                    return spec_from_file_location(
                        name, {str(package / "__init__.py")!r},
                        submodule_search_locations=[{str(package)!r}],
                    )
                if path is None:
                    return PathFinder.find_spec(name, [{str(SITE)!r}])

            @staticmethod
            def find_distributions(context):
                where = DistributionFinder.Context(
                    name=context.name, path=[{str(SITE)!r}]
                )
                return MetadataPathFinder.find_distributions(where)

        assert {str(SITE)!r} not in sys.path
        sys.meta_path.insert({0 if first else 9}, Hook)
    """
    run_script(gateway, before, flags=("-S",), cwd=tmp_path, PYTHONPATH="")


def test_in_a_virtual_environment(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    copy_package(packages / "inngest_connect_asgi")
    (packages / "others.pth").write_text(f"{SITE}\n")
    python = tmp_path / "venv" / "bin" / "python"
    run_script(gateway, python=python, cwd=tmp_path, PYTHONPATH="")


def test_with_its_standard_library_where_the_environment_says(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    copy_package(tmp_path / "inngest_connect_asgi")
    path = f"{tmp_path}{os.pathsep}{SITE}"
    home = f"{sys.base_prefix}:{sys.base_exec_prefix}"
    run_script(gateway, cwd=tmp_path, PYTHONPATH=path, PYTHONHOME=home)


def test_not_in_what_came_in_front_of_it_later(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    """As what a server puts on the path after it was imported itself."""
    copy_package(tmp_path / "packages" / "inngest_connect_asgi")
    app = tmp_path / "app"
    app.mkdir()
    for name in ("inngest_connect_asgi", "websockets", "httpx", "asyncio", "queue"):
        (app / f"{name}.py").write_text("raise SystemExit('a stranger')")
    before = f"import sys; sys.path.insert(0, {str(tmp_path / 'packages')!r})"
    at_last = f"""
        import sys
        import inngest_connect_asgi.isolation.process
        sys.path.insert(0, {str(app)!r})
    """
    run_script(gateway, before, at_last, cwd=app, flags=("-I",))


def test_the_path_is_the_apps(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [launch._absolute(path) for path in ("", "vendored", "/opt/shop")]
    assert paths == [str(tmp_path), str(tmp_path / "vendored"), "/opt/shop"]


def test_what_the_app_has_found() -> None:
    importlib.import_module("google.protobuf")
    found = launch.found()
    assert found["websockets"] == (websockets.__file__, list(websockets.__path__))
    # A namespace, whose parts may be anywhere.
    file, folders = found["google"]
    assert file is None
    assert folders
    file, _ = found["google.protobuf"]
    assert file is not None
    # Python's own it has itself.
    assert not {"asyncio", "__main__", "sys"} & set(found)


def test_an_odd_module_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise AssertionError("loaded")

    class Text(str):
        """Not for marshal."""

    lazy = Lazy("lazy")
    liar = types.ModuleType("liar")
    liar.__spec__ = ModuleSpec("liar", None, origin="/liar.py")
    liar.__dict__["__path__"] = 1
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    monkeypatch.setitem(sys.modules, "liar", liar)
    monkeypatch.setitem(sys.modules, "no_module", object())
    monkeypatch.setitem(sys.modules, "nothing", None)
    modules: dict[Any, Any] = sys.modules
    monkeypatch.setitem(modules, 3, lazy)
    monkeypatch.setitem(sys.modules, Text("odd"), types.ModuleType("odd"))
    monkeypatch.setattr(sys, "path", [*sys.path, None, 5, b"/bytes", Text("/x")])
    found = launch.found()
    assert not {"lazy", "liar", "no_module", "nothing", 3} & set(found)
    assert launch.prelude()


# Whose it is


def test_it_has_none_of_what_httpx_has_for_people(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert importlib.util.find_spec("rich"), "or nothing is shown"
    inject(
        monkeypatch,
        """
import inngest_connect_asgi.isolation.child
assert "httpx" in sys.modules
print("it has", {"click", "pygments", "rich"} & set(sys.modules))
sys.exit()
""",
    )
    assert str(Running().end()).endswith("it printed 'it has set()'")


def test_nothing_of_the_apps_runs_in_it(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    """Of a launcher, of a company's Python, of a tool in an environment."""
    marker = "import os; open(os.path.join({!r}, f'{}-{{os.getpid()}}'), 'w')"
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = (environment / "lib").glob("*/site-packages")
    launcher = tmp_path / "launcher"
    launcher.mkdir()
    ran = tmp_path / "ran"
    ran.mkdir()
    greet = "\nprint('python of ACME Corp.')"
    (launcher / "sitecustomize.py").write_text(marker.format(str(ran), "site") + greet)
    (launcher / "usercustomize.py").write_text(marker.format(str(ran), "user") + greet)
    (packages / "hook.pth").write_text(marker.format(str(ran), "pth"))
    (packages / "others.pth").write_text(f"{SITE}\n")
    copy_package(packages / "inngest_connect_asgi")
    output = run_script(
        gateway,
        python=environment / "bin" / "python",
        cwd=tmp_path,
        PYTHONPATH=str(launcher),
    )
    kinds = [path.name.partition("-")[0] for path in ran.iterdir()]
    assert sorted(set(kinds)) in (["pth", "site", "user"], ["pth", "site"])
    # Once each, in the app's process.
    assert len(kinds) == len(set(kinds)), kinds
    assert output.count("ACME") == len(kinds) - 1


def test_no_debugger_follows_the_app_into_it(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    """Or a breakpoint would stop the heartbeats."""
    pytest.importorskip("debugpy", reason="nothing was tested with debugpy")
    debugged = ("-m", "debugpy", "--listen", "127.0.0.1:0")
    copy_package(tmp_path / "inngest_connect_asgi")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    at_last = """
        import subprocess
        start = subprocess.Popen.__init__
        def show(self, *args, **options):
            start(self, *args, **options)
            with open(f"/proc/{self.pid}/cmdline") as file:
                print("command:", file.read().replace(chr(0), " "))
        subprocess.Popen.__init__ = show
    """
    output = run_script(gateway, before, at_last, flags=debugged, cwd=tmp_path)
    assert "command:" in output
    assert "pydevd" not in output.partition("command:")[2]


def test_what_it_needs_of_the_environment() -> None:
    kept = launch.environment(
        {
            "SSL_CERT_FILE": "/ca.pem",
            "OPENSSL_CONF": "/openssl.cnf",
            "LC_ALL": "C",
            "DATABASE_URL": "secret",
            "SSLKEYLOGFILE": "/keys",
            "RES_OPTIONS": "use-vc",
            "PYTHONPATH": "/launcher",
            "PYTHONSTARTUP": "/greet.py",
            "PYTHONHOME": "/opt/python",
            "LD_PRELOAD": "/agent.so",
            "COVERAGE_PROCESS_START": ".coveragerc",
        }
    )
    del kept["MALLOC_MMAP_THRESHOLD_"]
    assert kept == {
        "SSL_CERT_FILE": "/ca.pem",
        "OPENSSL_CONF": "/openssl.cnf",
        "LC_ALL": "C",
        "SSLKEYLOGFILE": "/keys",
        "RES_OPTIONS": "use-vc",
        "PYTHONHOME": "/opt/python",
    }


def test_a_daemon_without_standard_streams(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    copy_package(tmp_path / "inngest_connect_asgi")
    at_last = "import os; [os.close(fd) for fd in (0, 1, 2)]"
    run_script(gateway, at_last=at_last, cwd=tmp_path, PYTHONPATH=str(tmp_path))


def test_nothing_is_left_of_one_that_could_not_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "command", lambda *_: ["/there/is/no/such/python"])
    before = set(os.listdir("/proc/self/fd"))
    error = Running().end()
    assert isinstance(error, FileNotFoundError)
    assert set(os.listdir("/proc/self/fd")) == before


# Smaller things


def test_it_finds_no_debugger_or_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "_pydev_bundle.pydev_monkey"
    debugger = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, debugger)
    with launch._undebugged():
        pass
    context = contextlib.nullcontext()
    debugger.__dict__["skip_subprocess_arg_patch"] = lambda: context
    assert launch._undebugged() is context


def test_the_command_has_the_apps_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", "/cache")
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(optimize=2, utf8_mode=1))
    command = launch.command(3, 4)
    assert command[0] == sys.executable
    assert {"-B", "-OO", "pycache_prefix=/cache", "utf8=1"} < set(command)
    assert command[-2:] == ["3", "4"]
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(optimize=0, utf8_mode=0))
    command = launch.command(3, 4)
    assert "utf8=0" in command
    assert not {"-B", "-O", "-OO"} & set(command)


@pytest.mark.parametrize("version", [(3, 10), (3, 11)])
def test_it_looks_nowhere_by_itself(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert ("-P" in launch.command()) == (version >= (3, 11))


def test_a_directory_that_was_removed_has_no_paths_within(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(path: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os.path, "abspath", gone)
    assert launch._absolute("/there") == "/there"
    assert launch._absolute("here") is None


def test_no_pipe_has_the_number_of_a_standard_stream() -> None:
    reader, writer = os.pipe()
    low = os.dup(reader)
    try:
        high = launch._high(os.dup(low))
        assert high > 2
        os.close(high)
    finally:
        for fd in (reader, writer, low):
            os.close(fd)


def test_a_stream_of_the_apps_that_is_closed_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(fd: int, *_: int) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.fcntl", closed)
    with launch._standard_error() as stream:
        assert stream.name == os.devnull


def test_a_low_number_is_given_up_for_a_high_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[int] = []
    monkeypatch.setattr("fcntl.fcntl", lambda fd, command, least: least + 9)
    monkeypatch.setattr(os, "close", closed.append)
    assert launch._high(2) == 12
    assert closed == [2]


def test_its_end_is_waited_for_no_longer_than_it_is_told() -> None:
    child = launch.Child()
    try:
        assert not child.is_gone
        assert child.wait(0.01) is None
        child.kill()
        assert child.wait() == -9
        assert child.is_gone
    finally:
        child.kill()
        child.close()
