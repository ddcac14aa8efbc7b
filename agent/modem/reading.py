"""What one reply of a modem said, and how several replies become one look at the radio. Pure.

A value the reply speaks about but does not know is None and its name is in `spoken`; a value the reply does not speak
about is None and is not. No identity (IMEI, IMSI, ICCID, telephone number) stays in a reading.
"""

from __future__ import annotations

import re
from typing import TypedDict

from wire.radio import RadioReading, Registration, Technology


class Fields(TypedDict, total=False):
    """What a vendor parser hands back: only the names that the reply speaks about. Units as in ModemReading."""

    registration: Registration | None
    technology: Technology | None
    operator: str | None
    mcc: str | None
    mnc: str | None
    tac: int | None
    lac: int | None
    cell_id: int | None
    enodeb_id: int | None
    pci: int | None
    earfcn: int | None
    band: int | None
    bandwidth_mhz: float | None
    rsrp_dbm: float | None
    rsrq_db: float | None
    sinr_db: float | None
    rssi_dbm: float | None
    nr_band: int | None
    nr_arfcn: int | None
    nr_pci: int | None
    nr_rsrp_dbm: float | None
    nr_rsrq_db: float | None
    nr_sinr_db: float | None
    carriers: int | None
    temperature_c: float | None
    manufacturer: str | None
    model: str | None
    revision: str | None
    sim_state: str | None
    ber_index: int | None
    notes: list[str]


class ModemReading(RadioReading, frozen=True, kw_only=True, omit_defaults=True):
    """One reply, read: a RadioReading, and what else a reply may tell.

    `sim_state`: ready, pin, puk, pin2, puk2, absent, busy, failure, wrong, inserted, unknown, or a `ph_..._pin` lock
    of 3GPP TS 27.007 section 8.3. `ber_index`: 0..7 as in section 8.5 there. `error`: the final result line as sent,
    or None when the reply ended well (or never ended: then `final` is None too). `raw`: lines without identities.
    """

    vendor: str
    command: str
    manufacturer: str | None = None
    model: str | None = None
    revision: str | None = None
    sim_state: str | None = None
    ber_index: int | None = None
    error: str | None = None
    final: str | None = None
    notes: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()
    spoken: frozenset[str] = frozenset()


_REMOVED = "<removed>"
# 14 digits: the shortest IMEI without its check digit; 20: the longest ICCID (ITU-T E.118), often with a filling F.
_LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{14,20}[0-9]*[Ff]?(?![0-9A-Za-z])")
_DIALLED = re.compile(r"\+[0-9]{7,15}(?![0-9])")
_HARDWARE_NUMBER = re.compile(r"((?:IMEI|IMEISV|IMSI|ICCID|MEID|ESN|MSISDN|S/?N|FSN)\s*[:=]\s*).+", re.IGNORECASE)
# Answers and notices that hold a telephone number, a subscriber or a text (27.005, 27.007, vendors' ICCID commands).
_PRIVATE_PREFIX = re.compile(
    r"([+^#*%$!]\s*(?:Q?CCID|ICCID|CICCID|SCID|CIMI|CGSN|GSN|CNUM|CLIP|COLP|CCWA|CLCC|CMT|CMGR|CMGL|CDS|CPBR|CPBF|CUSD)"
    r"\s*:\s*).+",
    re.IGNORECASE,
)


def without_identity(line: str) -> str:
    """Return the line with every IMEI, IMSI, ICCID, serial and telephone number replaced by `<removed>`."""
    line = _PRIVATE_PREFIX.sub(rf"\1{_REMOVED}", line)
    line = _HARDWARE_NUMBER.sub(rf"\1{_REMOVED}", line)
    line = _LONG_NUMBER.sub(_REMOVED, line)
    return _DIALLED.sub(_REMOVED, line)
