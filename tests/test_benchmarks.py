"""The benchmarks still run, and give figures; how good they are is not asked here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.__main__ import PARTS

from .servers import ROOT

TABLE = re.compile(r"^\| (?!---)(.+) \|$", re.MULTILINE)
FIGURE = re.compile(r"\d")


@pytest.mark.timeout(170)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK's connect
@pytest.mark.parametrize("part", PARTS)
def test_each_part_gives_figures(part: str) -> None:
    try:
        import inngest.connect  # noqa: F401
    except ImportError as error:
        pytest.skip(f"the official worker is not installed: {error}")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "--quick", part]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=160
    )
    assert done.returncode == 0, done.stderr
    _, _, report = done.stdout.partition("\n## ")
    for worker in ("`inngest.connect`", "this worker, thread", "this worker, process"):
        assert worker in report
    rows = [row.split(" | ") for row in TABLE.findall(report)]
    figures = [row for row in rows if any(FIGURE.search(cell) for cell in row[1:])]
    assert len(figures) >= 4
    assert "nan" not in report
