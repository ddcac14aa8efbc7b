"""Huawei (Balong and Qualcomm sticks and modules): ^HCSQ, ^SYSINFOEX, ^MONSC, ^HFREQINFO, ^CPIN, ^RSSI. Pure.

Sources: HUAWEI ME906/ME909 and MH5000 AT Command Interface Specifications; ModemManager's Huawei plugin (scales).
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


def hcsq(reply: Reply) -> Fields:
    """Read ^HCSQ: <mode>, then codes. LTE: rssi, rsrp, sinr, rsrq; WCDMA: rssi, rscp, ecio; NR: rsrp, sinr, rsrq."""
    found: Fields = {}
    for fields in reply.rows("^HCSQ"):
        name = at(fields, 0).upper()
        codes = [integer(field) for field in fields[1:]] + [None] * 4
        technology = signal.technology_of_name(name)
        if technology is Technology.LTE:
            found = {
                "technology": technology,
                "rssi_dbm": _level(codes[0]),
                "rsrp_dbm": signal.rsrp_dbm(codes[1]),
                "sinr_db": _ratio(codes[2]),
                "rsrq_db": signal.rsrq_db(codes[3]),
            }
        elif name.startswith("NR"):
            found = {**found, **_hcsq_nr(codes, beside_lte=found.get("technology") is Technology.LTE)}
        else:
            found = {"technology": technology, "rssi_dbm": _level(codes[0])}
            found |= {"rsrp_dbm": None, "rsrq_db": None, "sinr_db": None}
            if technology is Technology.UMTS:
                rscp, ecio = _level(codes[1]), signal.coded(codes[2], 65, -32.5, 0.5)
                found["notes"] = [f"RSCP {rscp} dBm, Ec/Io {ecio} dB"]
    return found


def _level(code: int | None) -> float | None:
    """RSSI and RSCP of ^HCSQ: -121 + n dBm, 0..96."""
    return signal.coded(code, 96, -121)


def _ratio(code: int | None) -> float | None:
    """SINR of ^HCSQ: -20.2 + n/5 dB, 0..251."""
    return signal.coded(code, 251, -20.2, 0.2)


def _hcsq_nr(codes: list[int | None], *, beside_lte: bool) -> Fields:
    """NR of MH5000 and MT5700: RSRP and SINR as LTE's; the scale of RSRQ is not certain, so it is left out."""
    rsrp, sinr = signal.rsrp_dbm(codes[0]), _ratio(codes[1])
    note = [f"HCSQ NR RSRQ raw {codes[2]} left out: its scale differs between firmwares"]
    if beside_lte:
        return {"technology": Technology.NR5G_NSA, "nr_rsrp_dbm": rsrp, "nr_sinr_db": sinr, "notes": note}
    return {"technology": Technology.NR5G_SA, "rsrp_dbm": rsrp, "sinr_db": sinr, "notes": note}


def rssi(reply: Reply) -> Fields:
    """Read the notice ^RSSI: <code> on the scale of +CSQ."""
    return first({"rssi_dbm": signal.csq_rssi(integer(at(fields, 0)))} for fields in reply.rows("^RSSI"))


# --- system information ---------------------------------------------------------------------------------------------

_SIM: Final = {0: "failure", 1: "ready", 2: "ready", 3: "ready", 4: "failure", 255: "absent"}
_MODES_EX: Final = {
    1: Technology.GSM,
    3: Technology.UMTS,
    4: Technology.UMTS,
    6: Technology.LTE,
    7: Technology.LTE,
    8: Technology.NR5G_SA,
}
_MODES: Final = {
    3: Technology.GSM,
    5: Technology.UMTS,
    7: Technology.UMTS,
    15: Technology.UMTS,
    17: Technology.LTE,
}
_VALID_SERVICE: Final = 2
_NO_SERVICE: Final = (0, 1, 3)


def _service(status: int | None, roaming: int | None) -> Registration | None:
    """<srv_status> 2 is valid service, at home with <roam_status> 0, roaming with 1; 0, 1, 3 are none or restricted."""
    if status == _VALID_SERVICE:
        return {0: Registration.HOME, 1: Registration.ROAMING}.get(-1 if roaming is None else roaming)
    return Registration.NOT_REGISTERED if status in _NO_SERVICE else None


def system_info_ex(reply: Reply) -> Fields:
    """Read ^SYSINFOEX: srv_status, srv_domain, roam, sim_state, reserved, sysmode, its name, submode, its name."""
    for fields in reply.rows("^SYSINFOEX"):
        named = signal.technology_of_name(at(fields, 6))
        return {
            "registration": _service(integer(at(fields, 0)), integer(at(fields, 2))),
            "sim_state": _SIM.get(-1 if (state := integer(at(fields, 3))) is None else state),
            "technology": named or _MODES_EX.get(integer(at(fields, 5)) or 0),
        }
    return {}


def system_info(reply: Reply) -> Fields:
    """Read ^SYSINFO: srv_status, srv_domain, roam, sysmode, sim_state[, lock, submode]."""
    for fields in reply.rows("^SYSINFO"):
        return {
            "registration": _service(integer(at(fields, 0)), integer(at(fields, 2))),
            "technology": _MODES.get(integer(at(fields, 3)) or 0),
            "sim_state": _SIM.get(-1 if (state := integer(at(fields, 4))) is None else state),
        }
    return {}


# --- serving cell ---------------------------------------------------------------------------------------------------


def serving_cell(reply: Reply) -> Fields:
    """Read ^MONSC: the layout follows the mode; cell, PCI and TAC are hexadecimal, channels decimal."""
    found: Fields = {}
    for fields in reply.rows("^MONSC"):
        name = at(fields, 0).upper()
        mcc, mnc = signal.code_pair(at(fields, 1), at(fields, 2), padded=True)
        if name == "LTE":
            cell = signal.cell(hexadecimal(at(fields, 4)))
            found |= {
                "technology": Technology.LTE,
                "mcc": mcc,
                "mnc": mnc,
                "earfcn": signal.earfcn(integer(at(fields, 3))),
                "cell_id": cell,
                "enodeb_id": signal.enodeb(cell),
                "pci": signal.pci(hexadecimal(at(fields, 5))),
                "tac": signal.area(hexadecimal(at(fields, 6))),
                "rsrp_dbm": signal.rsrp(number(at(fields, 7))),
                "rsrq_db": signal.rsrq(number(at(fields, 8))),
                "rssi_dbm": signal.rssi(number(at(fields, 9))),
            }
        elif name == "NR":
            found |= _monsc_nr(fields, mcc, mnc, beside_lte=found.get("technology") is Technology.LTE)
        elif name in {"WCDMA", "TD-SCDMA", "TD_SCDMA"}:
            found |= {"technology": Technology.UMTS, "mcc": mcc, "mnc": mnc, "rsrp_dbm": None}
            found |= {
                "cell_id": signal.cell(hexadecimal(at(fields, 5))),
                "lac": signal.area(hexadecimal(at(fields, 6))),
            }
            found["notes"] = [f"RSCP {at(fields, 7)} dBm, UARFCN {at(fields, 3)}"]
        elif name == "GSM":
            found |= {"technology": Technology.GSM, "mcc": mcc, "mnc": mnc, "rsrp_dbm": None}
            found |= {
                "cell_id": signal.cell(hexadecimal(at(fields, 6))),
                "lac": signal.area(hexadecimal(at(fields, 7))),
            }
            found["rssi_dbm"] = signal.rssi(number(at(fields, 8)))
        else:
            found |= {"technology": None, "cell_id": None}
    return found


def _monsc_nr(fields: list[str], mcc: str | None, mnc: str | None, *, beside_lte: bool) -> Fields:
    """NR, MCC, MNC, ARFCN, SCS, cell, PCI, TAC, RSRP, RSRQ, SINR."""
    arfcn, pci = signal.nr_arfcn(integer(at(fields, 3))), signal.nr_pci(hexadecimal(at(fields, 6)))
    rsrp, rsrq, sinr = number(at(fields, 8)), number(at(fields, 9)), number(at(fields, 10))
    if beside_lte:
        return {
            "technology": Technology.NR5G_NSA,
            "nr_arfcn": arfcn,
            "nr_pci": pci,
            "nr_rsrp_dbm": signal.rsrp(rsrp),
            "nr_rsrq_db": signal.rsrq(rsrq),
            "nr_sinr_db": signal.sinr(sinr),
        }
    return {
        "technology": Technology.NR5G_SA,
        "mcc": mcc,
        "mnc": mnc,
        "earfcn": arfcn,
        "cell_id": signal.nr_cell(hexadecimal(at(fields, 5))),
        "pci": pci,
        "tac": signal.area(hexadecimal(at(fields, 7))),
        "rsrp_dbm": signal.rsrp(rsrp),
        "rsrq_db": signal.rsrq(rsrq),
        "sinr_db": signal.sinr(sinr),
    }


def frequency(reply: Reply) -> Fields:
    """Read ^HFREQINFO?: n, sysmode (6 LTE, 7 NR), then band, DL channel, DL frequency, DL bandwidth (kHz), ..."""
    for fields in reply.rows("^HFREQINFO"):
        nr, width = at(fields, 1) == "7", number(at(fields, 5))
        channel = integer(at(fields, 3))
        return {
            "technology": Technology.NR5G_SA if nr else Technology.LTE if at(fields, 1) == "6" else None,
            "band": signal.nr_band(integer(at(fields, 2))),
            "earfcn": signal.nr_arfcn(channel) if nr else signal.earfcn(channel),
            "bandwidth_mhz": signal.within(None if width is None else width / 1000, 1, 800),
        }
    return {}


def lte_rsrp(reply: Reply) -> Fields:
    """Read ^LTERSRP?: <rsrp>,<rsrq> in dBm and dB."""
    for fields in reply.rows("^LTERSRP"):
        return {"rsrp_dbm": signal.rsrp(number(at(fields, 0))), "rsrq_db": signal.rsrq(number(at(fields, 1)))}
    return {}


def temperature(reply: Reply) -> Fields:
    """Read ^CHIPTEMP?: sensors in tenths of a degree, 65535 none; the hottest one counts."""
    for fields in reply.rows("^CHIPTEMP"):
        values = [signal.celsius(value / 10) for field in fields if (value := number(field)) is not None]
        return {"temperature_c": signal.first_finite(*values)}
    return {}


def cpin(reply: Reply) -> Fields:
    """Read ^CPIN?: <code>,<times>,<puk>,<pin>,<puk2>,<pin2>; the tries left are told in the notes."""
    for fields in reply.rows("^CPIN"):
        found: Fields = {"sim_state": generic.sim_state(at(fields, 0))}
        if len(fields) > 3:  # noqa: PLR2004 - code, times, PUK, PIN
            found["notes"] = [f"tries left PIN {at(fields, 3)}, PUK {at(fields, 2)}"]
        return found
    return {}


PARSERS: Final[dict[str, Parser]] = {
    "^HCSQ": hcsq,
    "^RSSI": rssi,
    "^SYSINFOEX": system_info_ex,
    "^SYSINFO": system_info,
    "^MONSC": serving_cell,
    "^HFREQINFO": frequency,
    "^LTERSRP": lte_rsrp,
    "^CHIPTEMP": temperature,
    "^CPIN": cpin,
}

HUAWEI: Final = Family(
    key="huawei",
    makers=re.compile(r"huawei|\bE3372|\bME9(?:06|09)|\bMT5700|\bMH5000", re.IGNORECASE),
    parsers=PARSERS,
    setup=("AT^CURC=0", *generic.LOCATION_SETUP),
    profile=Profile(
        polls=(
            Poll(command="AT^MONSC"),
            Poll(command="AT^HCSQ?"),
            *generic.REGISTRATION_POLLS,
            Poll(command="AT^SYSINFOEX", unless=("registered", "technology")),
            generic.OPERATOR_POLL,
            generic.PLMN_POLL,
            Poll(command="AT^HFREQINFO?", unless=("bandwidth_mhz", "band")),
            *generic.SIGNAL_POLLS,
            Poll(command="AT^CHIPTEMP?"),
        ),
    ),
    iccid=("AT^ICCID?", "AT+CCID"),
)
