"""Reading commands of makers without a family of their own, and of older modules: one command each. Pure.

Sources: ModemManager's plugins for Ericsson (*ERINFO), Sierra (*CNTI), Novatel ($CNTI), Icera (%NWSTATE), Option
(_OWCTI, _OCTI), Longcheer and Linktop (+PSRAT), Cinterion (^SIND).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, integer
from agent.modem.vendors.profile import Parser, Reply, first
from wire.radio import Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields


def named_technology(reply: Reply) -> Fields:
    """Read *CNTI and $CNTI: <n>,<name>; +PSRAT: <name>."""
    rows = reply.rows("*CNTI", "$CNTI", "+PSRAT")
    return first({"technology": signal.technology_of_name(fields[-1])} for fields in rows)


def ericsson(reply: Reply) -> Fields:
    """Read *ERINFO?: <mode>,<gsm>,<umts>: gsm 1 GPRS, 2 EDGE; umts 1 UMTS, 2 HSDPA, 3 HSPA."""
    for fields in reply.rows("*ERINFO"):
        if integer(at(fields, 2)):
            return {"technology": Technology.UMTS}
        return {"technology": Technology.GSM if integer(at(fields, 1)) else None}
    return {}


def icera(reply: Reply) -> Fields:
    """Read %NWSTATE: <bars>,<PLMN>,<technology>,<connection>,...: the PLMN is 0 or empty without a network."""
    for fields in reply.rows("%NWSTATE"):
        mcc, mnc = signal.plmn(at(fields, 1))
        named = signal.technology_of_name(at(fields, 2)) or signal.technology_of_name(at(fields, 3))
        return {"mcc": mcc, "mnc": mnc, "technology": named}
    return {}


def option(reply: Reply) -> Fields:
    """Read _OWCTI: 0 none, 1 WCDMA, 2..4 HSPA; _OCTI: <n>,<t>: 1 GSM, 2 GPRS, 3 EDGE."""
    for fields in reply.rows("_OWCTI"):
        return {"technology": Technology.UMTS if integer(fields[-1]) else None}
    for fields in reply.rows("_OCTI"):
        return {"technology": Technology.GSM if integer(fields[-1]) else None}
    return {}


_PSINFO: Final = {
    **dict.fromkeys((1, 2, 3, 4), Technology.GSM),
    **dict.fromkeys((5, 6, 7, 8, 9, 10), Technology.UMTS),
    **dict.fromkeys((16, 17), Technology.LTE),
}


def indicator(reply: Reply) -> Fields:
    """Read ^SIND: psinfo,<mode>,<value>: the packet service in use."""
    rows = (fields for fields in reply.rows("^SIND") if at(fields, 0).lower() == "psinfo")
    return first({"technology": _PSINFO.get(integer(fields[-1]) or 0)} for fields in rows)


PARSERS: Final[dict[str, Parser]] = {
    **dict.fromkeys(("*CNTI", "$CNTI", "+PSRAT"), named_technology),
    "*ERINFO": ericsson,
    "%NWSTATE": icera,
    **dict.fromkeys(("_OWCTI", "_OCTI"), option),
    "^SIND": indicator,
}
