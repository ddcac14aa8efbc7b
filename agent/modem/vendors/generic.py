"""3GPP TS 27.007 as every modem more or less speaks it: registration, operator, signal, SIM, identity. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.at import is_registration_notice
from agent.modem.signal import at, integer
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply
from wire.radio import Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

# --- +CREG, +CGREG, +CEREG, +C5GREG: TS 27.007 7.2, 10.1.20, 10.1.22, 10.1.47 ---------------------------------------


def registration(reply: Reply) -> Fields:
    """Read the registration; the last solicited line counts, or the last notice where no answer came."""
    prefixes = ("+CREG", "+CGREG", "+CEREG", "+C5GREG")
    lines = [line for line in reply.lines if any(line.upper().lstrip().startswith(p) for p in prefixes)]
    solicited = [line for line in lines if not is_registration_notice(line)]
    if not lines:
        return {}
    line = (solicited or lines)[-1]
    fields = signal.fields_of(line.partition(":")[2])
    if not is_registration_notice(line):
        fields = fields[1:]
    found: Fields = {"registration": signal.registration_of(integer(at(fields, 0)))}
    if at(fields, 0) and not at(fields, 0).isdigit():
        return found
    area, cell, act = _place(fields[1:])
    technology = signal.technology_of_act(integer(act))
    if act:
        found["technology"] = technology
    evolved = line.upper().lstrip().startswith(("+CEREG", "+C5GREG")) or technology in _EVOLVED
    if area is not None:
        found["tac" if evolved else "lac"] = signal.area(signal.hexadecimal(area))
    if cell is not None:
        nr = technology is Technology.NR5G_SA or (technology is None and line.upper().lstrip().startswith("+C5GREG"))
        value = signal.hexadecimal(cell)
        found["cell_id"] = signal.nr_cell(value) if nr else signal.cell(value)
        eutran = technology in signal.EUTRAN or (evolved and not nr and technology is None)
        if eutran:
            found["enodeb_id"] = signal.enodeb(found["cell_id"])
    return found


_EVOLVED: Final = (Technology.LTE, Technology.NR5G_SA, Technology.NR5G_NSA)


def _place(fields: list[str]) -> tuple[str | None, str | None, str]:
    """Return area, cell and AcT. Some firmwares put a RAC before the cell: then a cell stands where AcT should."""
    if len(fields) >= 3 and re.fullmatch(r"[0-9A-Fa-f]{3,9}", at(fields, 2)):  # noqa: PLR2004 - area, RAC, cell
        return fields[0], fields[2], at(fields, 3)
    if len(fields) >= 2:  # noqa: PLR2004 - area, cell
        return fields[0], fields[1], at(fields, 2)
    return (fields[0] if fields else None), None, ""


# --- +COPS: TS 27.007 7.3 -------------------------------------------------------------------------------------------


def operator(reply: Reply) -> Fields:
    """Read +COPS? (the network in use), or +COPS=? (the list: its current entry, stat 2)."""
    bodies = [body for body in reply.bodies("+COPS") if body]
    found: Fields = {"operator": None, "mcc": None, "mnc": None, "technology": None}
    if reply.command.replace(" ", "").upper().endswith("=?") or any("(" in body for body in bodies):
        return {**found, **_current_network(" ".join(bodies))}
    if not bodies:
        return {}
    fields = signal.fields_of(bodies[-1])
    return {**found, **_network(at(fields, 2), at(fields, 1), at(fields, 3))}


def _network(name: str, form: str, act: str) -> Fields:
    name = decoded_ucs2(name)
    found: Fields = {"technology": signal.technology_of_act(integer(act))}
    mcc, mnc = signal.plmn(name) if re.fullmatch(r"[0-9]{5,6}", name) else (None, None)
    if mcc is not None:
        found |= {"mcc": mcc, "mnc": mnc}
    elif form != "2":
        found["operator"] = name or None
    return found


def _current_network(text: str) -> Fields:
    for entry in re.findall(r"\(((?:\"[^\"]*\"|[^()\"])*)\)", text):
        fields = signal.fields_of(entry)
        if at(fields, 0) == "2" and len(fields) >= 4:  # noqa: PLR2004 - stat, long name, short name, PLMN
            long_name, short_name, numeric = (decoded_ucs2(field) for field in fields[1:4])
            mcc, mnc = signal.plmn(numeric)
            act = signal.technology_of_act(integer(at(fields, 4)))
            return {"operator": long_name or short_name or None, "mcc": mcc, "mnc": mnc, "technology": act}
    return {}


def decoded_ucs2(text: str) -> str:
    """Decode a name sent as UCS2 digits (AT+CSCS="UCS2"); text that is none is returned as it is."""
    if len(text) < 8 or len(text) % 4 or not re.fullmatch(r"[0-9A-Fa-f]+", text):  # noqa: PLR2004 - two characters
        return text
    decoded = bytes.fromhex(text).decode("utf-16-be", "replace").strip("\x00")
    return decoded if decoded.isprintable() and "�" not in decoded else text


# --- signal ---------------------------------------------------------------------------------------------------------


def csq(reply: Reply) -> Fields:
    """Read +CSQ: <rssi>,<ber>, TS 27.007 8.5."""
    for fields in reversed(list(reply.rows("+CSQ"))):
        return {
            "rssi_dbm": signal.csq_rssi(integer(at(fields, 0))),
            "ber_index": signal.bit_error(integer(at(fields, 1))),
        }
    return {}


def cesq(reply: Reply) -> Fields:
    """Read +CESQ: <rxlev>,<ber>,<rscp>,<ecno>,<rsrq>,<rsrp>[,<ss_rsrq>,<ss_rsrp>,<ss_sinr>], TS 27.007 8.69."""
    for fields in reversed(list(reply.rows("+CESQ"))):
        return extended_signal([integer(field) for field in fields])
    return {}


def extended_signal(codes: list[int | None]) -> Fields:
    """Turn the codes of +CESQ, in its order, into units; the valid group tells the technology."""
    rxlev, ber, rscp, ecno, rsrq, rsrp, ss_rsrq, ss_rsrp, ss_sinr = [*codes, *[None] * 9][:9]
    found: Fields = {
        "rssi_dbm": signal.rxlev_dbm(rxlev),
        "ber_index": signal.bit_error(ber),
        "rsrq_db": signal.rsrq_db(rsrq),
        "rsrp_dbm": signal.rsrp_dbm(rsrp),
    }
    nr: Fields = {
        "nr_rsrp_dbm": signal.ss_rsrp_dbm(ss_rsrp),
        "nr_rsrq_db": signal.ss_rsrq_db(ss_rsrq),
        "nr_sinr_db": signal.ss_sinr_db(ss_sinr),
    }
    if nr["nr_rsrp_dbm"] is not None and found["rsrp_dbm"] is not None:
        return {**found, **nr, "technology": Technology.NR5G_NSA}
    if nr["nr_rsrp_dbm"] is not None:
        standalone: Fields = {
            "rsrp_dbm": nr["nr_rsrp_dbm"],
            "rsrq_db": nr["nr_rsrq_db"],
            "sinr_db": nr["nr_sinr_db"],
            "technology": Technology.NR5G_SA,
        }
        return {**found, **standalone}
    if found["rsrp_dbm"] is not None or found["rsrq_db"] is not None:
        found["technology"] = Technology.LTE
    elif signal.rscp_dbm(rscp) is not None or signal.ecno_db(ecno) is not None:
        found["technology"] = Technology.UMTS
        found["notes"] = [f"RSCP {signal.rscp_dbm(rscp)} dBm, Ec/No {signal.ecno_db(ecno)} dB"]
    elif found["rssi_dbm"] is not None:
        found["technology"] = Technology.GSM
    return found


# --- SIM: TS 27.007 8.3 ---------------------------------------------------------------------------------------------


def cpin(reply: Reply) -> Fields:
    """Read +CPIN: READY, SIM PIN, ... with or without quotes or the prefix; NOT INSERTED and NOT READY are SIMCom's."""
    bodies = [body for body in reply.bodies("+CPIN") if body] or list(reply.lines[-1:])
    return {"sim_state": sim_state(signal.fields_of(bodies[-1])[0])} if bodies else {}


def sim_state(code: str) -> str | None:
    """State by the <code> of +CPIN, TS 27.007 8.3."""
    code = re.sub(r"\s+", " ", code.strip().upper())
    if code in {"NOT INSERTED", "SIM NOT INSERTED", "NO SIM", "SIM REMOVED"}:
        return "absent"
    if code in {"NOT READY", "SIM BUSY", "INITIALIZING"}:
        return "busy"
    if code in {"READY", "SIM READY"}:
        return "ready"
    found = re.fullmatch(r"(?:SIM |UIM )?(P[IU][NK]2?)(?: REQUIRED)?", code)
    if found:
        return found[1].lower()
    return re.sub(r"[^a-z0-9]+", "_", code.lower()) if re.fullmatch(r"PH-[A-Z]+ P[IU][NK]", code) else None


# TS 27.007 9.2.1 and 9.2.2.1: what a mobile equipment error says of the SIM.
_SIM_OF_CAUSE: Final = {
    5: "ph_sim_pin",
    6: "ph_fsim_pin",
    7: "ph_fsim_puk",
    10: "absent",
    11: "pin",
    12: "puk",
    13: "failure",
    14: "busy",
    15: "wrong",
    17: "pin2",
    18: "puk2",
    40: "ph_net_pin",
    41: "ph_net_puk",
    42: "ph_netsub_pin",
    43: "ph_netsub_puk",
    44: "ph_sp_pin",
    45: "ph_sp_puk",
    46: "ph_corp_pin",
    47: "ph_corp_puk",
}
_SIM_OF_TEXT: Final = (
    (
        re.compile(r"NOT INSERTED|NO SIM|SIM NOT PRESENT|UICC NOT PRESENT|SIM REMOVED|NOT DETECTED", re.IGNORECASE),
        "absent",
    ),
    (re.compile(r"SIM PIN2", re.IGNORECASE), "pin2"),
    (re.compile(r"SIM PUK2", re.IGNORECASE), "puk2"),
    (re.compile(r"SIM PIN", re.IGNORECASE), "pin"),
    (re.compile(r"SIM PUK", re.IGNORECASE), "puk"),
    (re.compile(r"PH-?SIM PIN", re.IGNORECASE), "ph_sim_pin"),
    (re.compile(r"NETWORK PERSONALI[SZ]ATION PIN", re.IGNORECASE), "ph_net_pin"),
    (re.compile(r"SIM BUSY", re.IGNORECASE), "busy"),
    (re.compile(r"SIM FAILURE", re.IGNORECASE), "failure"),
    (re.compile(r"SIM WRONG", re.IGNORECASE), "wrong"),
)


def sim_of_error(error: str, *, asked_for_sim: bool) -> str | None:
    """State of the SIM by a +CME ERROR, numeric or textual; None where the error says nothing of it.

    `asked_for_sim`: the command was +CPIN? or the like, so that "unknown" (100) means an unknown state.
    """
    found = re.match(r"\+CME ERROR:?\s*(.*)", error)
    if not found:
        return None
    if found[1].isdigit():
        state = _SIM_OF_CAUSE.get(int(found[1]))
        return state or ("unknown" if asked_for_sim and int(found[1]) == 100 else None)  # noqa: PLR2004 - CME 100
    ordered = sorted(_SIM_OF_TEXT, key=lambda pair: not pair[1].startswith("ph_"))
    state = next((state for pattern, state in ordered if pattern.search(found[1])), None)
    return state or ("unknown" if asked_for_sim and re.match(r"unknown", found[1], re.IGNORECASE) else None)


# --- identity: TS 27.007 5.1-5.4, V.250 6.1.3 -----------------------------------------------------------------------


def manufacturer(reply: Reply) -> Fields:
    """Read +CGMI or +GMI."""
    return {"manufacturer": _named(reply, "MANUFACTURER", "+CGMI", "+GMI", "#CGMI")}


def model(reply: Reply) -> Fields:
    """Read +CGMM or +GMM."""
    return {"model": _named(reply, "MODEL", "+CGMM", "+GMM", "#CGMM")}


def revision(reply: Reply) -> Fields:
    """Read +CGMR or +GMR."""
    return {"revision": _named(reply, "REVISION", "+CGMR", "+GMR", "#CGMR")}


def _named(reply: Reply, label: str, *prefixes: str) -> str | None:
    value = reply.text(*prefixes)
    return None if value is None else re.sub(rf"^{label}\s*:\s*", "", value, flags=re.IGNORECASE).strip() or None


def identification(reply: Reply) -> Fields:
    """Read ATI: labelled lines (`Manufacturer: ...`), or manufacturer, model and revision on lines of their own."""
    found: Fields = {}
    labelled = re.compile(r"\s*(Manufacturer|Model|Revision)\s*:\s*(.*\S)", re.IGNORECASE)
    bare: list[str] = []
    for line in reply.lines:
        match = labelled.match(line)
        if match:
            name = match[1].lower()
            if name == "manufacturer":
                found.setdefault("manufacturer", match[2])
            elif name == "model":
                found.setdefault("model", match[2])
            else:
                found.setdefault("revision", match[2])
        elif not re.match(r"[+^]|.*\b(?:IMEI|ESN|MEID|SVN|SN|Serial\b.*)\s*:", line, re.IGNORECASE):
            bare.append(line.strip())
    if "manufacturer" not in found and "model" not in found and len(bare) > 1:
        found["manufacturer"], found["model"] = bare[0], bare[1]
        if len(bare) > 2:  # noqa: PLR2004 - manufacturer, model, revision
            found.setdefault("revision", bare[2])
    elif "model" not in found and len(bare) == 1 and re.search(r"[A-Za-z].*[0-9]", bare[0]):
        found["model"] = bare[0]
    return found


def contexts(reply: Reply) -> Fields:
    """Read +CGDCONT?: no field has a name here; the access points are told in the notes."""
    rows = [f"cid {at(f, 0)} {at(f, 1)} apn {at(f, 2)}" for f in reply.rows("+CGDCONT") if at(f, 0).isdigit()]
    return {"notes": rows[:16]}


PARSERS: Final[dict[str, Parser]] = {
    **dict.fromkeys(("+CREG", "+CGREG", "+CEREG", "+C5GREG"), registration),
    "+COPS": operator,
    "+CSQ": csq,
    "+CESQ": cesq,
    "+CPIN": cpin,
    **dict.fromkeys(("+CGMI", "+GMI", "#CGMI"), manufacturer),
    **dict.fromkeys(("+CGMM", "+GMM", "#CGMM"), model),
    **dict.fromkeys(("+CGMR", "+GMR", "#CGMR"), revision),
    "I": identification,
    "+CGDCONT": contexts,
}

REGISTRATION_POLLS: Final = (
    Poll(command="AT+CEREG?"),
    Poll(command="AT+CGREG?", unless=("registered",)),
    Poll(command="AT+CREG?", unless=("registered",)),
)
"""The packet domains first, LTE before older; the circuit domain only where no packet domain is registered."""

LOCATION_SETUP: Final = ("AT+CEREG=2", "AT+CGREG=2", "AT+CREG=2")
"""Area and cell in the answers to +CEREG? and its like; volatile."""
OPERATOR_POLL: Final = Poll(command="AT+COPS?", first=("AT+COPS=3,0",))
PLMN_POLL: Final = Poll(command="AT+COPS?", first=("AT+COPS=3,2",), unless=("mcc",))
"""The operator's name, then its number; +COPS=3 only chooses the form of the answer (TS 27.007 7.3)."""

SIGNAL_POLLS: Final = (
    Poll(command="AT+CESQ", unless=("rsrp_dbm", "rsrq_db")),
    Poll(command="AT+CSQ", unless=("rssi_dbm",)),
)

GENERIC: Final = Family(
    key="generic",
    makers=re.compile(r"(?!)"),
    parsers=PARSERS,
    setup=LOCATION_SETUP,
    profile=Profile(polls=(*REGISTRATION_POLLS, OPERATOR_POLL, PLMN_POLL, *SIGNAL_POLLS)),
)
