"""ZTE: +ZPAS, +ZRSSI, +ZCELLINFO, +ZSINR. Pure.

Sources: ModemManager's ZTE plugin and recorded replies; ZTE publishes no manual of these commands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem import signal
from agent.modem.signal import at, hexadecimal, integer, number
from agent.modem.vendors import generic
from agent.modem.vendors.huawei import system_info
from agent.modem.vendors.profile import Family, Parser, Poll, Profile, Reply
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from agent.modem.reading import Fields

_UNREGISTERED: Final = {"NO SERVICE": Registration.NOT_REGISTERED, "LIMITED SERVICE": Registration.NOT_REGISTERED}


def access(reply: Reply) -> Fields:
    """Read +ZPAS?: <network type>,<domain>; some firmwares answer with +BEARTYPE."""
    for fields in reply.rows("+ZPAS", "+BEARTYPE"):
        found: Fields = {"technology": signal.technology_of_name(at(fields, 0))}
        if at(fields, 0).upper() in _UNREGISTERED:
            found["registration"] = _UNREGISTERED[at(fields, 0).upper()]
        return found
    return {}


_THIRD_GENERATION_FIELDS: Final = 3


def rssi(reply: Reply) -> Fields:
    """Read +ZRSSI: the 3G form is RSSI, 2 Ec/Io, 2 RSCP without signs; of shorter forms the meaning is not certain."""
    for fields in reply.rows("+ZRSSI"):
        level, ecio, rscp = (number(at(fields, index)) for index in range(3))
        found: Fields = {"rsrp_dbm": None, "rssi_dbm": None}
        if len(fields) == _THIRD_GENERATION_FIELDS:
            found["rssi_dbm"] = None if level is None else signal.rssi(-abs(level))
            if ecio is not None and rscp is not None:
                found["notes"] = [f"Ec/Io {-abs(ecio) / 2} dB, RSCP {-abs(rscp) / 2} dBm"]
        else:
            found["notes"] = [f"ZRSSI raw {','.join(fields)} left out: not the three fields of the 3G form"]
        return found
    return {}


def cell(reply: Reply) -> Fields:
    """Read +ZCELLINFO?: <area>,<cell>[,<PCI>],<band>,<channel>, the first three hexadecimal with 0X."""
    for fields in reply.rows("+ZCELLINFO"):
        band_at = next(
            (i for i, field in enumerate(fields) if re.search(r"LTE|GSM|WCDMA|UMTS|NR", field, re.IGNORECASE)), None
        )
        if band_at is None:
            continue
        technology = signal.technology_of_name(at(fields, band_at))
        place = fields[:band_at]
        found: Fields = {"technology": technology, "band": signal.band_of_name(at(fields, band_at))}
        area, cell_id = signal.area(hexadecimal(at(place, 0))), signal.cell(hexadecimal(at(place, 1)))
        if technology is Technology.LTE:
            found |= {"tac": area, "cell_id": cell_id, "enodeb_id": signal.enodeb(cell_id)}
            found["earfcn"] = signal.earfcn(integer(at(fields, band_at + 1)))
        else:
            found |= {"lac": area, "cell_id": cell_id}
        found["notes"] = ["ZCELLINFO fields 1 and 2 read as area and cell"]
        return found
    return {}


def sinr(reply: Reply) -> Fields:
    """Read +ZSINR: <whole>,<tenths>, ... in dB."""
    for fields in reply.rows("+ZSINR"):
        tenths = at(fields, 1) if re.fullmatch(r"[0-9]", at(fields, 1)) else "0"
        return {"sinr_db": signal.sinr(number(f"{at(fields, 0)}.{tenths}"))}
    return {}


PARSERS: Final[dict[str, Parser]] = {
    "+ZPAS": access,
    "+BEARTYPE": access,
    "+ZRSSI": rssi,
    "+ZCELLINFO": cell,
    "+ZSINR": sinr,
    "^SYSINFO": system_info,
}

ZTE: Final = Family(
    key="zte",
    makers=re.compile(r"\bzte\b|zte ", re.IGNORECASE),
    parsers=PARSERS,
    setup=generic.LOCATION_SETUP,
    profile=Profile(
        polls=(
            Poll(command="AT+ZCELLINFO?"),
            *generic.REGISTRATION_POLLS,
            Poll(command="AT+ZPAS?"),
            generic.OPERATOR_POLL,
            generic.PLMN_POLL,
            Poll(command="AT+ZSINR"),
            *generic.SIGNAL_POLLS,
        ),
    ),
    iccid=("AT+ZGETICCID", "AT+CCID"),
)
