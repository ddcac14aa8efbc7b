from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from lab import rundir
from lab.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def tmpdir_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


OWNER = """\
import subprocess, sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from lab.rundir import RunDir
run = RunDir()
child = subprocess.Popen(["sleep", "1000"], cwd=run.folder("deep/inside"), process_group=0)
print(child.pid, flush=True)
time.sleep(1000)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123  # may vanish between the two
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_its_end_leaves_no_process_and_no_file() -> None:
    with RunDir() as run:
        child = subprocess.Popen(["sleep", "1000"], cwd=run.folder("a"))
        assert rundir.processes_in(run.path) == [child.pid]
    assert child.wait() == -signal.SIGKILL
    assert not run.path.exists()


def test_somebody_who_looks_around_from_another_terminal_is_left_alone() -> None:
    with RunDir() as run:
        visitor = subprocess.Popen(["sleep", "1000"], cwd=run.path, start_new_session=True)
    try:
        assert visitor.poll() is None
    finally:
        visitor.kill()
        visitor.wait()


def test_the_shell_it_was_started_from_is_left_alone(tmp_path: Path) -> None:
    """A shell in the run's folder starts a process that sweeps the folder away."""
    with RunDir() as run:
        kept = tmp_path / "probe-lab-run-kept"
        kept.mkdir()
        (kept / "session").write_text((run.path / "session").read_text())
    sweep = "import sys, tempfile; tempfile.tempdir = sys.argv[1]; from lab import rundir; print(len(rundir.sweep()))"
    script = 'cd "$0"; "$1" -c "$2" "$3"; echo alive'
    done = subprocess.run(
        ["sh", "-c", script, str(kept), sys.executable, sweep, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "alive"]
    assert not kept.exists()


def test_closing_twice_does_no_harm() -> None:
    run = RunDir()
    run.close()
    run.close()


def test_a_living_neighbour_is_left_alone() -> None:
    with RunDir() as one, RunDir() as other:
        assert one.path != other.path
        assert rundir.sweep() == []
        assert one.path.is_dir()


def test_what_a_killed_owner_left_is_swept_at_the_next_start(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, process_group=0
    )
    try:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        (left,) = tmp_path.glob("probe-lab-*")
        assert rundir.sweep() == []
        owner.kill()
        owner.wait()
        assert alive(child)
        with RunDir() as run:
            assert list(tmp_path.glob("probe-lab-*")) == [run.path]
        assert not left.exists()
        assert not alive(child)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()  # type: ignore[union-attr]  # it is a pipe


def test_a_folder_that_is_not_ours_to_open_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "probe-lab-run-link").symlink_to("/")
    assert rundir.sweep() == []
    assert os.path.lexists(tmp_path / "probe-lab-run-link")
