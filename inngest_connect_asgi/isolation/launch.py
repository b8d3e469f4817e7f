"""Starts the child: an interpreter in which nothing of the app's has a say.

It runs without ``site``, so without ``sitecustomize``, ``usercustomize`` and ``.pth``
files, by which launchers instrument an app, and companies greet their developers. What
those did for finding packages the app's process knows by now: the child is told where
that found each of them, and looks nowhere else first.
"""

from __future__ import annotations

import fcntl
import importlib.util
import marshal
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.machinery import ModuleSpec
from io import FileIO
from types import ModuleType
from typing import Any

from .. import forks
from ..network import access as network
from . import pipe

__all__ = ["Child", "command", "environment", "found", "make_pipe", "prelude"]

ENTRY = "inngest_connect_asgi.isolation.child"

EXIT_TIMEOUT = 5.0
"""Seconds that the system may take to end a child that is killed."""

# What Python needs, and the way into the network. Not more: the rest may hold secrets.
_INHERITED = {
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    # Some have to, where its native code does not load.
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION",
    # Where the standard library is. Of Python's others, none.
    "PYTHONHOME",
    "PYTHONPLATLIBDIR",
    "TMPDIR",
    "TZ",
    *network.INHERITED,
}

# What a child may come to import, and an app's process may not have by then: some are
# wanted by few, some are imported by others only when they are used.
_LATER = (
    "anyio",
    "certifi",
    "click",
    "exceptiongroup",
    "h11",
    "h2",
    "hpack",
    "httpcore",
    "hyperframe",
    "idna",
    "prometheus_client",
    "python_socks",
    "sniffio",
    "socksio",
    "starlette",
    "truststore",
    "typing_extensions",
    "uvicorn",
)

# Reads one frame and runs it. What is imported here is part of the interpreter.
_BOOT = """\
import marshal, posix, sys
def read(size):
    data = b""
    while len(data) < size:
        data += posix.read(int(sys.argv[2]), size - len(data)) or posix._exit(1)
    return data
exec(*marshal.loads(read(int.from_bytes(read(4), "big"))))
"""

# The standard library first, which the app may have imported before something that
# bears the name of one of its modules came in front of it.
_PREPARE = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry] + path

from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from os.path import isfile


class Found:
    "Finds what the app has found, in the same places."

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in modules:
            return None
        file, folders = modules[name]
        if file is None:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = folders
            return spec
        folder = file.rpartition("/")[0]
        if folders is not None:
            folder = folder.rpartition("/")[0]
        # Knows of zip files, too.
        spec = PathFinder.find_spec(name, [folder])
        if (spec is None or spec.origin != file) and isfile(file):
            spec = spec_from_file_location(
                name, file, submodule_search_locations=folders
            )
        return spec


sys.meta_path.insert(0, Found)
# The command line of httpx: megabytes, where the app has rich and pygments.
sys.modules["httpx._main"] = None
import_module(sys.argv[1]).main()
"""

Place = tuple[str | None, list[str] | None]
"""The file of a module, and where its submodules are; no file for a namespace."""


class Child:
    """A child, and our ends of its pipes.

    Raises:
        OSError: The system gives no more processes, or descriptors.
    """

    name = "the runtime's process"
    fate = "it was killed"

    def __init__(self) -> None:
        theirs: list[FileIO] = []
        ours: list[FileIO] = []
        try:
            its_input, self.input = make_pipe(theirs, ours)
            self.output, its_output = make_pipe(ours, theirs)
            self.stderr, its_stderr = make_pipe(ours, theirs)
            theirs.append(stderr := _standard_error())
            passed = [its_input.fileno(), its_output.fileno(), stderr.fileno()]
            with _undebugged():
                self._process = subprocess.Popen(
                    command(*passed, os.getpid()),
                    stdin=subprocess.DEVNULL,
                    # What it prints before it speaks is shown with its end, if it
                    # comes to that. Later it prints where the app does.
                    stdout=its_stderr,
                    stderr=its_stderr,
                    pass_fds=passed,
                    env=environment(os.environ),
                    # Ctrl-C reaches the whole process group, and the shutdown is the
                    # app's.
                    start_new_session=True,
                )
        except BaseException:
            for each in ours:
                each.close()
            raise
        finally:
            for each in theirs:
                each.close()
        self._ours = ours

    def prelude(self) -> bytes:
        """What it is to be told before anything else, as bytes for its pipe."""
        return pipe.frame(prelude())

    def kill(self) -> None:
        """Have it end; from any thread."""
        self._process.kill()

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> str:
        """Wait for its exit, and say how that was."""
        return f"exit code {self.wait()}"

    def wait(self, timeout: float = EXIT_TIMEOUT) -> int | None:
        """Wait for its exit code; ``None`` where it does not end in time."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def close(self) -> None:
        """Wait for its exit, and close our ends of its pipes."""
        self.wait()
        for each in self._ours:
            each.close()


def _undebugged() -> AbstractContextManager[object]:
    """Keeps a debugger of pydevd's kind (debugpy, PyCharm) from rewriting the command.

    It would follow the app into the child, and stop heartbeats at a breakpoint.
    """
    try:
        skip: Any = sys.modules["_pydev_bundle.pydev_monkey"]
        context: AbstractContextManager[object] = skip.skip_subprocess_arg_patch()
    except Exception:
        # There is none, or it is another one.
        return nullcontext()
    return context


def command(*arguments: int) -> list[str]:
    flags = ["-s", "-S", "-u"]
    if sys.version_info >= (3, 11):
        # Also, Python 3.13.0 imports nothing where its directory was removed.
        flags.append("-P")
    # Where and whether bytecode is kept, and how text is encoded, is the app's to say.
    if sys.dont_write_bytecode:
        flags.append("-B")
    if sys.flags.optimize:
        flags.append("-" + "O" * sys.flags.optimize)
    if sys.pycache_prefix is not None:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    flags += ["-X", f"utf8={sys.flags.utf8_mode}"]
    return [sys.executable, *flags, "-c", _BOOT, ENTRY, *map(str, arguments)]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of the environment; nothing that holds secrets."""
    kept = {
        name: value
        for name, value in environ.items()
        if name.upper() in _INHERITED or name.startswith("LC_")
    }
    # A constant one: glibc's grows with what is freed, and would keep hundreds of
    # megabytes in the child after a burst of large payloads.
    kept["MALLOC_MMAP_THRESHOLD_"] = str(4 * 1024 * 1024)
    return kept


def prelude() -> bytes:
    """What an interpreter is to run before anything else, for marshal to load."""
    variables = {
        "__name__": "__main__",
        # Python passes over what is no text.
        "path": [
            each
            for entry in sys.path
            if isinstance(entry, str) and (each := _absolute(entry))
        ],
        "modules": found(),
    }
    return marshal.dumps((_PREPARE, variables))


def found() -> dict[str, Place]:
    """Where this process has found what is no part of Python itself.

    By name; of packages whose parts may be in several places, the parts as well.
    """
    places: dict[str, Place] = {}
    # Whoever puts modules there by hand may use any key, and any kind of text.
    modules: dict[str, object] = {
        str(name): module
        for name, module in list(sys.modules.items())
        if isinstance(name, str)
    }
    for name in _LATER:
        if name not in modules:
            # It is the app's import hooks that look.
            with suppress(Exception):
                modules[name] = importlib.util.find_spec(name)
    namespaces = {""}
    for name in sorted(modules):
        if name.rpartition(".")[0] in namespaces and not _is_pythons(name):
            with suppress(Exception):
                if (place := _place(modules[name])) is not None:
                    places[name] = place
                    if place[0] is None:
                        namespaces.add(name)
    return places


def _is_pythons(name: str) -> bool:
    return name in sys.stdlib_module_names or name == "__main__"


def _place(module: object) -> Place | None:
    if isinstance(module, ModuleSpec):
        spec, folders = module, module.submodule_search_locations
    elif isinstance(module, ModuleType):
        # Not by getattr: some modules are loaded once somebody asks for anything.
        variables = object.__getattribute__(module, "__dict__")
        spec, folders = variables.get("__spec__"), variables.get("__path__")
    else:
        return None
    file = _absolute(spec.origin) if spec.has_location and spec.origin else None
    paths = None if folders is None else [p for f in folders if (p := _absolute(f))]
    # Of a built-in module there is neither.
    return (file, paths) if file or paths else None


def _absolute(path: str) -> str | None:
    """An empty entry stands for the working directory."""
    path = str(path)
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # a deploy has removed it beneath the app
        return path if os.path.isabs(path) else None


def make_pipe(reader: list[FileIO], writer: list[FileIO]) -> tuple[FileIO, FileIO]:
    """A pipe's two ends, each for a list of what is to be closed together."""
    ends = [FileIO(_high(fd), mode) for fd, mode in zip(os.pipe(), "rw", strict=True)]
    for end, owner in zip(ends, (reader, writer), strict=True):
        forks.hold(end)
        owner.append(end)
    return ends[0], ends[1]


def _high(fd: int) -> int:
    """The same under a number that no standard stream has.

    Those are free in a daemon that has closed its own, and taken in every child.
    """
    if fd > 2:
        return fd
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return high


def _standard_error() -> FileIO:
    try:
        return FileIO(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3), "w")
    except OSError:  # the app has closed it
        return FileIO(os.devnull, "w")
