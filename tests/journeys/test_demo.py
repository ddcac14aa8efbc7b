"""The demo itself, in small, and whether anything is left of it afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import lab
from lab import cli, sites
from lab.fleet import Fleet
from lab.programs import Program, ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.journey

NOBODY = 65534
DEADLINE_S = 150


@pytest.fixture
def tmpdir() -> Iterator[Path]:
    """Make a temporary folder that anybody may use, and see that nothing is left in it."""
    path = Path(tempfile.mkdtemp(prefix="demo-test-"))
    path.chmod(0o1777)
    try:
        yield path
        assert list(path.iterdir()) == []
        assert processes_in(path) == []
    finally:
        shutil.rmtree(path, ignore_errors=True)


def processes_in(folder: Path) -> list[str]:
    """Name the processes that work in the folder, though it may have been removed, or name it in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if str(folder) in command or str((entry / "cwd").readlink()).startswith(str(folder)):
                found.append(f"{entry.name} {command}")
    return found


def start(tmpdir: Path, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a demo; Python keeps no byte code, so that nothing but the demo writes."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-P", "-m", "lab.cli", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmpdir), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmpdir)},
        process_group=0,
    )


@contextlib.contextmanager
def demo(tmpdir: Path, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """Start a demo; whatever happens, it is asked to end and waited for."""
    process = start(tmpdir, *arguments, prefix=prefix)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            process.communicate(timeout=30)
        process.kill()
        process.wait()


def summary_of(tmpdir: Path, *arguments: str, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Run a demo to its end and return what it printed as JSON."""
    with demo(tmpdir, "--json", *arguments, prefix=prefix) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        found: dict[str, Any] = json.loads(out)
        return found


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Read what it prints until a line begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"it ended before it printed '{beginning}': {process.communicate()[1]}")


def wait_for_end(program: Program) -> None:
    """Wait until it is gone."""
    deadline_s = time.monotonic() + 10
    while program.pid is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def namespaces_of(pid: int) -> list[str]:
    folder = Path("/run/netns")
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(f"pf-{pid}.")] if folder.is_dir() else []


@pytest.mark.root
@pytest.mark.alone
def test_the_demo_in_small_measures_the_truth_and_counts_the_same_everywhere(tmpdir: Path) -> None:
    found = summary_of(tmpdir, "--sites", "1", "--minutes", "0.4")
    assert found["ok"]
    assert [link["operator"] for link in found["links"]] == ["Viettel", "VN VINAPHONE"]
    assert [link["band"] for link in found["links"]] == [3, 3]
    for link in found["links"]:
        assert link["tests"] >= 1
        assert all(abs(ratio - 1) <= 0.08 for ratio in link["download_ratios"])
        assert link["verdict"] == "insufficient data"
    assert [link["seen"] for link in found["links"]] == ["above 40", "below 40"]
    for count in [*found["counts"], found["total"]]:
        assert count["made"] > 0
        assert count["made"] == count["spooled"] == count["journalled"] == count["points"] == count["distinct"]


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["network", "broker", "responder", "agents"])
def test_ctrl_c_at_any_stage_leaves_nothing(tmpdir: Path, stage: str, number: signal.Signals) -> None:
    with demo(tmpdir, "--sites", "1") as process:
        wait_for_line(process, f"{stage}:")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert err.splitlines() == ["interrupted; every process, namespace and file of the demo is gone"]
    assert namespaces_of(process.pid) == []


@pytest.mark.root
def test_ctrl_c_in_the_middle_of_measuring_leaves_nothing_and_a_second_one_changes_nothing(tmpdir: Path) -> None:
    with demo(tmpdir, "--sites", "1") as process:
        wait_for_line(process, " ")  # the first result
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert namespaces_of(process.pid) == []


@pytest.mark.root
def test_what_a_killed_demo_left_is_swept_by_the_next_and_a_living_one_is_left_alone(tmpdir: Path) -> None:
    with demo(tmpdir, "--sites", "1") as killed, demo(tmpdir, "--sites", "1") as living:
        wait_for_line(killed, "broker:")
        wait_for_line(living, "agents:")
        assert namespaces_of(killed.pid)
        killed.kill()
        killed.wait()
        with demo(tmpdir, "--sites", "1") as following:
            wait_for_line(following, "broker:")
            assert namespaces_of(killed.pid) == []
            assert len(list(tmpdir.glob("probe-lab-*"))) == 2
            assert living.poll() is None
            assert namespaces_of(living.pid)


@pytest.fixture
def as_nobody() -> tuple[str, ...]:
    """Give what to put before a Python command to run it without any rights."""
    if os.geteuid() != 0:
        return ()
    setpriv = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    path = f"{Path(lab.__file__).parents[1]}:{sysconfig.get_path('purelib')}"
    for python in (sys.executable, "/usr/bin/python3"):
        prefix = (*setpriv, "env", f"PYTHONPATH={path}", "sh", "-c", f'shift; "{python}" "$@"', "sh")
        tried = subprocess.run([*prefix, "-", "-P", "-c", "import lab.cli"], check=False, capture_output=True, cwd="/")
        if tried.returncode == 0:
            return (*prefix[:-2], f'shift; exec "{python}" "$@"', "sh")
    pytest.skip("this tree, or every Python 3.11 that could run it, is in a folder that others may not read")


def test_on_loopback_nobody_in_particular_can_run_it(tmpdir: Path, as_nobody: tuple[str, ...]) -> None:
    found = summary_of(tmpdir, "--loopback", "--sites", "1", "--minutes", "0.1", prefix=as_nobody)
    assert found["ok"]
    assert [link["tests"] >= 1 for link in found["links"]] == [True]
    assert [link["download_ratios"] for link in found["links"]] == [[]]
    assert found["total"]["made"] == found["total"]["points"] > 0


@pytest.mark.root
@pytest.mark.alone
def test_without_influxdb_the_journal_is_the_last_station_and_a_cell_can_be_the_only_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remote = [site for site in sites.fleet(2) if site.uplink == "cell"]
    monkeypatch.setattr(sites, "fleet", lambda _: tuple(remote))
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo", "--no-influxdb", "--json", "--minutes", "0.1"])
    told = capsys.readouterr()
    assert ending.value.code == 0, told.err
    found = json.loads(told.out)
    (link,) = found["links"]
    assert all(abs(ratio - 1) <= 0.08 for ratio in link["download_ratios"])
    assert found["total"]["made"] == found["total"]["spooled"] == found["total"]["journalled"] > 0
    assert found["total"]["points"] is None


@pytest.mark.root
def test_a_program_that_dies_is_noticed_with_its_last_words() -> None:
    with Fleet(sites.fleet(1), influxdb=False) as fleet:
        fleet.check()
        os.kill(fleet.collector.pid or 0, signal.SIGKILL)
        wait_for_end(fleet.collector)
        with pytest.raises(ProgramError, match="collector ended with status -9"):
            fleet.check()
