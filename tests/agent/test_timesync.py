"""Who is believed about the clock: recorded answers of chrony 4.3, timesyncd's stamp, the kernel; what boots know."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.timesync import (
    GOOD_FOR_S,
    Kernel,
    Sources,
    Tracking,
    ask_chrony,
    ask_kernel,
    boot_now,
    boots_without_time,
    installed_s,
    parse_tracking,
)
from wire.results import Clock

RECORDED = Path(__file__).parents[1] / "transcripts/clock"
NOW_S = 1_795_409_400.0
SET, UNSET = Kernel(synchronised=True, estimated_error_ms=1.5), Kernel(synchronised=False, estimated_error_ms=16_000.0)


def said(name: str) -> Tracking | None:
    return parse_tracking((RECORDED / f"chrony-{name}.csv").read_text(encoding="ascii"))


def test_what_chrony_says_is_read() -> None:
    heard = said("synchronised")
    assert heard is not None
    assert heard.synchronised
    assert heard.reference_s == pytest.approx(1795409366.310388)
    assert heard.error_ms == pytest.approx((1.309e-6 + 1.430e-6 + 5.975e-6 / 2) * 1000, abs=0.001)


@pytest.mark.parametrize("name", ["nothing-heard", "own-clock-only"])
def test_chrony_that_has_heard_nothing_is_not_synchronised(name: str) -> None:
    heard = said(name)
    assert heard is not None
    assert not heard.synchronised


@pytest.mark.parametrize(
    "text", ["", "506 Cannot talk to daemon", "Could not open connection to daemon", "a,b", "x" + ",y" * 13]
)
def test_what_is_no_answer_of_chrony_is_none(text: str) -> None:
    assert parse_tracking(text) is None


def test_a_chrony_that_is_not_there_does_not_run_or_hangs_says_nothing(tmp_path: Path) -> None:
    assert ask_chrony(["no-such-program"]) is None
    assert ask_chrony(["false"]) is None
    fake = tmp_path / "chronyc"
    fake.write_text(f"#!/bin/sh\n[ \"$*\" = '-c tracking' ] && cat {RECORDED}/chrony-synchronised.csv\n")
    fake.chmod(0o755)
    assert ask_chrony([str(fake)]) == said("synchronised")


def make(
    tmp_path: Path,
    kernel: Kernel | None,
    chrony: Tracking | None = None,
    *,
    timesyncd: bool = False,
    stamp_age_s: float | None = None,
) -> Clock:
    folder = tmp_path / "timesync"
    if timesyncd:
        folder.mkdir()
    if stamp_age_s is not None:
        (folder / "synchronized").touch()
        os.utime(folder / "synchronized", (NOW_S - stamp_age_s, NOW_S - stamp_age_s))
    return Sources(kernel=lambda: kernel, chrony=lambda: chrony, timesync_dir=folder).quality(NOW_S)


def test_the_kernel_alone(tmp_path: Path) -> None:
    assert make(tmp_path, SET) == Clock(synchronised=True, estimated_error_ms=1.5, source="kernel")
    assert make(tmp_path, UNSET) == Clock(synchronised=False, source="kernel")
    assert make(tmp_path, None) == Clock()


def test_chrony_tells_its_error_and_how_old_its_word_is(tmp_path: Path) -> None:
    found = make(tmp_path, UNSET, said("synchronised"))  # without rtcsync chrony does not tell the kernel
    assert (found.synchronised, found.source, found.age_s) == (True, "chrony", 34)
    assert make(tmp_path, UNSET, said("nothing-heard")) == Clock(synchronised=False, source="chrony")


def test_a_word_of_chrony_that_is_too_old_counts_no_more(tmp_path: Path) -> None:
    old = Tracking(synchronised=True, reference_s=NOW_S - GOOD_FOR_S - 1, error_ms=0.5)
    assert make(tmp_path, UNSET, old).synchronised is False
    assert make(tmp_path, SET, old).synchronised is True, "but the kernel may know better"


def test_timesyncd_touches_a_file_when_it_hears_the_time(tmp_path: Path) -> None:
    found = make(tmp_path, UNSET, timesyncd=True, stamp_age_s=600)
    assert (found.synchronised, found.source, found.age_s) == (True, "timesyncd", 600)


def test_timesyncd_that_has_heard_nothing_in_this_boot_is_not_synchronised(tmp_path: Path) -> None:
    assert make(tmp_path, UNSET, timesyncd=True) == Clock(synchronised=False, source="timesyncd")


def test_a_board_without_a_clock_is_told_from_a_pc(tmp_path: Path) -> None:
    assert not boots_without_time(NOW_S, tmp_path), "a PC has no device tree, and its clock on the board"
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    assert boots_without_time(NOW_S, tmp_path)
    rtc = tmp_path / "sys/class/rtc/rtc0"
    rtc.mkdir(parents=True)
    (rtc / "since_epoch").write_text("37\n")
    assert boots_without_time(NOW_S, tmp_path), "a Pi 5 has a clock, and none has given it a battery"
    (rtc / "since_epoch").write_text(f"{NOW_S + 60:.0f}\n")
    assert not boots_without_time(NOW_S, tmp_path), "a clock module that ran on"


def test_this_machine_answers_for_itself() -> None:
    boot_id, boottime_s = boot_now()
    assert len(boot_id) == 36
    assert 0 < boottime_s <= boot_now().boottime_s
    assert 1.6e9 < installed_s() < SystemClock().now().timestamp() + 1
    assert installed_s("/no/such/file") == 0.0
    assert (kernel := ask_kernel()) is None or kernel.estimated_error_ms >= 0


def test_the_clock_asks_at_most_every_few_seconds() -> None:
    asked: list[None] = []

    def count() -> Kernel:
        asked.append(None)
        return SET

    clock = SystemClock(Sources(kernel=count, chrony=lambda: None, timesync_dir=Path("/no/such")))
    assert clock.quality() == clock.quality() == Clock(synchronised=True, estimated_error_ms=1.5, source="kernel")
    assert len(asked) == 1


def test_a_clock_that_was_set_is_asked_about_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([UNSET, SET])
    clock = SystemClock(Sources(kernel=lambda: next(answers), chrony=lambda: None, timesync_dir=Path("/no/such")))
    assert clock.quality().synchronised is False
    later_s = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later_s)
    assert clock.quality().synchronised is True
