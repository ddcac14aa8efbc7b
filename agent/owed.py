"""What the collector has stored and the disk does not let go: it is not sent again, and let go when the disk is better.

Kept in memory, by the numbers in the spool's file (`agent.lives`): while the file is open no number is given twice, so
what an acknowledgement's checks have proved once stays true.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AT_MOST: Final = 1000
"""Ranges. A collector acknowledges what it is sent, and that goes in order: a backlog is a few."""

_END: Final = 2**63 - 1


class Owed:
    """Closed ranges of numbers, ascending and apart."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def add(self, numbers: Iterable[int]) -> None:
        """Take these in. What would be too many ranges is forgotten, latest first: it is sent again."""
        joined: list[tuple[int, int]] = []
        for first, last in sorted([*self._ranges, *((number, number) for number in numbers)]):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        self._ranges = joined[:_AT_MOST]

    def clear(self) -> None:
        """Forget all."""
        self._ranges = []

    def others(self) -> Iterator[tuple[int, int]]:
        """Give the ranges, open at both ends, of all other numbers."""
        edges = [(-_END, -_END), *self._ranges, (_END, _END)]
        return ((before[1], after[0]) for before, after in pairwise(edges))
