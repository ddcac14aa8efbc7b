"""Fibocom and other Intel XMM modems: +XCESQ. Pure.

Source: ModemManager's XMM plugin (order and scales).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem.signal import at, integer
from agent.modem.vendors import generic
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply

if TYPE_CHECKING:
    from agent.modem.reading import Fields

_CODES: Final = 7


def extended_signal(reply: Reply) -> Fields:
    """Read +XCESQ: <n>, then the six codes of +CESQ, then <rssnr> in half dB, -100..100; 255 is none.

    A notice lacks <n>: it has seven fields.
    """
    for fields in reply.rows("+XCESQ"):
        codes = [integer(field) for field in (fields[1:] if len(fields) > _CODES else fields)]
        found = generic.extended_signal(codes[:6])
        ratio = integer(at(fields, -1)) if len(codes) >= _CODES else None
        known = ratio is not None and -100 <= ratio <= 100  # noqa: PLR2004 - the range stands in the docstring
        found["sinr_db"] = ratio / 2 if ratio is not None and known else None
        return found
    return {}


PARSERS: Final[dict[str, Parser]] = {"+XCESQ": extended_signal}

XMM: Final = Family(
    key="fibocom",
    makers=re.compile(r"fibocom|\bintel\b|\bXMM", re.IGNORECASE),
    parsers=PARSERS,
    setup=generic.LOCATION_SETUP,
    profile=Profile(
        polls=(
            Poll(command="AT+XCESQ?"),
            *generic.REGISTRATION_POLLS,
            generic.OPERATOR_POLL,
            generic.PLMN_POLL,
            *generic.SIGNAL_POLLS,
        ),
    ),
)
