"""What a run tells of the cost of its kind, also one that the plan or a cap ended early. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from wire.measured import Failed, Throughput
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from wire.measured import Transfer
    from wire.results import Outcome

_ON_THE_LINK: Final = 1.05
"""Bytes of the interface for each of payload: headers and what acknowledges them."""
_TELLING_BYTES: Final = 1_000_000
"""A run that was ended before anything was measured tells nothing if it moved less."""


class Cost(NamedTuple):
    """Bytes of a run, with its upload or without; `cut_short`: as many as all of it would have moved at its pace."""

    run_bytes: int
    upload: bool
    cut_short: bool


def of(outcome: Outcome, spent_bytes: int | None, *, length_s: float, omit_s: float) -> Cost | None:
    """Tell what the like of this run cost; None if it tells nothing. `length_s`: one transfer, its start included.

    A run that was cut short has to tell something: else the guess that let it begin lets the same one begin every day.
    """
    if spent_bytes is None:
        return None
    if isinstance(outcome, Failed):
        ended_at_once = outcome.reason is Reason.QUOTA_REACHED and omit_s > 0 and spent_bytes >= _TELLING_BYTES
        return Cost(round(spent_bytes * length_s / omit_s), upload=False, cut_short=True) if ended_at_once else None
    if not isinstance(outcome, Throughput):
        return None
    if outcome.upload_failure not in {None, Reason.BUDGET_SHORT, Reason.QUOTA_REACHED}:
        return None
    cut = [one for one in (outcome.download, outcome.upload) if one is not None and one.cut_short is not None]
    by_the_plan = Invalid.QUOTA_REACHED in outcome.invalid
    missing = sum(_missing_bytes(one, length_s) for one in cut) if by_the_plan else 0
    return Cost(spent_bytes + missing, outcome.upload is not None, bool(cut))


def _missing_bytes(transfer: Transfer, length_s: float) -> int:
    """Foresee what a transfer would still have moved. Its time is without the start where nobody saw that."""
    done_s = transfer.elapsed_s + (transfer.omit_s if transfer.mbps is None else 0)
    return round(max(0.0, length_s - done_s) * transfer.payload_bytes / transfer.elapsed_s * _ON_THE_LINK)
