"""When results that are sent, and not named by the collector yet, are sent again: ever more rarely. Knows no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.spool import Waiting


class Resending:
    """What is under way to the collector, and until when its answer is waited for."""

    def __init__(self, *, first_s: float, last_s: float) -> None:
        """Nothing is under way. The first wait lasts `first_s`, each one after it twice as long, up to `last_s`."""
        self._first_s = first_s
        self._last_s = last_s
        self._plans: dict[int, tuple[float, float]] = {}  # seq → (when to send again, the wait that leads there)

    def due(self, waiting: Sequence[Waiting], now_s: float) -> list[Waiting]:
        """Choose what is to be sent now of all that waits in the spool; what has left it is forgotten."""
        held = {row.seq for row in waiting}
        self._plans = {seq: plan for seq, plan in self._plans.items() if seq in held}
        return [row for row in waiting if row.seq not in self._plans or self._plans[row.seq][0] <= now_s]

    def sent(self, rows: Sequence[Waiting], now_s: float) -> None:
        """Take note that these are on their way."""
        for row in rows:
            _, wait_s = self._plans.get(row.seq, (0.0, self._first_s / 2))
            wait_s = min(2 * wait_s, self._last_s)
            self._plans[row.seq] = (now_s + wait_s, wait_s)

    def soonest_s(self) -> float | None:
        """Tell when something is to be sent again; None while nothing is under way."""
        return min((at_s for at_s, _ in self._plans.values()), default=None)
