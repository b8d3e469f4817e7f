"""Whether the test file of a module's name covers all of it, alone.

python -m tests.mirror
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "inngest_connect_asgi"
FOLDERS = ("protocol", "runtime", "isolation")
NEEDS = {"isolation/interpreter": (3, 14)}
"""The Python without which a module can't be run."""
CONFIGURATION = """
[run]
branch = true
concurrency = thread
include = */inngest_connect_asgi/{}.py
[report]
exclude_also = if TYPE_CHECKING:
partial_also = if sys.platform
"""


def modules() -> Iterator[str]:
    for folder in FOLDERS:
        for file in sorted((PACKAGE / folder).rglob("*.py")):
            module = str(file.relative_to(PACKAGE).with_suffix(""))
            if file.stem != "__init__" and sys.version_info >= NEEDS.get(module, ()):
                yield module


def complaint(module: str) -> str:
    """What its tests leave out, or empty."""
    folder, _, name = module.rpartition("/")
    tests = f"tests/{folder}/test_{name}.py"
    if not (ROOT / tests).exists():
        return f"there is no {tests}"
    with tempfile.TemporaryDirectory() as directory:
        options = [f"--rcfile={directory}/rc", f"--data-file={directory}/data"]
        report = pathlib.Path(directory, "report.json")
        pathlib.Path(directory, "rc").write_text(CONFIGURATION.format(module))
        ran = _run("run", *options, "-m", "pytest", "--quiet", tests)
        if ran.returncode:
            return ran.stdout[-2000:]
        _run("json", *options, "-o", str(report))
        (file,) = json.loads(report.read_text())["files"].values()
    left_out = [f"line {line}" for line in file["missing_lines"]]
    left_out += [f"{start} to {end}" for start, end in file["missing_branches"]]
    return ", ".join(left_out)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coverage", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> int:
    names = list(modules())
    with ThreadPoolExecutor(2) as pool:
        complaints = dict(zip(names, pool.map(complaint, names), strict=True))
    for module, text in complaints.items():
        print(f"{module}: {text or 'all of it'}")
    return 1 if any(complaints.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
