"""Cinterion, Gemalto, Thales: ^SMONI in its 2G, 3G and 4G layouts, ^SCTM, ^SPIC. Pure.

Sources: Cinterion EHSx and PLSx AT Command Sets; layouts confirmed by ModemManager's Cinterion tests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from agent.modem.vendors import generic
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply, first
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

_NO_CELL: Final[Fields] = {
    "cell_id": None,
    "mcc": None,
    "mnc": None,
    "rsrp_dbm": None,
    "rsrq_db": None,
    "rssi_dbm": None,
}


def serving_cell(reply: Reply) -> Fields:
    """Read ^SMONI. SEARCH: no cell yet; LIMSRV: emergency calls only; CONN is a data link, no registration."""
    for fields in reply.rows("^SMONI"):
        generation = at(fields, 0).upper()
        if "SEARCH" in (field.upper() for field in fields):
            return {**_NO_CELL, "registration": Registration.SEARCHING}
        found: Fields = {}
        if generation == "4G":
            found |= _lte(fields)
        elif generation == "3G":
            found |= _umts(fields)
        elif generation == "2G":
            found |= _gsm(fields)
        else:
            return {}
        if at(fields, -1).upper() == "LIMSRV":
            found["registration"] = Registration.NOT_REGISTERED
        return found
    return {}


def _lte(fields: list[str]) -> Fields:
    """4G, EARFCN, band, DL MHz, UL MHz, mode, MCC, MNC, TAC, cell, PCI, Srxlev or power, RSRP, RSRQ, state."""
    mcc, mnc = signal.code_pair(at(fields, 6), at(fields, 7), padded=True)
    cell = signal.cell(hexadecimal(at(fields, 9)))
    return {
        "technology": Technology.LTE,
        "earfcn": signal.earfcn(integer(at(fields, 1))),
        "band": signal.lte_band(integer(at(fields, 2))),
        "bandwidth_mhz": signal.within(number(at(fields, 3)), 1.4, 20),
        "mcc": mcc,
        "mnc": mnc,
        "tac": signal.area(hexadecimal(at(fields, 8))),
        "cell_id": cell,
        "enodeb_id": signal.enodeb(cell),
        "pci": signal.pci(integer(at(fields, 10))),
        "rsrp_dbm": signal.rsrp(number(at(fields, 12))) if number(at(fields, 12)) else None,
        "rsrq_db": signal.rsrq(number(at(fields, 13))) if number(at(fields, 12)) else None,
    }


def _umts(fields: list[str]) -> Fields:
    """3G, UARFCN, PSC, Ec/n0, RSCP, MCC, MNC, LAC, cell, SQual, SRxLev, ..."""
    mcc, mnc = signal.code_pair(at(fields, 5), at(fields, 6), padded=True)
    return {
        "technology": Technology.UMTS,
        "mcc": mcc,
        "mnc": mnc,
        "lac": signal.area(hexadecimal(at(fields, 7))),
        "cell_id": signal.cell(hexadecimal(at(fields, 8))),
        "rsrp_dbm": None,
        "notes": [f"RSCP {at(fields, 4)} dBm, Ec/n0 {at(fields, 3)} dB, UARFCN {at(fields, 1)}"],
    }


def _gsm(fields: list[str]) -> Fields:
    """2G, ARFCN, BCCH (dBm), MCC, MNC, LAC, cell, C1, C2, NCC, BCC, GPRS, ..."""
    mcc, mnc = signal.code_pair(at(fields, 3), at(fields, 4), padded=True)
    return {
        "technology": Technology.GSM,
        "rssi_dbm": signal.rssi(number(at(fields, 2))),
        "mcc": mcc,
        "mnc": mnc,
        "lac": signal.area(hexadecimal(at(fields, 5))),
        "cell_id": signal.cell(hexadecimal(at(fields, 6))),
        "rsrp_dbm": None,
    }


def temperature(reply: Reply) -> Fields:
    """Read ^SCTM?: <mode>,<state>[,<degrees Celsius>]."""
    rows = (fields for fields in reply.rows("^SCTM") if len(fields) > 2)  # noqa: PLR2004 - mode, state, degrees
    return first({"temperature_c": signal.celsius(number(at(fields, 2)))} for fields in rows)


def pin_counters(reply: Reply) -> Fields:
    """Read ^SPIC: tries left of the PIN that is asked for: told in the notes."""
    return {"notes": [f"tries left {at(f, 0)}" for f in reply.rows("^SPIC")]}


PARSERS: Final[dict[str, Parser]] = {"^SMONI": serving_cell, "^SCTM": temperature, "^SPIC": pin_counters}

CINTERION: Final = Family(
    key="cinterion",
    makers=re.compile(r"cinterion|gemalto|thales|\b(?:PLS|PDS|ELS|EHS|PHS|PLAS|MV3)[0-9]", re.IGNORECASE),
    parsers=PARSERS,
    setup=generic.LOCATION_SETUP,
    profile=Profile(
        polls=(
            Poll(command="AT^SMONI"),
            *generic.REGISTRATION_POLLS,
            generic.OPERATOR_POLL,
            *generic.SIGNAL_POLLS,
        ),
    ),
    iccid=("AT^SCID", "AT+CCID"),
)
