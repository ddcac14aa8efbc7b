"""Thinning: a change is told at once, and what is folded is counted, with its extremes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from agent.thinning import Thinner, Thinning
from wire.radio import RadioReading, Technology

if TYPE_CHECKING:
    from wire.measured import Radio

STILL = RadioReading(technology=Technology.LTE, band=3, cell_id=7, rsrp_dbm=-97, sinr_db=10)


def test_what_stays_the_same_is_told_every_few_minutes_with_its_count() -> None:
    thinner = Thinner(Thinning(full_every_s=600))
    told = [thinner.look(STILL, 60.0 * minute) for minute in range(31)]
    assert [(minute, one.samples) for minute, one in enumerate(told) if one is not None] == [
        (0, 1),
        (10, 10),
        (20, 10),
        (30, 10),
    ]


def test_another_cell_or_technology_is_told_at_once() -> None:
    thinner = Thinner(Thinning())
    thinner.look(STILL, 0)
    assert thinner.look(STILL, 1) is None
    for reading in (
        RadioReading(technology=Technology.LTE, band=3, cell_id=8, rsrp_dbm=-97, sinr_db=10),
        RadioReading(technology=Technology.UMTS, band=3, cell_id=8, rsrp_dbm=-97, sinr_db=10),
        RadioReading(technology=Technology.UMTS, band=3, cell_id=8, rsrp_dbm=-97),
    ):
        assert thinner.look(reading, 2) is not None


def test_a_slow_drift_is_told_when_it_has_come_far_enough() -> None:
    thinner = Thinner(Thinning(rsrp_db=3))
    levels = [-90 - step / 2 for step in range(13)]
    told = [thinner.look(RadioReading(rsrp_dbm=level), index) for index, level in enumerate(levels)]
    assert [one.reading.rsrp_dbm for one in told if one is not None] == [-90, -93, -96]


def test_after_a_failed_look_the_next_one_is_told_and_still_counts_those_before() -> None:
    thinner = Thinner(Thinning())
    thinner.look(STILL, 0)
    thinner.look(STILL, 1)
    thinner.failed()
    record = thinner.look(STILL, 2)
    assert record is not None
    assert record.samples == 2


def test_the_end_tells_what_is_folded() -> None:
    thinner = Thinner(Thinning())
    assert thinner.rest() is None
    thinner.look(STILL, 0)
    thinner.look(STILL, 1)
    rest = thinner.rest()
    assert rest is not None
    assert (rest.samples, rest.reading) == (1, STILL)
    assert thinner.rest() is None


level = st.none() | st.floats(-140, 30).map(lambda value: round(value, 1))
readings = st.builds(RadioReading, rsrp_dbm=level, rsrq_db=level, sinr_db=level, band=st.sampled_from([3, 3, 3, 8]))


@given(st.lists(st.tuples(readings, st.floats(0, 300)), min_size=1, max_size=60))
def test_nothing_is_hidden_but_small_moves(looks: list[tuple[RadioReading, float]]) -> None:
    thinning = Thinning()
    thinner = Thinner(thinning)
    at_s, since = 0.0, list[RadioReading]()
    shown: list[Radio] = []
    for reading, pause_s in looks:
        at_s += pause_s
        since.append(reading)
        record = thinner.look(reading, at_s)
        if record is None:
            last = shown[-1].reading
            assert last.band == reading.band
            if last.rsrp_dbm is not None and reading.rsrp_dbm is not None:
                assert abs(last.rsrp_dbm - reading.rsrp_dbm) < thinning.rsrp_db
            continue
        assert record.reading == reading
        assert record.samples == len(since)
        if record.samples > 1:
            seen = [one.rsrp_dbm for one in since if one.rsrp_dbm is not None]
            assert record.lowest is not None
            assert record.highest is not None
            assert record.lowest.rsrp_dbm == min(seen, default=None)
            assert record.highest.rsrp_dbm == max(seen, default=None)
        shown.append(record)
        since = []
    rest = thinner.rest()
    assert sum(one.samples for one in shown) + (rest.samples if rest else 0) == len(looks)
