"""Several readings become one look at the radio. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.modem import signal
from agent.modem.vendors import command_name, family_of
from wire.radio import RadioReading, Registration, Technology

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.modem.reading import ModemReading

REGISTERED: Final = (Registration.HOME, Registration.ROAMING)
# One domain that is registered outweighs others that are not; among those, what explains most comes first.
_BY_WEIGHT: Final = (
    REGISTERED,
    (Registration.DENIED,),
    (Registration.SEARCHING,),
    (Registration.NOT_REGISTERED,),
    (Registration.UNKNOWN,),
)


def to_radio(readings: Iterable[ModemReading]) -> RadioReading:
    """Merge replies of one modem into one reading.

    For each field the first reading that knows it counts, in the order given, after those that the vendor's profile
    prefers for it. Any registered domain makes the modem registered. A band that no reply named comes from the EARFCN
    (TS 36.101 table 5.7.3-1). Values of different cells may meet if the modem moved between two replies.
    """
    known = list(readings)
    merged: dict[str, object] = {}
    for name in msgspec.structs.fields(RadioReading):
        ordered = _ordered(known, name.name)
        merged[name.name] = next((v for r in ordered if (v := getattr(r, name.name)) is not None), None)
    merged["registration"] = _registration(_ordered(known, "registration"))
    merged["technology"] = _technology(known, merged["technology"])
    radio = RadioReading(**merged)  # type: ignore[arg-type]  # the names are RadioReading's, the types ModemReading's
    if radio.band is None and radio.technology in signal.EUTRAN:
        radio = msgspec.structs.replace(radio, band=signal.band_of_earfcn(radio.earfcn))
    return radio


def _ordered(readings: Sequence[ModemReading], field: str) -> list[ModemReading]:
    """Sort readings by the profile's preference for a field, then as they came."""

    def rank(reading: ModemReading) -> int:
        preferred = family_of(reading.vendor).profile.prefer.get(field, ())
        name = command_name(reading.command)
        return preferred.index(name) if name in preferred else len(preferred)

    return sorted(readings, key=rank)


def _registration(readings: Sequence[ModemReading]) -> Registration | None:
    said = [reading.registration for reading in readings if reading.registration is not None]
    return next((value for weight in _BY_WEIGHT for value in said if value in weight), None)


def _technology(readings: Sequence[ModemReading], first: object) -> object:
    """Non-standalone 5G shows only in some replies; beside it, LTE is the anchor of the same connection."""
    if first is Technology.LTE and any(reading.technology is Technology.NR5G_NSA for reading in readings):
        return Technology.NR5G_NSA
    return first
