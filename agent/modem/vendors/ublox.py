"""u-blox: +UCGED in its forms, +UREG, +URAT-free; SIM counters. Pure.

Sources: u-blox cellular modules AT commands manuals (UBX-13002752 TOBY-L/LARA-R2, UBX-19047455 SARA-R5).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from agent.modem.vendors import generic
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

_SERVICES: Final = {"1": Registration.NOT_REGISTERED, "2": Registration.SEARCHING, "3": Registration.NOT_REGISTERED}
_CELL_FIELDS: Final = 13


def cell_environment(reply: Reply) -> Fields:
    """Read +UCGED?: mode 2 (three lines, only the first with a prefix) or mode 5 (+RSRP: and +RSRQ: lines).

    RSRP and RSRQ of mode 2 are +CESQ codes, SINR is dB, bandwidth is in resource blocks, area and cell are hexadecimal.
    """
    found: Fields = {}
    for line in reply.lines:
        fields = signal.fields_of(line)
        if len(fields) >= _CELL_FIELDS and integer(fields[0]) is not None:
            found |= _lte(fields)
        elif re.fullmatch(r"\s*[0-9]{1,3}\s*,\s*[0-9]\s*,\s*[0-9a-fA-F]{2,3}\s*,\s*[0-9a-fA-F]{2,3}\s*", line):
            found["mcc"], found["mnc"] = signal.code_pair(fields[2], fields[3])
            if fields[1] in _SERVICES:
                found["registration"] = _SERVICES[fields[1]]
    return {**found, **_power(reply)}


def _lte(fields: list[str]) -> Fields:
    """EARFCN, band, UL bw, DL bw, TAC, cell, PCI, mTMSI, MME group, MME code, RSRP, RSRQ, SINR, ..."""
    cell = signal.cell(hexadecimal(at(fields, 5)))
    channel = signal.earfcn(integer(at(fields, 0)))
    found: Fields = {
        "earfcn": channel,
        "band": signal.lte_band(integer(at(fields, 1))),
        "bandwidth_mhz": signal.lte_mhz_of_blocks(integer(at(fields, 3))),
        "tac": signal.area(hexadecimal(at(fields, 4))),
        "cell_id": cell,
        "enodeb_id": signal.enodeb(cell),
        "pci": signal.pci(integer(at(fields, 6))),
        "rsrp_dbm": signal.rsrp_dbm(integer(at(fields, 10))),
        "rsrq_db": signal.rsrq_db(integer(at(fields, 11))),
        "sinr_db": signal.sinr(number(at(fields, 12))),
    }
    if channel is not None:
        found["technology"] = Technology.LTE
    if found["band"] is None:
        found["band"] = None
    return found


def _power(reply: Reply) -> Fields:
    """+RSRP: <PCI>,<EARFCN>,"<dBm>"[, more cells]: the first cell is the serving one; likewise +RSRQ."""
    found: Fields = {}
    for fields in reply.rows("+RSRP"):
        found |= {
            "technology": Technology.LTE,
            "pci": signal.pci(integer(at(fields, 0))),
            "earfcn": signal.earfcn(integer(at(fields, 1))),
            "rsrp_dbm": signal.rsrp(number(at(fields, 2))),
        }
    for fields in reply.rows("+RSRQ"):
        found["rsrq_db"] = signal.rsrq(number(at(fields, 2)))
    return found


_STATES: Final = {
    **dict.fromkeys(("1", "2", "8"), Technology.GSM),
    **dict.fromkeys(("3", "4", "5", "6"), Technology.UMTS),
    **dict.fromkeys(("7", "9"), Technology.LTE),
}


def packet_registration(reply: Reply) -> Fields:
    """Read +UREG?: <n>,<state>: 0 not registered, else the technology of the packet domain."""
    for fields in reply.rows("+UREG"):
        state = fields[-1]
        if state == "0":
            return {"registration": Registration.NOT_REGISTERED, "technology": None}
        return {"technology": _STATES.get(state)}
    return {}


def temperature(reply: Reply) -> Fields:
    """Read +UTEMP?: tenths of a degree Celsius."""
    for fields in reply.rows("+UTEMP"):
        tenths = number(fields[-1])
        return {"temperature_c": signal.celsius(None if tenths is None else tenths / 10)}
    return {}


def pin_counters(reply: Reply) -> Fields:
    """Read +UPINCNT: tries left of PIN, PIN2, PUK, PUK2: told in the notes."""
    return {"notes": [f"tries left PIN {at(f, 0)}, PUK {at(f, 2)}" for f in reply.rows("+UPINCNT")]}


PARSERS: Final[dict[str, Parser]] = {
    "+UCGED": cell_environment,
    "+UREG": packet_registration,
    "+UTEMP": temperature,
    "+UPINCNT": pin_counters,
}

UBLOX: Final = Family(
    key="ublox",
    makers=re.compile(r"u-?blox|\b(?:SARA|TOBY|LARA|LISA|LENA)-", re.IGNORECASE),
    parsers=PARSERS,
    setup=("AT+UCGED=2", *generic.LOCATION_SETUP),
    profile=Profile(
        polls=(
            Poll(command="AT+UCGED?"),
            *generic.REGISTRATION_POLLS,
            generic.OPERATOR_POLL,
            generic.PLMN_POLL,
            *generic.SIGNAL_POLLS,
            Poll(command="AT+UREG?", unless=("technology",)),
        ),
    ),
)
