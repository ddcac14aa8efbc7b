"""What agents need of `statistics`, which brings fractions and decimals along: a quarter of a megabyte, for ever.

All raise ValueError or ZeroDivisionError for nothing.
"""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def fmean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    if not values:
        raise ValueError("nothing has no middle")
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def pvariance(values: Sequence[float]) -> float:
    """Return the mean square distance from the mean."""
    mean = fmean(values)
    return fsum([(value - mean) ** 2 for value in values]) / len(values)
