"""Closed ranges of numbers, ascending and apart: what is missing, less what is explained. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def joined(spans: Iterable[Span]) -> list[Span]:
    """Sort ranges and join those that touch or overlap."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def without(spans: Iterable[Span], taken: Sequence[Span]) -> list[Span]:
    """Return what of the ranges is left without `taken`."""
    left: list[Span] = []
    others = joined(taken)
    for first, last in spans:
        begin = first
        for other_first, other_last in others:
            if other_last < begin or other_first > last:
                continue
            if other_first > begin:
                left.append((begin, other_first - 1))
            begin = other_last + 1
        if begin <= last:
            left.append((begin, last))
    return left


def common(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """Return what is in both."""
    return without(spans, without(spans, others))


def count(spans: Iterable[Span]) -> int:
    """Count the numbers."""
    return sum(last - first + 1 for first, last in spans)


def at_most(spans: Iterable[Span], ranges: int, numbers: int) -> list[Span]:
    """Return the beginning: so many ranges and so many numbers at most."""
    found: list[Span] = []
    for first, last in spans:
        if len(found) == ranges or numbers <= 0:
            break
        found.append((first, min(last, first + numbers - 1)))
        numbers -= last - first + 1
    return found
