"""Who a modem is: maker, model, revision, and the two numbers that tell one modem and one SIM from another."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Answers to +CGMI, +CGMM, +CGMR, +CGSN and the ICCID command. `vendor` is the family key.

    IMEI and ICCID are identities of a device and a subscription: they are not shown, and leave the probe only hashed.
    """

    vendor: str = "generic"
    manufacturer: str | None = None
    model: str | None = None
    revision: str | None = None
    imei: str | None = None
    iccid: str | None = None

    @property
    def iccid_sha256(self) -> str | None:
        """The SIM, told apart without its number."""
        return hashed_iccid(self.iccid)

    def __repr__(self) -> str:
        return f"Identity({self.vendor}: {self.manufacturer} {self.model} {self.revision})"


def hashed_iccid(text: str | None) -> str | None:
    """Hash an ICCID, filling F or not: the same SIM has the same hash whoever reads it; None for no text."""
    if not text:
        return None
    return hashlib.sha256((iccid_of([text]) or text).encode()).hexdigest()


def imei_of(lines: Iterable[str]) -> str | None:
    """Find an IMEI of 15 digits (or an IMEISV of 16, cut to the 14 they share and no check digit)."""
    for line in lines:
        found = re.search(r"(?<![0-9])([0-9]{15})(?:[0-9]{0,2})(?![0-9])", line)
        if found:
            return found[1]
    return None


def iccid_of(lines: Iterable[str]) -> str | None:
    """Find an ICCID: 18 to 20 digits from 89 (ITU-T E.118), the filling F taken off."""
    for line in lines:
        found = re.search(r"(?<![0-9])(89[0-9]{16,18})[Ff]{0,2}(?![0-9A-Za-z])", line)
        if found:
            return found[1]
    return None
