"""What a run tells of the cost of its kind, also one that was ended early, and what the next one will cost. Pure."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.meter import FASTEST_BYTES_PER_S
from wire.measured import Failed, Throughput
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from agent.planner import Visit, Wish
    from wire.measured import Transfer
    from wire.results import Outcome

_ON_THE_LINK: Final = 1.05
"""Bytes of the interface for each of payload: headers and what acknowledges them."""
_WORTH_A_TRY: Final = 0.25
"""Of a guess: with less left no run is begun, not even to find out what it costs."""
_BELIEVED: Final = timedelta(days=10)
_LEAST_S: Final = 0.1
_SAMPLES: Final = 24
"""How many of the last runs tell what a run costs."""
_USUAL_SPREAD: Final = 0.4
"""Coefficient of variation from test to test on a cell (METHOD.md 2.4)."""


class Cost(NamedTuple):
    """Bytes of a run, with its upload or without; `cut_short`: as many as all of it would have moved at its pace."""

    run_bytes: int
    upload: bool
    cut_short: bool


def of(
    outcome: Outcome, spent_bytes: int | None, *, length_s: float, pace_bytes_per_s: float | None = None
) -> Cost | None:
    """Tell what the like of this run cost; None if it tells nothing. `length_s`: one transfer, its start included.

    A run that was cut short has to tell something: else the guess that let it begin lets the same one begin every day.
    `pace_bytes_per_s`: that of a download which the plan ended before anything was measured.
    """
    if isinstance(outcome, Failed) and pace_bytes_per_s is not None:
        return Cost(round(length_s * _on_the_link(pace_bytes_per_s)), upload=False, cut_short=True)
    if spent_bytes is None or not isinstance(outcome, Throughput):
        return None
    if outcome.upload_failure not in {None, Reason.BUDGET_SHORT, Reason.QUOTA_REACHED}:
        return None
    cut = [one for one in (outcome.download, outcome.upload) if one is not None and one.cut_short is not None]
    by_the_plan = Invalid.QUOTA_REACHED in outcome.invalid
    missing = sum(_missing_bytes(one, length_s) for one in cut) if by_the_plan else 0
    return Cost(spent_bytes + missing, outcome.upload is not None, bool(cut))


def expect(wish: Wish, visits: Sequence[Visit], day: date, *, upload: bool, room_bytes: float | None = None) -> float:
    """Expect what a run will move, in bytes: the mean of the last of its kind, else a guess scaled by the others.

    A guess alone forbids no run: where nothing is known, `room_bytes` are enough for one that is worth a try. Figures
    are believed for ten days: of a link that was faster then, or a job that was longer, something new is learnt.
    """
    of_job = [visit for visit in visits if visit.job == wish.job and visit.run_bytes is not None]
    fresh = [visit for visit in of_job if not visit.cut_short or day - visit.day < _BELIEVED]
    usual = wish.usual_bytes(upload=upload)
    known = _mean_bytes(wish, fresh, upload=upload)
    if known is not None and day - max(visit.day for visit in fresh) < _BELIEVED:
        return known
    guess = usual if known is None else min(usual, known)
    return guess if room_bytes is None else min(guess, max(room_bytes, guess * _WORTH_A_TRY))


def _mean_bytes(wish: Wish, visits: Sequence[Visit], *, upload: bool) -> float | None:
    """Take the mean of the last of a kind; of the other one, scaled, where of this no run came to its end."""
    for came_to_its_end in (True, False):
        for kind in (upload, not upload):
            like = [visit for visit in visits if visit.upload is kind][-_SAMPLES:]
            if like and not (came_to_its_end and all(visit.cut_short for visit in like)):
                mean = sum(visit.run_bytes or 0 for visit in like) / len(like)
                return max(1.0, mean * wish.usual_bytes(upload=upload) / wish.usual_bytes(upload=kind))
    return None


def both(wish: Wish, visits: Sequence[Visit], day: date, *, room_bytes: float | None = None) -> tuple[float, float]:
    """Expect what a run will move without its upload, and with it; twice the same where none is wanted."""
    down = expect(wish, visits, day, upload=False, room_bytes=room_bytes)
    return down, max(down, expect(wish, visits, day, upload=True)) if wish.upload else down


def spread(wish: Wish, visits: Sequence[Visit]) -> float:
    """Return the coefficient of variation of what a job's last runs moved, those with upload and without apart."""
    squares, number = 0.0, 0
    for kind in (True, False):
        moved = [visit.run_bytes or 0 for visit in visits if visit.job == wish.job and visit.upload is kind]
        like = [run_bytes for run_bytes in moved[-_SAMPLES:] if run_bytes]
        mean = sum(like) / max(1, len(like))
        squares += sum((run_bytes / mean - 1) ** 2 for run_bytes in like)
        number += max(0, len(like) - 1)
    return math.sqrt(squares / number) if number else _USUAL_SPREAD


def _missing_bytes(transfer: Transfer, length_s: float) -> int:
    """Foresee what a transfer would still have moved. Its time is without the start where nobody saw that."""
    done_s = transfer.elapsed_s + (transfer.omit_s if transfer.mbps is None else 0)
    return round(max(0.0, length_s - done_s) * _on_the_link(transfer.payload_bytes / max(_LEAST_S, transfer.elapsed_s)))


def _on_the_link(payload_bytes_per_s: float) -> float:
    """Add the headers; a pace that no modem has is a burst."""
    return min(payload_bytes_per_s * _ON_THE_LINK, FASTEST_BYTES_PER_S)
