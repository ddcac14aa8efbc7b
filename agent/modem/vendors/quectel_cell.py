"""Quectel's serving cell page, +QENG="servingcell", in its layouts for LTE, EN-DC, NR, WCDMA, TD-SCDMA and GSM. Pure.

Sources: as agent.modem.vendors.quectel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields
    from agent.modem.vendors.profile import Reply

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
LTE_NAMES: Final = frozenset({"LTE", "CAT-M", "CAT-M1", "EMTC", "CAT-NB", "CAT-NB1", "NBIOT", "NB-IOT"})


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
        elif kind.upper() in LTE_NAMES or kind.startswith("nr5g"):
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
    if name in LTE_NAMES:
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
        "sinr_db": qeng_sinr(raw),
    }
    if raw is not None:
        how = "read as dB" if raw <= 30 else "read as raw/5 - 20"  # noqa: PLR2004 - see qeng_sinr
        found["notes"] = [f"QENG SINR raw {raw:g}, {how}; firmwares differ, +QCSQ is preferred"]
    return found


def qeng_sinr(raw: float | None) -> float | None:
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
