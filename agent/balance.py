"""What the operator says is left of a plan, against our own count: a cross-check, never the ground for a run or none.

The answer is free text, in Vietnamese with accents or without, and changes without notice. A figure is taken from it by
the pattern of the configuration; one that is far from our count is recorded and told. It changes neither the books nor
what is run. Only that nothing is left makes tests no samples, until a quota begins anew (`Budget.is_spent`).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from agent.ledger import Balance as Known
from agent.modem.errors import ModemError
from agent.plan import Claim, room

if TYPE_CHECKING:
    from agent.budget import Budget
    from agent.clock import Clock
    from agent.modems import SerialModems
    from agent.plan import Spent
    from agent.settings import Link, Plan, Settings
    from agent.spool import Spool

log = logging.getLogger(__name__)

_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TOO_MUCH: Final = 2.0**63
"""No such balance is, nor would SQLite or InfluxDB take it."""
_LOOK_AGAIN_S: Final = 60.0
_TRY_AGAIN_S: Final = 6 * 3600.0
_ASKED: Final = "asked for the balance"
"""What the notebook calls it: a question costs money, and an agent that died of the answer begins anew."""


def plain(text: str) -> str:
    """Take accents off and put all white space as one blank: `Còn lại` becomes `Con lai`."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return " ".join(bare.replace("đ", "d").replace("Đ", "D").split())


def remaining_bytes(text: str, pattern: str) -> int | None:
    """Find what is left in an operator's text; None if the pattern finds nothing that is a figure."""
    for form in (plain(text), unicodedata.normalize("NFC", text)):
        found = re.search(pattern, form, re.IGNORECASE)
        if found is not None and (unit := _UNITS.get((found["unit"] or "").upper())) is not None:
            number = _number(found["number"] or "", decimal=unit == _UNITS["GB"])
            if number is not None:
                return round(number * unit) if number * unit < _TOO_MUCH else None
    return None


def _number(text: str, *, decimal: bool) -> float | None:
    """Read 1.234,5 or 1,234.5 or 1.5; a lone separator before three digits groups thousands unless `decimal`."""
    digits = text.strip(".,")
    last = max(digits.rfind("."), digits.rfind(","))
    marks = [c for c in digits if c in ".,"]
    groups = len(set(marks)) == 1 and (len(marks) > 1 or (len(digits) - last - 1 == 3 and not decimal))  # noqa: PLR2004
    whole, part = (digits, "") if not marks or groups else (digits[:last], digits[last + 1 :])
    try:
        return float(re.sub(r"[.,]", "", whole) + ("." + part if part else ""))
    except ValueError:
        return None


def doubt(plan: Plan, spent: Spent, remaining: int) -> str | None:
    """Say what speaks against our count; None where the operator says about the same, or there is no quota."""
    ours = room(plan, spent, Claim.TELEMETRY)
    quota_mb = plan.quota_month_mb or plan.quota_day_mb
    if ours is None or quota_mb is None or plan.balance is None:
        return None
    used = spent.month_bytes if plan.quota_month_mb is not None else spent.day_bytes
    expected = max(0.0, quota_mb * 1e6 - used * (1 + plan.overhead_percent / 100))
    if abs(expected - remaining) <= quota_mb * 1e4 * plan.balance.tolerance_percent:
        return None
    return f"the operator says {remaining / 1e6:.0f} MB are left, by our count it is {expected / 1e6:.0f} MB"


class Balances:
    """Asks the operators now and then, between runs, on the thread that measures."""

    def __init__(self, settings: Settings, spool: Spool, clock: Clock, modems: SerialModems, budget: Budget) -> None:
        """Take what is needed; nothing is asked yet."""
        self._links = [link for link in settings.links if link.plan.balance is not None and link.modem is not None]
        self._spool = spool
        self._clock = clock
        self._modems = modems
        self._budget = budget
        self._not_before_s: dict[str, float] = {}

    def check(self) -> bool:
        """Ask for one link whose turn it is; return whether one was asked. Raise StorageError."""
        for link in self._links:
            now_s = self._clock.monotonic_s()
            if now_s < self._not_before_s.get(link.name, 0.0):
                continue
            self._not_before_s[link.name] = now_s + _LOOK_AGAIN_S  # first, so that no error of it comes in a quick row
            if self._due(link):
                self._ask(link)
                return True
        return False

    def _due(self, link: Link) -> bool:
        assert link.plan.balance is not None  # noqa: S101  # __init__ has looked
        known = self._spool.balance(link.name)
        answered = known.at if known is not None else None
        return not (
            self._is_recent(answered, link.plan.balance.every_h * 3600.0)
            or self._is_recent(self._spool.told_when(link.name, _ASKED), _TRY_AGAIN_S)
        )

    def _is_recent(self, at: str | None, within_s: float) -> bool:
        """Whether this time (ISO) is less than so long ago; one to come is not, nor what is none."""
        try:
            age = self._clock.now() - datetime.fromisoformat(at or "")
        except (ValueError, TypeError):  # TypeError: a time without its zone
            return False
        return timedelta(0) <= age < timedelta(seconds=within_s)

    def _ask(self, link: Link) -> None:
        balance = link.plan.balance
        assert balance is not None  # noqa: S101  # as above
        self._not_before_s[link.name] = self._clock.monotonic_s() + _TRY_AGAIN_S
        self._spool.tell(link.name, _ASKED, self._clock.now().isoformat())
        try:
            text = self._modems.ask_operator(link, balance)
        except ModemError as error:
            log.warning("%s: the balance could not be asked for: %s", link.name, error)
            return
        found = remaining_bytes(text, balance.pattern)
        if found is None:
            log.warning("%s: `balance.pattern` finds no figure in the operator's text: %s", link.name, text)
            against = None
        else:
            against = doubt(link.plan, self._budget.spent(link), found)
            log.log(logging.WARNING if against else logging.INFO, "%s: %s", link.name, against or plain(text))
        self._spool.keep_balance(link.name, Known(self._clock.now().isoformat(), found, against, text[:500]))
