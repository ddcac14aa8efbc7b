"""What a probe tells of itself: results lost, damaged or never begun, links mended, and where a data plan stands."""

from __future__ import annotations

from typing import Annotated

import msgspec

from wire.form import Message, Utc
from wire.radio import RadioReading
from wire.reasons import Condition, Unmade


class Dropped(Message, frozen=True, kw_only=True, tag_field="kind", tag="dropped"):
    """The spool was full and gave up its oldest results: how many of each kind, and the span of their numbers.

    Both numbers are 0 for results that never had one: the disk took none, and too many waited in memory. `spool_id`
    says whose numbers, where they are not of the spool that this result is of.
    """

    counts: dict[str, int]
    first_seq: int
    last_seq: int
    spool_id: str = ""


class Damaged(Message, frozen=True, kw_only=True, tag_field="kind", tag="damaged"):
    """The spool's file was damaged, and a new spool began: what was saved of the old one, what is known of the rest.

    `saved` results travel on under their old numbers, `counts` says of which kind they are; `unreadable` is how many
    are known to be lost. `kept_as` names the damaged file, which stays on the probe until three later ones do.
    """

    saved: int
    unreadable: int
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    detail: str = ""
    kept_as: str = ""


class Missed(Message, frozen=True, kw_only=True, tag_field="kind", tag="missed"):
    """Runs of one job on one link that were wanted and never begun: how many, and when their turns began and ended."""

    count: Annotated[int, msgspec.Meta(ge=1)]
    first: Utc
    last: Utc
    reason: Unmade


class Diagnosis(Message, frozen=True, kw_only=True):
    """One look at a link: its condition, what was seen, and the radio where the modem told it."""

    condition: Condition
    detail: str = ""
    radio: RadioReading | None = None


class Recovery(Message, frozen=True, kw_only=True, tag_field="kind", tag="recovery"):
    """One step of the recovery ladder, with the diagnosis before and after it.

    `rung` 0 is an alert: nothing was done, because nothing that the agent may do would help; it has no `after`. Another
    step without `after` was cut off, and is reported when the agent runs again.
    """

    rung: Annotated[int, msgspec.Meta(ge=0, le=6)]
    action: str
    before: Diagnosis
    after: Diagnosis | None = None
    detail: str = ""

    @property
    def cured(self) -> bool:
        """Whether the link worked after this step."""
        return self.after is not None and self.after.condition is Condition.HEALTHY


class PlanState(Message, frozen=True, kw_only=True, tag_field="kind", tag="plan"):
    """Where a link's data plan stands. `day` is the plan day; bytes are those of the interface, both directions.

    `left_bytes` is what scheduled tests may still move, `left_by_hand_bytes` what a test by hand may; both None without
    a quota. `allowance_bytes`: what the day's tests may move so that the plan lasts to the end of its month.
    `remaining_bytes` is what the operator said last, `balance_doubt` what speaks against our own count. `next_run_at`:
    when the plan's next test is due that is paid for, today or tomorrow.
    """

    day: str
    quota_day_mb: int | None = None
    quota_month_mb: int | None = None
    spent_day_bytes: int = 0
    spent_month_bytes: int = 0
    left_bytes: int | None = None
    left_by_hand_bytes: int | None = None
    allowance_bytes: int | None = None
    runs_planned: int = 0
    runs_made: int = 0
    runs_dropped: int = 0
    uploads_dropped: int = 0
    remaining_bytes: int | None = None
    balance_doubt: str | None = None
    next_run_at: Utc | None = None
