"""What collector and probe say to each other of results: which are on disk, which are refused, which to send again."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from wire.form import Message

CONFLICT: Final = "conflict"
"""How the reason of a refusal begins that says: another result holds this number (the card is an old copy)."""


Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Refusal(Message, frozen=True, kw_only=True):
    """A result that the collector will never take, and why; it is kept in quarantine at both ends.

    `check` is `wire.codec.check` of the refused payload, "" where nobody could say.
    """

    seq: int
    reason: str
    check: str = ""


class Ack(Message, frozen=True, kw_only=True):
    """What the collector's journal holds on disk: closed ranges of `seq` of one spool, and what it refused.

    `checks` holds `wire.codec.check` of each stored payload, one after the other: an ack that comes late names numbers
    that a spool put back from an old copy may have given to other results by then.
    """

    spool_id: str
    stored: tuple[tuple[Seq, Seq], ...] = ()
    checks: str = ""
    refused: tuple[Refusal, ...] = ()


MAX_RESEND_RANGES: Final = 64
MAX_RESEND_RESULTS: Final = 2000
"""How many numbers one `Resend` may span; what is more is asked for later."""

SpoolId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,64}\Z")]
Ranges = Annotated[tuple[tuple[Seq, Seq], ...], msgspec.Meta(min_length=1, max_length=MAX_RESEND_RANGES)]


class Resend(Message, frozen=True, kw_only=True, tag_field="command", tag="resend"):
    """The collector lacks these closed ranges of `seq` and asks for what the probe still has of them.

    It is the only command there is, and it can make a probe do nothing but send results that it made.
    """

    spool_id: SpoolId
    ranges: Ranges


class Gone(Message, frozen=True, kw_only=True, tag_field="reply", tag="gone"):
    """The answer: of what was asked for, these ranges the probe has no more, nor will it ever have them again."""

    spool_id: SpoolId
    ranges: Ranges
