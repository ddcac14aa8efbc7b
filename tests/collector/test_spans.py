"""Ranges against sets, which cannot be wrong."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from collector import spans

ranges = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


def numbers(of: list[tuple[int, int]]) -> set[int]:
    return {number for first, last in of for number in range(first, last + 1)}


@given(ranges, ranges)
def test_ranges_behave_like_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    mine = spans.joined(one)
    assert numbers(mine) == numbers(one)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(mine))
    assert spans.count(mine) == len(numbers(one))
    assert numbers(spans.without(mine, other)) == numbers(one) - numbers(other)
    assert numbers(spans.common(mine, other)) == numbers(one) & numbers(other)


@given(ranges, st.integers(0, 5), st.integers(0, 50))
def test_at_most_is_a_beginning_within_both_bounds(one: list[tuple[int, int]], count: int, total: int) -> None:
    mine = spans.joined(one)
    found = spans.at_most(mine, count, total)
    assert len(found) <= count
    assert spans.count(found) <= total
    assert sorted(numbers(found)) == sorted(numbers(mine))[: spans.count(found)]
    if len(found) < min(count, len(mine)):
        assert spans.count(found) == total
