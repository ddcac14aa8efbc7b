"""`probe-lab soak throughput`: how it judges, and a few tests for real."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from lab.throughput.endurance import Left
from lab.throughput.soak import BOTH, ENDED_AT_ONCE, summary


def lefts(tests: int, *, kb_per_test: float = 0.0, **last: object) -> list[Left]:
    made = [
        Left(
            tests=number,
            at_s=number * 1.2,
            rss_bytes=30_000_000 + int(number * kb_per_test * 1000),
            descriptors=9,
            threads=1,
            children=0,
            outcome=BOTH,
        )
        for number in range(1, tests + 1)
    ]
    made[-1] = msgspec.structs.replace(made[-1], **last)
    return made


def test_what_stays_flat_is_good() -> None:
    report = summary(lefts(1000))
    assert report.good
    assert (report.tests, report.outcomes, report.grown_kb_per_test) == (1000, {BOTH: 1000}, 0.0)


def test_a_leak_of_the_wrappers_own_size_is_found() -> None:
    report = summary(lefts(1000, kb_per_test=8.0))
    assert report.grown_kb_per_test == pytest.approx(8.0, rel=0.1)
    assert not report.good


def test_memory_that_grows_only_at_first_is_no_leak() -> None:
    warm = [msgspec.structs.replace(left, rss_bytes=left.rss_bytes - 5_000_000) for left in lefts(1000)[:150]]
    assert summary([*warm, *lefts(1000)[150:]]).good


@pytest.mark.parametrize(
    "last", [{"descriptors": 10}, {"threads": 2}, {"children": 1}, {"outcome": "timeout"}], ids=str
)
def test_whatever_is_left_behind_is_found(last: dict[str, object]) -> None:
    assert not summary(lefts(1000, **last)).good


def test_a_test_in_a_hundred_may_end_before_it_began_and_no_more() -> None:
    assert summary(lefts(1000, outcome=ENDED_AT_ONCE)).good
    often = [msgspec.structs.replace(left, outcome=ENDED_AT_ONCE) for left in lefts(1000)[:20]]
    assert not summary([*often, *lefts(1000)[20:]]).good


@pytest.mark.root
def test_some_tests_in_a_row_leave_nothing_behind() -> None:
    command = [sys.executable, "-m", "lab.cli", "soak", "throughput", "--tests", "5", "--json", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["outcomes"] == {BOTH: 5}
    assert (found["descriptors_left"], found["threads_left"], found["children_left"]) == (0, 0, 0)
