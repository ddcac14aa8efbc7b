"""SIMCom: +CPSI in every layout of SIM7x00, SIM7000/7070, SIM8200 and A76xx; +CNSMOD, temperature, counters. Pure.

Sources: SIM7500_SIM7600 Series AT Command Manual, SIM7000 Series AT Command Manual, SIM8200 Series AT Command Manual,
A76XX Series AT Command Manual; recorded replies where firmwares leave them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from agent.modem.vendors.generic import OPERATOR_POLL, REGISTRATION_POLLS, SIGNAL_POLLS
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply, first
from wire.radio import Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

_NO_CELL: Final[Fields] = {
    "technology": None,
    "mcc": None,
    "mnc": None,
    "cell_id": None,
    "pci": None,
    "earfcn": None,
    "band": None,
    "rsrp_dbm": None,
    "rsrq_db": None,
    "sinr_db": None,
    "rssi_dbm": None,
}


def cpsi(reply: Reply) -> Fields:
    """Read +CPSI?: the system decides the layout. `Online` is the operation mode of the modem, not a registration."""
    found: Fields = {}
    for fields in reply.rows("+CPSI"):
        system = at(fields, 0).upper()
        if system.startswith("LTE"):
            found |= _lte(fields)
        elif system.startswith("NR5G") and "SA" in system and "NSA" not in system:
            found |= _nr_standalone(fields)
        elif system.startswith("NR5G"):
            found |= _nr_secondary(fields)
        elif system in {"WCDMA", "UMTS", "TDSCDMA", "TD-SCDMA"}:
            found |= _umts(fields)
        elif system == "GSM":
            found |= _gsm(fields)
        else:
            found |= _NO_CELL
    return found


def _scaled(rsrp: str) -> float:
    """RSRP and its neighbours come in tenths on SIM7x00 and SIM8200 (-998) and plain on SIM7000/7070 (-86)."""
    value = number(rsrp)
    return 10.0 if value is not None and value <= -200 else 1.0  # noqa: PLR2004 - no plain RSRP lies so low


def _lte(fields: list[str]) -> Fields:
    """LTE, mode, MCC-MNC, TAC (hex), cell (decimal), PCI, band, EARFCN, DL bw, UL bw, RSRQ, RSRP, RSSI, RSSNR."""
    mcc, mnc = signal.plmn(at(fields, 2))
    cell = signal.cell(integer(at(fields, 4)))
    found: Fields = {
        "technology": Technology.LTE,
        "mcc": mcc,
        "mnc": mnc,
        "tac": signal.area(hexadecimal(at(fields, 3))),
        "cell_id": cell,
        "enodeb_id": signal.enodeb(cell),
        "pci": signal.pci(integer(at(fields, 5))),
        "band": signal.band_of_name(at(fields, 6)),
        "earfcn": signal.earfcn(integer(at(fields, 7))),
        "bandwidth_mhz": signal.lte_mhz(integer(at(fields, 8))),
        "rsrq_db": None,
        "rsrp_dbm": None,
        "rssi_dbm": None,
        "sinr_db": None,
    }
    rsrq, rsrp, rssi, rssnr = (number(at(fields, index)) for index in (10, 11, 12, 13))
    raw = ",".join(fields[10:14])
    if rsrp is None or rsrp >= 0:
        # Some A76xx and SIM7600 firmwares send codes without a documented scale: no dBm comes of them.
        found["notes"] = [f"CPSI signal raw {raw}: not in dBm, left out"]
        return found
    scale = _scaled(at(fields, 11))
    found["rsrp_dbm"] = signal.rsrp(rsrp / scale)
    found["rsrq_db"] = None if rsrq is None else signal.rsrq(rsrq / scale if rsrq <= -44 or scale > 1 else rsrq)  # noqa: PLR2004
    found["rssi_dbm"] = None if rssi is None else signal.rssi(rssi / (10 if rssi <= -200 else 1))  # noqa: PLR2004
    found["sinr_db"] = signal.sinr(rssnr)
    found["notes"] = [f"CPSI RSRQ,RSRP,RSSI,RSSNR raw {raw}, read in 1/{scale:g}; RSSNR read as dB"]
    return found


def _nr_standalone(fields: list[str]) -> Fields:
    """NR5G_SA, mode, MCC-MNC, TAC, cell, PCI, band, ARFCN, RSRP, RSRQ, SNR (tenths)."""
    mcc, mnc = signal.plmn(at(fields, 2))
    rsrp, rsrq, snr = _nr_signal(at(fields, 8), at(fields, 9), at(fields, 10))
    return {
        "technology": Technology.NR5G_SA,
        "mcc": mcc,
        "mnc": mnc,
        "tac": signal.area(hexadecimal(at(fields, 3))),
        "cell_id": signal.nr_cell(integer(at(fields, 4))),
        "pci": signal.nr_pci(integer(at(fields, 5))),
        "band": signal.band_of_name(at(fields, 6)),
        "earfcn": signal.nr_arfcn(integer(at(fields, 7))),
        "rsrp_dbm": rsrp,
        "rsrq_db": rsrq,
        "sinr_db": snr,
        "notes": [f"CPSI RSRP,RSRQ,SNR raw {','.join(fields[8:11])}"],
    }


def _nr_secondary(fields: list[str]) -> Fields:
    """NR5G_NSA, PCI, band, ARFCN, RSRP, RSRQ, SNR; an early firmware: NR5G, PCI, ARFCN, RSRQ, RSRP, SNR, plain."""
    if integer(at(fields, 2)) is not None:
        rsrp, rsrq, snr = _nr_signal(at(fields, 4), at(fields, 3), at(fields, 5))
        band, channel = None, at(fields, 2)
    else:
        rsrp, rsrq, snr = _nr_signal(at(fields, 4), at(fields, 5), at(fields, 6))
        band, channel = signal.band_of_name(at(fields, 2)), at(fields, 3)
    return {
        "technology": Technology.NR5G_NSA,
        "nr_pci": signal.nr_pci(integer(at(fields, 1))),
        "nr_band": band,
        "nr_arfcn": signal.nr_arfcn(integer(channel)),
        "nr_rsrp_dbm": rsrp,
        "nr_rsrq_db": rsrq,
        "nr_sinr_db": snr,
    }


def _nr_signal(rsrp: str, rsrq: str, snr: str) -> tuple[float | None, float | None, float | None]:
    """RSRP and RSRQ share a scale; SNR above 40 must be in tenths too (the manual's example: 240)."""
    scale = _scaled(rsrp)
    level, quality, ratio = number(rsrp), number(rsrq), number(snr)
    ratio_scale = 10 if ratio is not None and abs(ratio) > 40 else 1  # noqa: PLR2004 - beyond what a modem can report in dB
    return (
        signal.rsrp(None if level is None else level / scale),
        signal.rsrq(None if quality is None else quality / scale),
        signal.sinr(None if ratio is None else ratio / ratio_scale),
    )


def _umts(fields: list[str]) -> Fields:
    """WCDMA, mode, MCC-MNC, LAC (hex), cell (decimal), band, PSC, UARFCN, SSC, Ec/Io, RSCP, Qual, RxLev, TXPWR."""
    mcc, mnc = signal.plmn(at(fields, 2))
    return {
        "technology": Technology.UMTS,
        "mcc": mcc,
        "mnc": mnc,
        "lac": signal.area(hexadecimal(at(fields, 3))),
        "cell_id": signal.cell(integer(at(fields, 4))),
        "band": signal.band_of_name(at(fields, 5)),
        "rsrp_dbm": None,
        "notes": [
            f"Ec/Io -{at(fields, 9).lstrip('-')} dB, RSCP -{at(fields, 10).lstrip('-')} dBm; the minus may be missing"
        ],
    }


def _gsm(fields: list[str]) -> Fields:
    """GSM, mode, MCC-MNC, LAC (hex), cell (decimal), channel and band, RxLev (dBm), LO adjust, C1-C2."""
    mcc, mnc = signal.plmn(at(fields, 2))
    return {
        "technology": Technology.GSM,
        "mcc": mcc,
        "mnc": mnc,
        "lac": signal.area(hexadecimal(at(fields, 3))),
        "cell_id": signal.cell(integer(at(fields, 4))),
        "rssi_dbm": signal.rssi(number(at(fields, 6))),
        "rsrp_dbm": None,
    }


_MODES: Final = {
    **dict.fromkeys((1, 2, 3), Technology.GSM),
    **dict.fromkeys((4, 5, 6, 7, 9, 10, 11, 12), Technology.UMTS),
    8: Technology.LTE,
}
_MODES_7000: Final = {1: Technology.GSM, 3: Technology.GSM, 7: Technology.LTE, 9: Technology.LTE}


def system_mode(reply: Reply) -> Fields:
    """Read +CNSMOD?: <n>,<stat>; SIM7000 and SIM70x0 number the modes as AcT (7 is LTE-M there, HSPA elsewhere)."""
    modes = _MODES_7000 if re.search(r"SIM70[0-9]{2}", reply.model or "") else _MODES
    return first({"technology": modes.get(integer(at(fields, 1)) or 0)} for fields in reply.rows("+CNSMOD"))


def temperature(reply: Reply) -> Fields:
    """Read +CPMUTEMP: degrees Celsius."""
    return first({"temperature_c": signal.celsius(number(at(f, 0)))} for f in reply.rows("+CPMUTEMP", "+CPMUTMP"))


def pin_counters(reply: Reply) -> Fields:
    """Read +SPIC: tries left of PIN, PUK, PIN2, PUK2: told in the notes."""
    return {"notes": [f"tries left PIN {at(f, 0)}, PUK {at(f, 1)}" for f in reply.rows("+SPIC")]}


PARSERS: Final[dict[str, Parser]] = {
    "+CPSI": cpsi,
    "+CNSMOD": system_mode,
    "+CPMUTEMP": temperature,
    "+SPIC": pin_counters,
}

SIMCOM: Final = Family(
    key="simcom",
    makers=re.compile(r"simcom|\bsim7[0-9]|\bsim8[0-9]|\ba76[0-9]{2}", re.IGNORECASE),
    parsers=PARSERS,
    profile=Profile(
        polls=(
            Poll(command="AT+CPSI?"),
            *REGISTRATION_POLLS,
            OPERATOR_POLL,
            *SIGNAL_POLLS,
            Poll(command="AT+CNSMOD?", unless=("technology",)),
            Poll(command="AT+CPMUTEMP"),
        ),
    ),
    iccid=("AT+CICCID", "AT+CCID", "AT+ICCID"),
)
