"""Telit: #RFSTS and #SERVINFO in their GSM, UMTS and LTE layouts, #MONI, #QSS, #PSNT, #TEMPMEAS. Pure.

Sources: Telit AT Commands Reference Guide 80000ST10025a, LE910Cx and LM940/LM960 AT Commands Reference Guides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from agent.modem.vendors import generic
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply, first
from wire.radio import Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

# --- #RFSTS ---------------------------------------------------------------------------------------------------------


def rf_status(reply: Reply) -> Fields:
    """Read #RFSTS. The layout shows in the signs: LTE has three levels in a row, GSM one, UMTS an unsigned PSC first.

    Fields in the middle come and go with the firmware, so cell, operator and band are found from the IMSI, whose 14 or
    15 digits stand between them.
    """
    for fields in reply.rows("#RFSTS"):
        mcc, mnc = signal.plmn(at(fields, 0))
        found: Fields = {"mcc": mcc, "mnc": mnc}
        negative = [text.startswith("-") for text in fields[2:5]]
        imsi = next((i for i, f in enumerate(fields) if i > 4 and re.fullmatch(r"[0-9]{14,15}|<removed>", f)), None)  # noqa: PLR2004
        cell = None if imsi is None else signal.cell(hexadecimal(at(fields, imsi - 1)))
        if imsi is not None:
            found |= {"cell_id": cell, "operator": at(fields, imsi + 1) or None}
        if negative[:2] == [True, True]:
            return {**found, **_rfsts_lte(fields, imsi), "enodeb_id": signal.enodeb(cell)}
        if negative[:1] == [True]:
            found |= {"technology": Technology.GSM, "rssi_dbm": signal.rssi(number(at(fields, 2))), "rsrp_dbm": None}
            found["lac"] = signal.area(hexadecimal(at(fields, 3)))
        elif negative[1:2] == [True]:
            found |= {"technology": Technology.UMTS, "rssi_dbm": signal.rssi(number(at(fields, 5))), "rsrp_dbm": None}
            found["lac"] = signal.area(hexadecimal(at(fields, 6)))
            found["notes"] = [f"RSCP {at(fields, 4)} dBm, Ec/Io {at(fields, 3)} dB, UARFCN {at(fields, 1)}"]
        return found
    return {}


def _rfsts_lte(fields: list[str], imsi: int | None) -> Fields:
    """PLMN, EARFCN, RSRP, RSSI, RSRQ, TAC, [RAC,] [TXPWR], DRX, MM, RRC, CID, IMSI, name, SD, band[, ...]."""
    found: Fields = {
        "technology": Technology.LTE,
        "earfcn": signal.earfcn(integer(at(fields, 1))),
        "rsrp_dbm": signal.rsrp(number(at(fields, 2))),
        "rssi_dbm": signal.rssi(number(at(fields, 3))),
        "rsrq_db": signal.rsrq(number(at(fields, 4))),
        "tac": signal.area(hexadecimal(at(fields, 5))),
    }
    if imsi is not None:
        found["band"] = signal.lte_band(integer(at(fields, imsi + 3)))
    return found


# --- #SERVINFO ------------------------------------------------------------------------------------------------------

_LTE_FIELDS: Final = 9
_UMTS_NOM_AT: Final = 9
_LARGEST_PCI: Final = 503


def serving_info(reply: Reply) -> Fields:
    """Read #SERVINFO: channel, dBm, name, PLMN, then by technology.

    GSM: BSIC, LAC, TA, GPRS, ...; UMTS: PSC, LAC, DRX, SD, RSCP, NOM, ...; LTE: PCI, TAC, DRX, SD, RSRP.
    """
    for fields in reply.rows("#SERVINFO"):
        mcc, mnc = signal.plmn(at(fields, 3))
        found: Fields = {"rssi_dbm": signal.rssi(number(at(fields, 1))), "mcc": mcc, "mnc": mnc}
        found["operator"] = at(fields, 2) or None
        area = signal.area(hexadecimal(at(fields, 5)))
        if len(fields) == _LTE_FIELDS:
            return {**found, **_servinfo_lte(fields), "tac": area}
        found |= {"lac": area, "rsrp_dbm": None, "pci": None}
        if at(fields, 8).startswith("-"):  # RSCP stands there in the UMTS layout, an empty or PBCCH field in GSM's
            if number(at(fields, 8)) not in {None, -255.0}:
                found["technology"] = Technology.UMTS
                found["notes"] = [f"RSCP {at(fields, 8)} dBm, UARFCN {at(fields, 0)}"]
        elif integer(at(fields, 0)) is not None and (integer(at(fields, 0)) or 0) < 1024:  # noqa: PLR2004 - the last ARFCN of GSM
            found["technology"] = Technology.GSM
        return found
    return {}


def _servinfo_lte(fields: list[str]) -> Fields:
    """Read the fifth field as PCI (LE910) or cell identity (LM940/LM960, LE910Cx): only the latter exceeds 503."""
    found: Fields = {
        "technology": Technology.LTE,
        "earfcn": signal.earfcn(integer(at(fields, 0))),
        "rsrp_dbm": signal.rsrp(number(at(fields, 8))),
    }
    value = hexadecimal(at(fields, 4))
    if value is not None and value > _LARGEST_PCI:
        cell = signal.cell(value)
        return {**found, "cell_id": cell, "enodeb_id": signal.enodeb(cell), "notes": ["field 5 read as cell identity"]}
    return {**found, "pci": signal.pci(value), "notes": ["field 5 read as PCI"]}


# --- #MONI ----------------------------------------------------------------------------------------------------------

_PAIR: Final = re.compile(r"(?:^|\s)([A-Za-z_]+):\s*(-?[0-9A-Za-z.]*)")


def monitor(reply: Reply) -> Fields:
    """Read #MONI of the serving cell: `<name> key:value ...`. Id is the cell with AT#MONI=0, the PCI with AT#MONI=1."""
    for body in reply.bodies("#MONI"):
        pairs = {key.upper(): value for key, value in _PAIR.findall(body)}
        power = number(re.sub(r"(?i)dbm$", "", pairs.get("PWR", "")))
        if "NR_RSRP" in pairs:
            return _moni_nr(pairs)
        if "RSRP" in pairs:
            value = hexadecimal(pairs.get("ID", ""))
            is_cell = value is not None and value > _LARGEST_PCI
            cell = signal.cell(value) if is_cell else None
            pci = integer(pairs.get("PCI", "")) if "PCI" in pairs else (None if is_cell else value)
            found: Fields = {
                "technology": Technology.LTE,
                "rsrp_dbm": signal.rsrp(number(pairs["RSRP"])),
                "rsrq_db": signal.rsrq(number(pairs.get("RSRQ", ""))),
                "tac": signal.area(hexadecimal(pairs.get("TAC", ""))),
                "earfcn": signal.earfcn(integer(pairs.get("EARFCN", ""))),
                "rssi_dbm": signal.rssi(power),
            }
            if is_cell:
                found |= {"cell_id": cell, "enodeb_id": signal.enodeb(cell)}
            if "PCI" in pairs or not is_cell:
                found["pci"] = signal.pci(pci)
            if "SINR" in pairs:
                found["sinr_db"] = signal.sinr(number(pairs["SINR"]))
            return {**found, **_moni_operator(body, pairs)}
        if "RSCP" in pairs or "BSIC" in pairs or "RXQUAL" in pairs:
            umts = "RSCP" in pairs
            older: Fields = {
                "technology": Technology.UMTS if umts else Technology.GSM,
                "lac": signal.area(hexadecimal(pairs.get("LAC", ""))),
                "cell_id": signal.cell(hexadecimal(pairs.get("ID", ""))),
                "rssi_dbm": signal.rssi(power),
                "rsrp_dbm": None,
            }
            if umts:
                older["notes"] = [f"RSCP {pairs['RSCP']} dBm, Ec/Io {pairs.get('ECIO', '')} dB"]
            return {**older, **_moni_operator(body, pairs)}
    return {}


def _moni_operator(body: str, pairs: dict[str, str]) -> Fields:
    """Read the name in front of the first pair; modems that do not know it print `Cc:<mcc> Nc:<mnc>` instead."""
    if "CC" in pairs and "NC" in pairs:
        mcc, mnc = signal.code_pair(pairs["CC"].zfill(3), pairs["NC"], padded=True)
        return {"mcc": mcc, "mnc": mnc}
    first = _PAIR.search(body)
    name = body[: first.start()].strip() if first else ""
    return {"operator": name} if name else {}


def _moni_nr(pairs: dict[str, str]) -> Fields:
    return {
        "technology": Technology.NR5G_SA,
        "band": signal.nr_band(integer(pairs.get("NR_BAND", ""))),
        "bandwidth_mhz": signal.within(number(pairs.get("NR_BW", "")), 5, 800),
        "earfcn": signal.nr_arfcn(integer(pairs.get("NR_CH", ""))),
        "pci": signal.nr_pci(integer(pairs.get("NR_PCI", ""))),
        "rsrp_dbm": signal.rsrp(number(pairs["NR_RSRP"])),
        "rsrq_db": signal.rsrq(number(pairs.get("NR_RSRQ", ""))),
        "notes": [f"NR_SINR raw {pairs.get('NR_SINR', '')} left out: a code without a documented scale"],
    }


# --- the rest -------------------------------------------------------------------------------------------------------


def sim_query(reply: Reply) -> Fields:
    """Read #QSS?: <mode>,<status>, or the notice #QSS: <status>: 0 absent, 1 inserted, 2 unlocked, 3 ready."""
    states = {"0": "absent", "1": "inserted", "2": "ready", "3": "ready"}
    return first({"sim_state": states.get(fields[-1])} for fields in reply.rows("#QSS"))


def service_type(reply: Reply) -> Fields:
    """Read #PSNT?: <n>,<nt>: 0 GPRS, 1 EGPRS, 2 WCDMA, 3 HSDPA, 4 LTE, 5 unknown."""
    types = {"0": Technology.GSM, "1": Technology.GSM, "2": Technology.UMTS, "3": Technology.UMTS, "4": Technology.LTE}
    return first({"technology": types.get(fields[-1])} for fields in reply.rows("#PSNT"))


def temperature(reply: Reply) -> Fields:
    """Read #TEMPMON or #TEMPMEAS: <level>,<degrees Celsius>; #TEMPSENS: <sensor>,<degrees>: the hottest one counts."""
    values = [signal.celsius(number(fields[-1])) for fields in reply.rows("#TEMPMEAS", "#TEMPSENS", "#TEMPMON")]
    return {"temperature_c": signal.first_finite(*values)} if values else {}


PARSERS: Final[dict[str, Parser]] = {
    "#RFSTS": rf_status,
    "#SERVINFO": serving_info,
    "#MONI": monitor,
    "#QSS": sim_query,
    "#PSNT": service_type,
    **dict.fromkeys(("#TEMPMEAS", "#TEMPSENS", "#TEMPMON"), temperature),
}

TELIT: Final = Family(
    key="telit",
    makers=re.compile(r"telit|\b(?:LE|LM|LN|ME|FN|FE|HE|GE)9[0-9]{2}", re.IGNORECASE),
    parsers=PARSERS,
    setup=generic.LOCATION_SETUP,
    profile=Profile(
        polls=(
            Poll(command="AT#RFSTS"),
            *generic.REGISTRATION_POLLS,
            Poll(command="AT#SERVINFO", unless=("rsrp_dbm", "pci", "earfcn")),
            generic.OPERATOR_POLL,
            generic.PLMN_POLL,
            *generic.SIGNAL_POLLS,
        ),
    ),
    iccid=("AT#CCID", "AT+CCID"),
)
