"""What both demos do: run an example under uvicorn, and talk about it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

__all__ = ["say", "serving"]


def say(text: str = "") -> None:
    print(text, flush=True)


@contextlib.contextmanager
def serving(app: str, directory: pathlib.Path, **environ: str) -> Iterator[str]:
    """Run ``app`` under uvicorn until the block ends; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", app, "--port=0", "--no-access-log"],
        cwd=directory,
        env={**os.environ, **environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    url, log = None, []
    for line in process.stderr:
        log.append(line)
        if match := re.search(r"running on (http://\S+)", line):
            url = match[1]
            break
    if url is None:
        raise SystemExit("uvicorn did not start:\n" + "".join(log))
    rest = threading.Thread(target=_forward, args=(process.stderr,))
    rest.start()
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        rest.join()


def _forward(lines: Iterator[str]) -> None:
    """Show what the worker logs."""
    for line in lines:
        if "Connect" in line or "event loop" in line:
            say(f"    log: {line.strip()}")
