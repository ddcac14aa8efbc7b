"""Foreign programs: their output, their end, and what they leave behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.measurements.base import MeasurementFailed, run_killable
from wire.reasons import Reason


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_output_input_and_status_come_back() -> None:
    done = run_killable(["sh", "-c", "cat; echo first >&2; echo ' last ' >&2; exit 3"], deadline_s=30, stdin=b"given")
    assert (done.status, done.stdout, done.complaint, done.overran) == (3, b"given", "last", False)


def test_much_output_does_not_block() -> None:
    done = run_killable(["sh", "-c", "head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2"], deadline_s=30)
    assert (len(done.stdout), len(done.stderr)) == (2_000_000, 2_000_000)


def test_a_deadline_kills_the_program_and_all_it_started() -> None:
    begun_s = time.monotonic()
    done = run_killable(["sh", "-c", "trap '' TERM; sleep 60 & echo $!; echo $$; wait"], deadline_s=0.5)
    assert done.overran
    assert time.monotonic() - begun_s < 30
    pids = [int(pid) for pid in done.stdout.split()]
    while any(map(is_running, pids)):  # killed, but on a busy machine not yet gone
        assert time.monotonic() - begun_s < 30
        time.sleep(0.02)


def test_a_program_that_does_not_read_its_input_is_no_error() -> None:
    assert run_killable(["true"], deadline_s=30, stdin=b"x" * 1_000_000).status == 0


def test_a_program_that_is_not_there_is_a_missing_tool() -> None:
    with pytest.raises(MeasurementFailed, match="no-such-tool is not installed") as failure:
        run_killable(["no-such-tool"], deadline_s=1)
    assert failure.value.reason is Reason.TOOL_MISSING


def test_a_program_that_may_not_be_run_is_a_failed_tool(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("x")
    with pytest.raises(MeasurementFailed) as failure:
        run_killable([str(tmp_path / "tool")], deadline_s=1)
    assert failure.value.reason is Reason.TOOL_FAILED


def test_programs_speak_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "vi_VN.UTF-8")
    assert run_killable(["sh", "-c", "echo $LC_ALL"], deadline_s=30).stdout == b"C.UTF-8\n"
