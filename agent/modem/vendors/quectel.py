"""Quectel: +QENG, +QCSQ, +QNWINFO, +QCAINFO, +QSPN, +QRSRP, +QTEMP and SIM commands. Pure.

Sources: Quectel EC2x&EG9x&EG2x-G AT Commands Manual, BG96 AT Commands Manual, RG50xQ&RM5xxQ Series AT Commands Manual;
where firmwares and manuals differ, what recorded replies show, named at the place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, integer, number
from agent.modem.vendors.generic import OPERATOR_POLL, REGISTRATION_POLLS, SIGNAL_POLLS, decoded_ucs2
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply, first
from agent.modem.vendors.quectel_cell import LTE_NAMES, qeng_sinr, scaled_sinr, serving_cell
from wire.radio import Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields


def qcsq(reply: Reply) -> Fields:
    """Read +QCSQ: layout by system mode. LTE: rssi, rsrp, sinr (raw/5 - 20), rsrq; NR5G: rsrp, sinr (dB), rsrq."""
    found: Fields = {}
    for fields in reply.rows("+QCSQ"):
        name = at(fields, 0).upper()
        values = [number(field) for field in fields[1:]] + [None] * 4
        if name in LTE_NAMES:
            found |= {
                "technology": Technology.LTE,
                "rssi_dbm": signal.rssi(values[0]),
                "rsrp_dbm": signal.rsrp(values[1]),
                "sinr_db": scaled_sinr(values[2]),
                "rsrq_db": signal.rsrq(values[3]),
                "notes": [f"QCSQ SINR raw {at(fields, 3)}, read as raw/5 - 20"],
            }
        elif name.startswith("NR5G"):
            found |= _qcsq_nr(values, beside_lte=found.get("technology") is Technology.LTE or "NSA" in name)
        elif name in {"GSM", "WCDMA", "TDSCDMA"}:
            found |= {
                "technology": signal.technology_of_name(name),
                "rssi_dbm": signal.rssi(values[0]),
                "rsrp_dbm": None,
            }
            if name != "GSM":
                found["notes"] = [f"RSCP {at(fields, 2)} dBm, Ec/Io {at(fields, 3)} dB"]
        elif not found:
            found = {"technology": None, "rssi_dbm": None, "rsrp_dbm": None, "sinr_db": None, "rsrq_db": None}
    return found


def _qcsq_nr(values: list[float | None], *, beside_lte: bool) -> Fields:
    rsrp, sinr, rsrq = signal.rsrp(values[0]), signal.sinr(values[1]), signal.rsrq(values[2])
    if beside_lte:
        return {
            "technology": Technology.NR5G_NSA,
            "nr_rsrp_dbm": rsrp,
            "nr_sinr_db": sinr,
            "nr_rsrq_db": rsrq,
        }
    return {
        "technology": Technology.NR5G_SA,
        "rssi_dbm": None,
        "rsrp_dbm": rsrp,
        "sinr_db": sinr,
        "rsrq_db": rsrq,
    }


def network_info(reply: Reply) -> Fields:
    """Read +QNWINFO: <act>,<oper>,<band>,<channel>; a second line of EN-DC holds the NR carrier."""
    found: Fields = {}
    for fields in reply.rows("+QNWINFO"):
        technology = signal.technology_of_name(at(fields, 0))
        if technology in {Technology.NR5G_SA, Technology.NR5G_NSA} and found.get("technology") is Technology.LTE:
            found |= {
                "technology": Technology.NR5G_NSA,
                "nr_band": signal.band_of_name(at(fields, 2)),
                "nr_arfcn": signal.nr_arfcn(integer(at(fields, 3))),
            }
            continue
        mcc, mnc = signal.plmn(at(fields, 1))
        channel = integer(at(fields, 3))
        nr = technology in {Technology.NR5G_SA, Technology.NR5G_NSA}
        found |= {"technology": technology, "mcc": mcc, "mnc": mnc, "band": signal.band_of_name(at(fields, 2))}
        found["earfcn"] = signal.nr_arfcn(channel) if nr else signal.earfcn(channel)
        if technology in {Technology.GSM, Technology.UMTS}:
            found["earfcn"] = None
    return found


def carriers(reply: Reply) -> Fields:
    """Read +QCAINFO: the primary carrier, and how many carriers are active (state 2 of a secondary one)."""
    found: Fields = {}
    count = 0
    for fields in reply.rows("+QCAINFO"):
        kind, nr = at(fields, 0).upper(), "NR" in at(fields, 3).upper()
        if kind == "PCC":
            count += 1
            found |= _primary_nr(fields) if nr else _primary_lte(fields)
        elif kind.startswith("SCC"):
            count += 1 if nr or at(fields, 4) == "2" else 0
            if nr and found.get("technology") is Technology.LTE:
                found |= {
                    "technology": Technology.NR5G_NSA,
                    "nr_arfcn": signal.nr_arfcn(integer(at(fields, 1))),
                    "nr_band": signal.band_of_name(at(fields, 3)),
                }
    if count:
        found["carriers"] = count
    return found


def _primary_lte(fields: list[str]) -> Fields:
    """PCC, EARFCN, bandwidth in resource blocks, band, state, PCI, RSRP, RSRQ, RSSI, SINR."""
    return {
        "technology": Technology.LTE,
        "earfcn": signal.earfcn(integer(at(fields, 1))),
        "bandwidth_mhz": signal.lte_mhz_of_blocks(integer(at(fields, 2))),
        "band": signal.band_of_name(at(fields, 3)),
        "pci": signal.pci(integer(at(fields, 5))),
        "rsrp_dbm": signal.rsrp(number(at(fields, 6))),
        "rsrq_db": signal.rsrq(number(at(fields, 7))),
        "rssi_dbm": signal.rssi(number(at(fields, 8))),
        "sinr_db": qeng_sinr(number(at(fields, 9))),
        "notes": [f"QCAINFO SINR raw {at(fields, 9)}, read as +QENG's"],
    }


def _primary_nr(fields: list[str]) -> Fields:
    """PCC, ARFCN, bandwidth index, band, PCI, then RSRP, RSRQ, SINR where the firmware sends them."""
    return {
        "technology": Technology.NR5G_SA,
        "earfcn": signal.nr_arfcn(integer(at(fields, 1))),
        "bandwidth_mhz": signal.nr_mhz(integer(at(fields, 2))),
        "band": signal.band_of_name(at(fields, 3)),
        "pci": signal.nr_pci(integer(at(fields, 4))),
    }


def service_provider(reply: Reply) -> Fields:
    """Read +QSPN: <full name>,<short name>,<SPN>,<alphabet>,<RPLMN>; the names are UCS2 digits with alphabet 1."""
    for fields in reply.rows("+QSPN"):
        names = [decoded_ucs2(name) if at(fields, 3) == "1" else name for name in fields[:2]]
        mcc, mnc = signal.plmn(at(fields, 4))
        return {"operator": next((name for name in names if name), None), "mcc": mcc, "mnc": mnc}
    return {}


_ANTENNA: Final = {
    "+QRSRP": ("rsrp_dbm", "nr_rsrp_dbm"),
    "+QRSRQ": ("rsrq_db", "nr_rsrq_db"),
    "+QSINR": ("sinr_db", "nr_sinr_db"),
}


def antennas(reply: Reply) -> Fields:
    """Read +QRSRP, +QRSRQ, +QSINR: up to four antennas and the mode; the best one counts, -32768 and -140 are none."""
    found: Fields = {}
    for name, (plain, beside) in _ANTENNA.items():
        check = {"+QRSRP": signal.rsrp, "+QRSRQ": signal.rsrq, "+QSINR": signal.sinr}[name]
        for fields in reply.rows(name):
            mode = next((field for field in fields if re.search(r"[A-Z]{2}", field)), "LTE").upper()
            unused = {-140.0, -44.0} if name == "+QRSRP" else set()
            values = [check(v) for field in fields if (v := number(field)) is not None and v not in unused]
            best = signal.first_finite(*values)
            technology = signal.technology_of_name(mode)
            if "NR" in mode and found.get("technology") is Technology.LTE:
                found |= {"technology": Technology.NR5G_NSA, beside: best}  # type: ignore[misc]  # keys of the table
            else:
                found |= {"technology": technology, plain: best}  # type: ignore[misc]  # keys of the table
    return found


def temperature(reply: Reply) -> Fields:
    """Read +QTEMP: `baseband,XO,PA` in degrees Celsius, or one line per named sensor; the hottest one counts."""
    values = [signal.celsius(number(field)) for fields in reply.rows("+QTEMP") for field in fields]
    values = [value for value in values if value]
    return {"temperature_c": signal.first_finite(*values)} if any(reply.rows("+QTEMP")) else {}


# --- SIM ------------------------------------------------------------------------------------------------------------


def sim_status(reply: Reply) -> Fields:
    """Read +QSIMSTAT?: <enable>,<inserted>: 0 removed, 1 inserted, 2 unknown."""
    states = {"0": "absent", "1": "inserted", "2": "unknown"}
    return first({"sim_state": states.get(at(fields, 1))} for fields in reply.rows("+QSIMSTAT"))


def pin_counters(reply: Reply) -> Fields:
    """Read +QPINC: "SC",<PIN tries left>,<PUK tries left>: told in the notes."""
    return {"notes": [f"{at(f, 0)}: tries left PIN {at(f, 1)}, PUK {at(f, 2)}" for f in reply.rows("+QPINC")]}


PARSERS: Final[dict[str, Parser]] = {
    "+QENG": serving_cell,
    "+QCSQ": qcsq,
    "+QNWINFO": network_info,
    "+QCAINFO": carriers,
    "+QSPN": service_provider,
    **dict.fromkeys(_ANTENNA, antennas),
    "+QTEMP": temperature,
    "+QSIMSTAT": sim_status,
    "+QPINC": pin_counters,
}

QUECTEL: Final = Family(
    key="quectel",
    makers=re.compile(r"quectel", re.IGNORECASE),
    parsers=PARSERS,
    profile=Profile(
        polls=(
            Poll(command='AT+QENG="servingcell"'),
            Poll(command="AT+QCSQ"),
            *REGISTRATION_POLLS,
            OPERATOR_POLL,
            Poll(command="AT+QNWINFO", unless=("band", "mcc", "technology")),
            Poll(command="AT+QCAINFO"),
            Poll(command="AT+QTEMP"),
            *SIGNAL_POLLS,
        ),
        prefer={"sinr_db": ("+QCSQ", "+QENG"), "registration": ("+CEREG", "+C5GREG", "+CGREG", "+CREG")},
    ),
    iccid=("AT+QCCID", "AT+CCID"),
)
