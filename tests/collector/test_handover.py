from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.handover import Handover
from collector.journal import MAX_ID


def put(handover: Handover, ids: range) -> None:
    handover.put(ids, [*map(str, ids)])


def numbers(handover: Handover, written: int, most: int = 100) -> list[int]:
    return [*map(int, handover.after(written, most))]


def test_what_follows_without_a_gap_is_handed_over_until_it_is_written() -> None:
    handover = Handover()
    put(handover, range(5, 8))
    put(handover, range(8, 9))
    put(handover, range(12, 14))
    assert numbers(handover, 3) == [], "4 is in the journal only"
    assert numbers(handover, 4) == [5, 6, 7, 8]
    assert numbers(handover, 4, most=2) == [5, 6], "and again, as when the database did not take it"
    assert numbers(handover, 6) == [7, 8]
    assert (numbers(handover, 8), handover.first) == ([], 12)
    assert numbers(handover, 11) == [12, 13]
    assert numbers(handover, 13) == []


def test_it_holds_no_more_than_it_may() -> None:
    handover = Handover(3)
    assert handover.wanted
    put(handover, range(1, 3))
    put(handover, range(3, 7))
    assert not handover.wanted
    assert numbers(handover, 0) == [1, 2, 3]
    assert numbers(handover, 2) == [3]
    assert handover.wanted


@pytest.mark.parametrize(
    ("ids", "lines"), [(range(0), ["1", "2"]), (range(1, 3), ["1", ""]), (range(1, 2), ["1", "2"])]
)
def test_results_without_ids_or_lines_are_left_to_the_journal(ids: range, lines: list[str]) -> None:
    handover = Handover()
    handover.put(ids, lines)
    assert (numbers(handover, 0), handover.first) == ([], MAX_ID)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=12), st.integers(0, 40), st.integers(1, 9))
def test_what_is_handed_over_is_a_run_of_what_was_put(blocks: list[tuple[int, int]], written: int, most: int) -> None:
    handover = Handover()
    held: list[int] = []
    last = 0
    for gap, count in blocks:
        first = last + 1 + gap
        last = first + count - 1
        put(handover, range(first, last + 1))
        held += range(first, last + 1)
    found = numbers(handover, written, most)
    wanted = []
    while written + 1 + len(wanted) in held and len(wanted) < most:
        wanted.append(written + 1 + len(wanted))
    assert found == wanted
