"""What the probes are still to be told: which numbers are on disk, and which never will be.

Gathered result by result, said spool by spool (`wire.delivery.Ack`). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from wire import codec
from wire.delivery import CONFLICT, Ack, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from collector.intake import Intake
    from collector.journal import Entry

_Spool = tuple[str, str]  # probe_id, spool_id


class Acks:
    """Everything noted since the last `take`."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._stored: defaultdict[_Spool, dict[int, str]] = defaultdict(dict)
        self._refused: defaultdict[_Spool, list[Refusal]] = defaultdict(list)

    def note(self, intake: Intake, conflicts: Sequence[Entry]) -> None:
        """Note what of `intake` is on disk, and what is refused; `conflicts` are the journal's refusals."""
        for spool, refusals in intake.refused.items():
            self._refused[spool] += refusals
        for entry in conflicts:
            reason = f"{CONFLICT}: another result holds this number"
            refusal = Refusal(seq=entry.seq, reason=reason, check=codec.check(entry.payload))
            self._refused[entry.probe_id, entry.spool_id].append(refusal)
        clashing = set(conflicts)
        for entry in intake.results:
            if not clashing or entry not in clashing:
                self._stored[entry.probe_id, entry.spool_id][entry.seq] = codec.check(entry.payload)

    def take(self) -> list[tuple[str, Ack]]:
        """Return what each probe is to be told, and begin anew."""
        stored, refused = self._stored, self._refused
        self._stored, self._refused = defaultdict(dict), defaultdict(list)
        return [
            (spool[0], _ack(spool[1], stored.get(spool, {}), refused.get(spool, []))) for spool in {**stored, **refused}
        ]


def _ack(spool_id: str, checks: dict[int, str], refused: Iterable[Refusal]) -> Ack:
    numbers = sorted(checks)
    text = "".join([checks[number] for number in numbers])
    return Ack(spool_id=spool_id, stored=_ranges(numbers), checks=text, refused=tuple(refused))


def _ranges(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Fold ascending numbers into closed ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)
