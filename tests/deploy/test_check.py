"""scripts/check runs what failed once more, but nothing that would have lost a result."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = ROOT / "tests/conftest.py"
FAILS_THE_FIRST_TIME = """
    from pathlib import Path

    import pytest

    {marker}
    def test_of_something():
        tries = Path(__file__).with_name("tries")
        with tries.open("a") as file:
            file.write("x")
        if tries.stat().st_size == 1:
            raise {error}("1 lost")
"""


def check(folder: Path, *, marker: str, error: str) -> tuple[int, int, str]:
    """Let the check run a test that fails the first time; return its status, the tries, and what it said."""
    (folder / "test_it.py").write_text(dedent(FAILS_THE_FIRST_TIME.format(marker=marker, error=error)))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = once: x\ntestpaths = .\naddopts = -p conftest\n")
    function = re.search(r"^tests\(\) \{.*?^\}", (ROOT / "scripts/check").read_text(), re.DOTALL | re.MULTILINE)
    assert function is not None
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\nchosen=0\n{function[0]}\ntests --numprocesses 1"],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "tests"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, (folder / "tries").stat().st_size, done.stdout + done.stderr


def test_what_fails_is_tried_once_more(tmp_path: Path) -> None:
    status, tries, said = check(tmp_path, marker="", error="AssertionError")
    assert (status, tries) == (0, 2), said


def test_a_lost_result_is_final(tmp_path: Path) -> None:
    status, tries, said = check(tmp_path, marker="@pytest.mark.once", error="AssertionError")
    assert status != 0, said
    assert tries == 1
    assert "no second try" in said
    assert "1 lost" in said


def test_a_part_that_did_not_start_is_no_lost_result(tmp_path: Path) -> None:
    status, tries, said = check(tmp_path, marker="@pytest.mark.once", error="OSError")
    assert (status, tries) == (0, 2), said


def test_what_is_final_is_there(request: pytest.FixtureRequest) -> None:
    (plugin,) = [
        one for one in request.config.pluginmanager.get_plugins() if getattr(one, "__file__", "") == str(CONFTEST)
    ]
    for name in plugin.ONCE:
        path, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / "tests" / path).read_text(), name
