"""Results that wait in memory while the disk takes none: not too many, and those that matter least go first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.rank import rank
from wire.events import Dropped

if TYPE_CHECKING:
    from collections import Counter

    from agent.deferred import Account, Run
    from agent.run_cost import Cost
    from agent.timesync import Boot
    from wire.results import Result

AT_MOST: Final = 200


class Unspooled(NamedTuple):
    """A result, and what its place in the spool will settle."""

    result: Result
    ends: Run | None
    cost: Cost | None = None
    began: Boot | None = None
    account: Account | None = None
    at_once: bool = True


def give_up(waiting: list[Unspooled], given_up: Counter[str]) -> bool:
    """Take out what is too much, lowest rank and oldest first, and count it by kind; return whether anything was."""
    much = len(waiting) > AT_MOST
    while len(waiting) > AT_MOST:
        lowest = min(range(len(waiting)), key=lambda place: rank(waiting[place].result))
        outcome = waiting.pop(lowest).result.outcome
        given_up.update(outcome.counts if isinstance(outcome, Dropped) else {str(outcome.__struct_config__.tag): 1})
    return much
