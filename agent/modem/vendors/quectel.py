"""Quectel: +QENG, +QCSQ, +QNWINFO, +QCAINFO, +QSPN, +QRSRP, +QTEMP and SIM commands. Pure.

Sources: Quectel EC2x&EG9x&EG2x-G AT Commands Manual, BG96 AT Commands Manual, RG50xQ&RM5xxQ Series AT Commands Manual;
where firmwares and manuals differ, what recorded replies show, named at the place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from agent.modem.vendors.generic import OPERATOR_POLL, REGISTRATION_POLLS, SIGNAL_POLLS
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply, first
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

_STATES: Final = {"SEARCH": Registration.SEARCHING, "LIMSRV": Registration.NOT_REGISTERED}
_NO_CELL: Final[Fields] = {
    "technology": None,
    "mcc": None,
    "mnc": None,
    "cell_id": None,
    "pci": None,
    "earfcn": None,
    "band": None,
    "tac": None,
    "rsrp_dbm": None,
    "rsrq_db": None,
    "sinr_db": None,
    "rssi_dbm": None,
}
_LTE_NAMES: Final = frozenset({"LTE", "CAT-M", "CAT-M1", "EMTC", "CAT-NB", "CAT-NB1", "NBIOT", "NB-IOT"})


# --- +QENG="servingcell" --------------------------------------------------------------------------------------------


def serving_cell(reply: Reply) -> Fields:
    """Read +QENG="servingcell" in all its layouts: one line, or three lines for EN-DC with the LTE anchor first."""
    rows = list(reply.rows("+QENG"))
    found: Fields = {}
    for fields in rows:
        kind = at(fields, 0).lower()
        if kind == "servingcell":
            found = {**found, **_state(at(fields, 1))}
            if len(fields) > 2:  # noqa: PLR2004 - state, then a cell
                found = {**found, **_cell(fields[2:])}
        elif kind.upper() in _LTE_NAMES or kind.startswith("nr5g"):
            found = {**found, **_merge_nr(found, _cell(fields))}
    if found and "technology" not in found:
        return {**_NO_CELL, **found}
    return found


def _state(state: str) -> Fields:
    """NOCONN and CONNECT tell of camping and of a data link, not of home or roaming."""
    registration = _STATES.get(state.upper())
    return {} if registration is None else {"registration": registration}


def _merge_nr(known: Fields, cell: Fields) -> Fields:
    """Keep the anchor's technology where the NR line of EN-DC turns out to be empty."""
    if "technology" in cell and cell["technology"] is None and known.get("technology") is not None:
        return {k: v for k, v in cell.items() if k != "technology"}  # type: ignore[return-value]  # a subset of Fields
    return cell


def _cell(fields: list[str]) -> Fields:
    name = at(fields, 0).upper()
    if name in _LTE_NAMES:
        return _lte(fields[1:])
    if name == "NR5G-SA":
        return _nr_standalone(fields[1:])
    if name.startswith("NR5G"):
        return _nr_secondary(fields[1:])
    if name in {"WCDMA", "TDSCDMA"}:
        return _umts(fields[1:], with_code=name == "WCDMA")
    if name == "GSM":
        return _gsm(fields[1:])
    return {}


def _lte(fields: list[str]) -> Fields:
    """Is_tdd, MCC, MNC, cell, PCI, EARFCN, band, UL bw, DL bw, TAC, RSRP, RSRQ, RSSI, SINR, [CQI, tx power,] srxlev."""
    mcc, mnc = signal.code_pair(at(fields, 1), at(fields, 2), padded=True)
    cell = signal.cell(hexadecimal(at(fields, 3)))
    raw = number(at(fields, 13))
    found: Fields = {
        "technology": Technology.LTE,
        "mcc": mcc,
        "mnc": mnc,
        "cell_id": cell,
        "enodeb_id": signal.enodeb(cell),
        "pci": signal.pci(integer(at(fields, 4))),
        "earfcn": signal.earfcn(integer(at(fields, 5))),
        "band": signal.lte_band(integer(at(fields, 6))),
        "bandwidth_mhz": signal.lte_mhz(integer(at(fields, 8))),
        "tac": signal.area(hexadecimal(at(fields, 9))),
        "rsrp_dbm": signal.rsrp(number(at(fields, 10))),
        "rsrq_db": signal.rsrq(number(at(fields, 11))),
        "rssi_dbm": signal.rssi(number(at(fields, 12))),
        "sinr_db": _qeng_sinr(raw),
    }
    if raw is not None:
        how = "read as dB" if raw <= 30 else "read as raw/5 - 20"  # noqa: PLR2004 - see _qeng_sinr
        found["notes"] = [f"QENG SINR raw {raw:g}, {how}; firmwares differ, +QCSQ is preferred"]
    return found


def _qeng_sinr(raw: float | None) -> float | None:
    """SINR of +QENG/LTE: dB up to 30, and raw/5 - 20 (the scale of +QCSQ, 0..250) above.

    The manual's scale is 1/5 dB from -20, but recorded replies at strong cells hold 29 and 30, which only fit dB.
    """
    if raw is None:
        return None
    return signal.sinr(raw) if raw <= 30 else scaled_sinr(raw)  # noqa: PLR2004 - the largest SINR in dB the manual knows


def scaled_sinr(raw: float | None) -> float | None:
    """SINR of +QCSQ: 0..250 stands for -20..30 dB in steps of 1/5 dB."""
    return None if raw is None or not 0 <= raw <= 250 else round(raw / 5 - 20, 2)  # noqa: PLR2004 - the scale's end


def _nr_standalone(fields: list[str]) -> Fields:
    """Duplex, MCC, MNC, cell, PCI, TAC, ARFCN, band, DL bw, RSRP, RSRQ, SINR, ...: SINR is plain dB, -3276 is none."""
    mcc, mnc = signal.code_pair(at(fields, 1), at(fields, 2), padded=True)
    width = integer(at(fields, 8))
    return {
        "technology": Technology.NR5G_SA,
        "mcc": mcc,
        "mnc": mnc,
        "cell_id": signal.nr_cell(hexadecimal(at(fields, 3))),
        "pci": signal.nr_pci(integer(at(fields, 4))),
        "tac": signal.area(hexadecimal(at(fields, 5))),
        "earfcn": signal.nr_arfcn(integer(at(fields, 6))),
        "band": signal.nr_band(integer(at(fields, 7))),
        "bandwidth_mhz": signal.nr_mhz(width),
        "rsrp_dbm": signal.rsrp(number(at(fields, 9))),
        "rsrq_db": signal.rsrq(number(at(fields, 10))),
        "sinr_db": signal.sinr(number(at(fields, 11))),
        "notes": [f"NR bandwidth raw {width}: index below 15, MHz from 15 on"],
    }


def _nr_secondary(fields: list[str]) -> Fields:
    """MCC, MNC, PCI, RSRP, SINR, RSRQ, ARFCN, band, ...: SINR stands before RSRQ. Without an ARFCN NR is not active."""
    arfcn = signal.nr_arfcn(integer(at(fields, 6)))
    rsrp = signal.rsrp(number(at(fields, 3)))
    active = arfcn is not None or rsrp is not None
    return {
        "technology": Technology.NR5G_NSA if active else None,
        "nr_pci": signal.nr_pci(integer(at(fields, 2))) if active else None,
        "nr_rsrp_dbm": rsrp,
        "nr_sinr_db": signal.sinr(number(at(fields, 4))) if active else None,
        "nr_rsrq_db": signal.rsrq(number(at(fields, 5))) if active else None,
        "nr_arfcn": arfcn,
        "nr_band": signal.nr_band(integer(at(fields, 7))),
    }


def _umts(fields: list[str], *, with_code: bool) -> Fields:
    """MCC, MNC, LAC, cell, then UARFCN, PSC, RAC, RSCP, Ec/Io (WCDMA) or frequency, RSSI, RSCP, Ec/Io (TD-SCDMA)."""
    mcc, mnc = signal.code_pair(at(fields, 0), at(fields, 1), padded=True)
    rscp, ecio = (at(fields, 7), at(fields, 8)) if with_code else (at(fields, 6), at(fields, 7))
    return {
        "technology": Technology.UMTS,
        "mcc": mcc,
        "mnc": mnc,
        "lac": signal.area(hexadecimal(at(fields, 2))),
        "cell_id": signal.cell(hexadecimal(at(fields, 3))),
        "rsrp_dbm": None,
        "notes": [f"RSCP {rscp} dBm, Ec/Io {ecio} dB, UARFCN {at(fields, 4)}"],
    }


def _gsm(fields: list[str]) -> Fields:
    """MCC, MNC, LAC, cell, BSIC, ARFCN, band, rxlev, ...: rxlev is dBm where negative, else the index of TS 45.008."""
    mcc, mnc = signal.code_pair(at(fields, 0), at(fields, 1), padded=True)
    rxlev = number(at(fields, 7))
    dbm = signal.rssi(rxlev) if rxlev is not None and rxlev < 0 else signal.rxlev_dbm(integer(at(fields, 7)))
    return {
        "technology": Technology.GSM,
        "mcc": mcc,
        "mnc": mnc,
        "lac": signal.area(hexadecimal(at(fields, 2))),
        "cell_id": signal.cell(hexadecimal(at(fields, 3))),
        "rssi_dbm": dbm,
        "rsrp_dbm": None,
    }


# --- +QCSQ, +QNWINFO, +QCAINFO, +QSPN, antennas, temperature --------------------------------------------------------


def qcsq(reply: Reply) -> Fields:
    """Read +QCSQ: layout by system mode. LTE: rssi, rsrp, sinr (raw/5 - 20), rsrq; NR5G: rsrp, sinr (dB), rsrq."""
    found: Fields = {}
    for fields in reply.rows("+QCSQ"):
        name = at(fields, 0).upper()
        values = [number(field) for field in fields[1:]] + [None] * 4
        if name in _LTE_NAMES:
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
        "sinr_db": _qeng_sinr(number(at(fields, 9))),
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
    from agent.modem.vendors.generic import decoded_ucs2  # noqa: PLC0415

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
