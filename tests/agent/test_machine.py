"""The computer's state: /proc/stat and the firmware's flags, as Linux and a Raspberry Pi write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.machine import Computer, load, parse_stat, parse_throttled, was_throttled
from wire.measured import Machine

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = """\
cpu  608415 5336 278771 1452884 12213 0 54596 957 300 0
cpu0 290284 3690 131799 750322 2201 0 26929 467 300 0
cpu1 318130 1646 146972 702562 10011 0 27666 490 0 0
intr 66054912 0 0
ctxt 1
"""
# 10 s later, 100 ticks a second: core 0 idle, core 1 took packets in all the time; 10 ticks of each were stolen.
AFTER = """\
cpu  608415 5336 278771 1453864 12213 0 55596 977 300 0
cpu0 290284 3690 131799 751302 2201 0 26939 477 300 0
cpu1 318130 1646 146972 702562 10011 0 28656 500 0 0
"""


def test_what_the_processors_did_between_two_looks() -> None:
    found = load(parse_stat(BEFORE), parse_stat(AFTER))
    assert found.cpu_percent == pytest.approx(51.0)
    assert found.irq_percent == pytest.approx(99.0)
    assert found.steal_percent == pytest.approx(1.0)


def test_where_nothing_can_be_told_nothing_is_said() -> None:
    assert load({}, {}) == Machine()
    assert load(parse_stat(BEFORE), parse_stat(BEFORE)) == Machine()
    assert load(parse_stat("cpu  1 2 3\n"), parse_stat(AFTER)) == Machine()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("throttled=0x0\n", 0),
        ("throttled=0x50005\n", 0x50005),
        ("50005\n", 0x50005),
        ("0\n", 0),
        ("VCHI initialization failed\n", None),
        ("", None),
    ],
)
def test_flags_are_read_as_vcgencmd_and_sysfs_write_them(text: str, flags: int | None) -> None:
    assert parse_throttled(text) == flags


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ([], None),
        ([0, 0, 0], False),
        ([0x50000, 0x50000], False),  # it was so before the test
        ([0, 0x1, 0], True),  # too little voltage at one look
        ([0x80008, 0x80008], True),  # too hot all the time
        ([0, 0x40000], True),  # between two looks: only the flag since the boot tells
    ],
)
def test_throttled_is_what_stood_or_rose_during_the_test(seen: list[int], wanted: bool | None) -> None:  # noqa: FBT001
    assert was_throttled(seen) is wanted


def test_sysfs_is_asked_before_the_tool_and_other_machines_are_asked_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def tool() -> str | None:
        calls.append("asked")
        return None

    elsewhere = Computer(throttled=tmp_path / "none", tool=tool)
    assert [elsewhere.throttled() for _ in range(3)] == [None] * 3
    assert calls == ["asked"]
    (tmp_path / "get_throttled").write_text("50005\n")
    assert Computer(throttled=tmp_path / "get_throttled", tool=tool).throttled() == 0x50005
    assert calls == ["asked"]
    assert Computer(throttled=tmp_path / "none", tool=lambda: "throttled=0x1\n").throttled() == 1


def test_this_machine_has_processors(tmp_path: Path) -> None:
    assert Computer().cores()["cpu"].total > 0
    assert Computer(stat=tmp_path / "none").cores() == {}
