"""An older status changes nothing of what is known of a probe, whoever says it again, and whatever its clock says."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from collector_helpers import START
from hypothesis import given, settings
from hypothesis import strategies as st

from collector import service
from collector.instants import microseconds
from collector.journal import Batch, Journal, ProbeStatus
from collector.known import Lives
from wire import codec
from wire.results import Clock
from wire.status import Status

if TYPE_CHECKING:
    from pathlib import Path

YEAR = 365 * 86400


def at(second: float) -> int:
    """Return the collector's clock, in µs since 1970, so long after the beginning."""
    return microseconds(START) + round(second * 1_000_000)


def status(life: float, second: float | None = None, *, online: bool = True, synchronised: bool = True) -> Status:
    """Make what an agent says that began at `life`, both in seconds by its own clock; a last will without `second`."""
    return Status(
        probe_id="p1",
        online=online and second is not None,
        started_at=START + timedelta(seconds=life),
        at=START + timedelta(seconds=second) if second is not None else None,
        clock=Clock(synchronised=synchronised),
    )


def believed(*heard: tuple[float, Status]) -> list[bool]:
    lives = Lives()
    return [lives.believe(one, at(second)) for second, one in heard]


def test_what_a_life_said_before_changes_nothing() -> None:
    birth, later, goodbye = status(0, 1), status(0, 900), status(0, 1000, online=False)
    heard = [(1, birth), (900, later), (901, birth), (902, later), (1000, goodbye), (1001, later), (1002, goodbye)]
    assert believed(*heard) == [True, True, False, False, True, False, False]


def test_a_will_belongs_to_its_life() -> None:
    will = status(0)
    heard = [(1, status(0, 1)), (60, will), (61, status(0, 61)), (70, will), (90, status(80, 90)), (95, will)]
    assert believed(*heard) == [True, True, True, True, True, False]


def test_the_will_of_a_life_never_heard_is_believed_if_that_began_after_all_else() -> None:
    assert believed((100, status(50))) == [True], "the first thing heard"
    assert believed((100, status(0, 100)), (200, status(50))) == [True, False]
    assert believed((100, status(0, 100)), (200, status(150)), (201, status(0, 100))) == [True, True, False]


def test_a_restart_with_an_unset_clock_is_news_and_its_past_never_is() -> None:
    before = status(0, 5000)
    unset = [status(-9999, second, synchronised=False) for second in (-9990, -9090)]
    heard = [(5000, before), (6000, unset[0]), (6001, before), (6900, unset[1]), (6901, unset[0])]
    assert believed(*heard) == [True, True, False, True, False]
    heard += [(7000, status(-9999, 7000)), (7001, unset[1]), (7002, before), (8000, status(7900, 8000))]
    assert believed(*heard)[5:] == [True, False, False, True]


def test_a_clock_that_was_ahead_locks_nobody_out_and_does_not_come_back() -> None:
    ahead = [status(YEAR, YEAR + second, synchronised=False) for second in (1, 900)]
    heard = [(1, ahead[0]), (900, ahead[1]), (901, ahead[0]), (1000, status(YEAR, 1000)), (1001, ahead[1])]
    assert believed(*heard) == [True, True, False, True, False]
    heard += [(2000, status(1900, 2000)), (YEAR + 5000, status(1900, YEAR + 5000)), (YEAR + 5001, ahead[1])]
    assert believed(*heard)[5:] == [True, True, False]


def test_a_clock_minutes_ahead_is_no_door_for_what_was_said_minutes_ago() -> None:
    heard = [(second, status(120, second + 120, synchronised=False)) for second in (0, 900, 1800)]
    again = [(second, heard[1][1]) for second in (1801, 2600)]
    assert believed(*heard, *again) == [True, True, True, False, False]


def test_a_status_that_says_neither_when_nor_who_is_believed_and_opens_no_door() -> None:
    nameless = Status(probe_id="p1", online=True, spool_error="disk full")
    heard = [(1, status(0, 1)), (900, status(0, 900)), (1000, nameless), (1001, status(0, 1)), (1002, nameless)]
    assert believed(*heard) == [True, True, True, False, True]


def test_the_will_of_a_life_never_heard_is_believed_if_its_clock_was_not_set() -> None:
    """Its births were dropped while the collector was away, and its clock was behind when it began."""
    will = status(-1200, synchronised=False)
    before = status(-600, 0)
    heard = [(0, before), (2 * 86400, will), (2 * 86400 + 1, before), (3 * 86400, will)]
    assert believed(*heard) == [True, True, False, True]


def test_a_clock_that_was_ahead_and_is_heard_late_hides_nothing_that_was_said_since() -> None:
    ahead = status(7200, 7200, synchronised=False)
    told = [ahead, status(7200, 300), status(7200, 1200), status(7200, 1800, online=False)]
    restarted = [ahead, status(7200, 420, online=False), status(480, 480), status(480, 2400, online=False)]
    for story in (told, restarted):
        for heard_at in (3600, 10_000):
            assert believed(*((heard_at, one) for one in story)) == [True] * 4
            assert believed(*((heard_at, one) for one in story * 2))[4:] == [False] * 4


def test_what_a_clock_said_that_was_ahead_is_old_when_its_time_has_come() -> None:
    ahead = status(3600, 3600, synchronised=False)
    heard = [(0, ahead), (300, status(3600, 300)), (600, status(3600)), (7200, ahead)]
    assert believed(*heard) == [True, True, True, False]
    assert believed(heard[0], heard[2], heard[3]) == [True, True, False]


def test_a_clock_that_nobody_calls_set_may_be_set_back() -> None:
    """By hand; or its daemon called it set, and no longer does."""
    ahead = [status(YEAR, YEAR + second, synchronised=False) for second in (0, 900)]
    right = [status(YEAR, second, synchronised=False) for second in (1000, 1900)]
    heard = [(0, ahead[0]), (900, ahead[1]), (1000, right[0]), (1900, right[1])]
    again = [(1901, right[0]), (1902, ahead[1]), (2 * YEAR, ahead[1]), (2 * YEAR, right[1])]
    assert believed(*heard, *again) == [True] * 4 + [False] * 4


def test_a_clock_that_is_called_set_and_is_ahead_holds_off_no_right_one() -> None:
    heard = [(0, status(YEAR, YEAR)), (900, status(900, 900)), (901, status(YEAR, YEAR))]
    assert believed(*heard) == [True, True, False]


def test_what_was_remembered_before_clocks_were_told_apart_can_be_read() -> None:
    """By rows of an earlier version: begin, newest, newest that was ahead."""
    rows = [[at(0), at(900), at(-(10**9))], [at(YEAR), at(1000), at(YEAR + 10)]]
    lives = msgspec.json.decode(msgspec.json.encode([rows]), type=Lives)
    for old in (status(0, 900), status(0), status(YEAR, YEAR + 10, synchronised=False), status(YEAR, 1000)):
        assert not lives.believe(old, at(1100))
    assert lives.believe(status(YEAR, 1100), at(1100))


class Said(NamedTuple):
    """A true status, when it was said by a right clock, and its life."""

    second: float
    status: Status
    life: int


@st.composite
def stories(draw: st.DrawFn) -> list[Said]:
    """Tell what a probe truly says: lives with clocks that are set, or wrong and set later; losses, goodbyes, cuts."""
    said: list[Said] = []
    second = 0.0
    for life in range(draw(st.integers(1, 5))):
        second += draw(st.sampled_from([30, 3000]))
        error_s = draw(st.sampled_from([0, 0, -1e8, -3600, -20, 120, 7200, 90_000, 1e8]))
        began_s = second + error_s + life / 1000
        is_set = error_s == 0 and draw(st.booleans())
        will = status(began_s, synchronised=is_set)
        for _ in range(draw(st.integers(1, 4))):
            second += draw(st.sampled_from([6, 300, 900]))
            said.append(Said(second, status(began_s, second + error_s, synchronised=is_set), life))
            match draw(st.sampled_from(["", "", "lost", "set", "no daemon"])):
                case "lost":
                    second += 6
                    said.append(Said(second, will, life))
                case "set":
                    error_s, is_set = 0, True
                case "no daemon" if is_set:  # it is a day until what it said counts for nothing
                    second += 100_000
                    is_set = False
        second += 6
        end = draw(st.sampled_from(["goodbye", "cut", ""]))
        if end == "goodbye":
            goodbye = status(began_s, second + error_s, online=False, synchronised=is_set)
            said.append(Said(second, goodbye, life))
        elif end == "cut":
            said.append(Said(second, will, life))
    return said


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_what_is_heard_in_order_is_believed_however_late_and_what_is_said_again_is_not(data: st.DataObject) -> None:
    """All but the will of the present life, which cannot be told from a new loss. A broker may have dropped some."""
    told = data.draw(stories())
    dropped = data.draw(st.sets(st.sampled_from(told[:-1]), max_size=10)) if told[1:] else set()
    lives, heard, arrives = Lives(), list[Said](), 0.0
    for number, one in enumerate(told):
        if data.draw(st.booleans()):  # the collector was away, and hears all until then at once
            away = data.draw(st.integers(number, len(told) - 1))
            arrives = told[away].second + data.draw(st.sampled_from([0, 0, 3600, 2e8]))
        if one in dropped:
            continue
        arrives = max(arrives, one.second)
        assert lives.believe(one.status, at(arrives)), one
        lives = msgspec.json.decode(msgspec.json.encode(lives), type=Lives)
        heard.append(one)
        repeatable = [old for old in heard if old.status.at is not None or old.life != one.life]
        for old in data.draw(st.lists(st.sampled_from(repeatable), max_size=3)) if repeatable else ():
            assert not lives.believe(old.status, at(arrives)), old
    for old in repeatable:
        later = data.draw(st.sampled_from([1, 3600, 100_000, 3e8]))
        assert not lives.believe(old.status, at(arrives + later)), old


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_in_whatever_order_they_come_the_newest_of_set_clocks_stands_at_the_end(data: st.DataObject) -> None:
    lives = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    told = [status(100 * life, 100 * life + number) for life, count in enumerate(lives) for number in range(count)]
    wills = [status(100 * life) for life in range(len(lives) - 1)]
    mixed = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from([*told, *wills]), max_size=20))]))
    known, stands = Lives(), None
    for number, one in enumerate(mixed):
        if known.believe(one, at(1000 + number)):
            stands = one
    assert stands == told[-1]


def told_of(folder: Path, *heard: tuple[float, Status]) -> list[tuple[int, bool]]:
    """Let a collector hear statuses; return the points that it makes, time in µs and `online`, as they are made."""
    told: list[str] = []
    hear = service._on_status(Journal(folder / "journal.db", fsync=False), told.append)
    with Journal(folder / "journal.db", fsync=False) as journal:
        for second, one in heard:
            payload = ProbeStatus("p1", codec.encode(one))
            journal.append(Batch(received_us=at(second), statuses=[payload]))
            hear(payload, at(second), payload in journal.news)
    return [(int(line.rpartition(" ")[2]) // 1000, "online=true" in line) for line in told]


def test_an_old_status_that_is_said_again_writes_nothing_at_the_present_time(tmp_path: Path) -> None:
    unset = status(-600, -90, synchronised=False)
    heard = [(200, status(0, 1)), (201, status(0)), (290, status(190, 290)), (291, status(0, 1)), (292, status(0))]
    again = [(300, unset), (301, unset), (302, heard[2][1])]
    told = told_of(tmp_path, *heard, *again)
    assert told == [(at(1), True), (at(201), False), (at(290), True), (at(1), True), (at(300), True), (at(290), True)]


def test_what_was_said_last_is_the_newest_point_whatever_the_clock(tmp_path: Path) -> None:
    """Grafana shows the newest point of a probe, and nothing else says that it is back, or gone."""
    behind = [status(-9000, second, synchronised=False) for second in (-8999, -8099)]
    heard = [(0, status(-500, 0)), (100, status(-500)), (200, behind[0]), (1100, behind[1])]
    told = told_of(tmp_path, *heard)
    assert told == [(at(0), True), (at(100), False), (at(200), True), (at(1100), True)]


def test_of_what_is_heard_late_and_at_once_the_last_is_the_newest_point(tmp_path: Path) -> None:
    story = [status(7200, 7200, synchronised=False), status(7200, 300), status(7200), status(7200, 1800, online=False)]
    told = told_of(tmp_path, *((3600, one) for one in story))
    assert [online for _, online in told] == [one.online for one in story]
    assert sorted(told) == told
    assert told[-1][0] - at(3600) < 10
