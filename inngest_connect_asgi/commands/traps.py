"""What servers do to a worker by settings of their own, as far as they can be seen."""

from __future__ import annotations

import ast
import os
import pathlib
import shlex
from collections.abc import Iterator, Mapping

from ..state import OWN_LOCK
from ..worker.config import DEFAULT_SHUTDOWN_TIMEOUT, ISOLATION

__all__ = ["traps"]

GUNICORN_ARGUMENTS = "GUNICORN_CMD_ARGS"
GUNICORN_FILE = "gunicorn.conf.py"
UVICORN_WORKERS = ("UVICORN_WORKERS", "WEB_CONCURRENCY")
"""The first goes before the second: uvicorn reads every option from there."""
UVICORN_HEALTHCHECK = "UVICORN_TIMEOUT_WORKER_HEALTHCHECK"

DISCONNECTING = 2.0
"""Seconds that the worker takes after ``shutdown_timeout``."""

_OPTIONS = {
    "-t": "timeout",
    "--timeout": "timeout",
    "--graceful-timeout": "graceful_timeout",
    "-c": "config",
    "--config": "config",
}


def traps(
    environ: Mapping[str, str] = os.environ, directory: str | os.PathLike[str] = "."
) -> Iterator[str]:
    """One sentence for each setting that would end a worker before its time."""
    yield from _gunicorn(environ, pathlib.Path(directory))
    yield from _uvicorn(environ)


def _gunicorn(environ: Mapping[str, str], directory: pathlib.Path) -> Iterator[str]:
    found = _gunicorn_settings(environ, directory)
    for name in ("timeout", "graceful_timeout"):
        if name not in found:
            continue
        text, source = found[name]
        try:
            seconds = float(text)
        except ValueError:
            continue
        if name == "timeout" and seconds == 0:  # none
            continue
        if seconds < DEFAULT_SHUTDOWN_TIMEOUT + DISCONNECTING:
            yield (
                f"gunicorn: its {name} of {seconds:g} s ({source}) ends a worker that "
                f"still drains: shutdown_timeout is {DEFAULT_SHUTDOWN_TIMEOUT:g} s "
                f"unless the app says otherwise; set {name} to "
                f"{DEFAULT_SHUTDOWN_TIMEOUT + 5:g} or more"
            )


def _gunicorn_settings(
    environ: Mapping[str, str], directory: pathlib.Path
) -> dict[str, tuple[str, str]]:
    """By name, values and where they are from: arguments go before the file."""
    arguments = dict(_arguments(environ.get(GUNICORN_ARGUMENTS, "")))
    file = arguments.pop("config", GUNICORN_FILE).removeprefix("file:")
    found = {name: (value, file) for name, value in _assignments(directory / file)}
    for name, value in arguments.items():
        found[name] = value, GUNICORN_ARGUMENTS
    return found


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError:
        return
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not equals and not word.startswith("--") and len(word) > 2:
            option, value = word[:2], word[2:]  # as in -t20
        elif not equals:
            value = words[index + 1] if index + 1 < len(words) else ""
        if option in _OPTIONS:
            yield _OPTIONS[option], value


def _assignments(file: pathlib.Path) -> Iterator[tuple[str, str]]:
    """What the file says outright; it is read, and not run."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if isinstance(statement.value, ast.Constant):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, str(statement.value.value)


def _uvicorn(environ: Mapping[str, str]) -> Iterator[str]:
    name = next((each for each in UVICORN_WORKERS if environ.get(each, "").strip()), "")
    workers = environ.get(name, "").strip()
    isolation = environ.get(ISOLATION, "").strip()
    survives = isolation in OWN_LOCK
    if workers.isdecimal() and int(workers) > 1 and survives:
        seconds = environ.get(UVICORN_HEALTHCHECK, "").strip() or "5"
        if seconds.isdecimal() and int(seconds) > 5:
            # Somebody knows.
            return
        yield (
            f"uvicorn: with {workers} workers ({name}) its supervisor kills one that "
            f"says nothing for {seconds} s, as one does whose code holds the "
            f"interpreter's lock, in spite of {ISOLATION}={isolation}; raise "
            "--timeout-worker-healthcheck"
        )
