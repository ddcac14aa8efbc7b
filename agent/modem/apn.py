"""The access point name: which one a SIM needs, which one the modem has, and writing it only where it differs.

What +CGDCONT writes lies in the modem's flash on many modules, so it is read first and written once. Which APN an
operator uses is data: `apn.csv`, made of Vietnam's operators and Debian's mobile-broadband-provider-info (public
domain), each line with its source. Only `ensure` talks to a modem.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.modem.errors import CommandRefused, ModemError
from agent.modem.signal import fields_of

if TYPE_CHECKING:
    from agent.modem.session import ModemSession

_FIRST: Final = "operators_vn"
_CONTEXT: Final = 1
"""Context 1 is also the default bearer of LTE (3GPP TS 27.007 section 10.1.0)."""
_FLASH_S: Final = 10.0
_RADIO_S: Final = 30.0
# 3GPP TS 23.003 section 9.1: letters, digits, hyphens, dots; not case-sensitive; an operator identifier may follow.
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,98}[A-Za-z0-9])?")
_OPERATOR_IDENTIFIER: Final = re.compile(r"\.mnc[0-9]{3}\.mcc[0-9]{3}\.gprs$")


class ApnUnknown(ModemError):
    """No single APN can be told from the SIM; the text says what to write into agent.yaml."""


class Apn(NamedTuple):
    """An APN with the account that PPP may ask for; `source` says where it is from."""

    name: str
    username: str = ""
    password: str = ""
    provider: str = ""
    source: str = "agent.yaml"

    def same_as(self, name: str) -> bool:
        """Whether the modem's APN is this one."""
        return _plain(self.name) == _plain(name)


class Outcome(NamedTuple):
    """What was found and done. `found` is None where the modem has no context 1."""

    wanted: Apn
    found: str | None
    written: bool
    told: str


@cache
def _table() -> dict[tuple[str, str], tuple[Apn, ...]]:
    text = Path(__file__).with_name("apn.csv").read_text(encoding="utf-8")
    found: dict[tuple[str, str], tuple[Apn, ...]] = {}
    for row in csv.DictReader(text.splitlines()):
        apn = Apn(row["apn"], row["username"], row["password"], row["provider"], row["source"])
        key = (row["mcc"], row["mnc"])
        found[key] = (*found.get(key, ()), apn)
    return found


def known(mcc: str, mnc: str) -> tuple[Apn, ...]:
    """Return an operator's APNs, the preferred one first; none if the operator is not in the data."""
    return _table().get((mcc, mnc), ())


def of_subscriber(imsi_digits: str) -> tuple[Apn, ...]:
    """Return the APNs of a SIM by the first six digits of its IMSI: the network code has two digits or three."""
    return known(imsi_digits[:3], imsi_digits[3:6]) or known(imsi_digits[:3], imsi_digits[3:5])


def choose(wanted: str, candidates: tuple[Apn, ...], found: str | None) -> Apn:
    """Choose the APN: the one in agent.yaml, else what the modem has if its operator uses that, else the only one.

    Raise ApnUnknown where `auto` cannot tell: the operator is not in the data, or has several and nothing chooses.
    """
    if wanted != "auto":
        if not _NAME.fullmatch(wanted):
            raise ApnUnknown(f"apn {wanted!r} in agent.yaml is no APN: letters, digits, dots and hyphens")
        return next((one for one in candidates if one.same_as(wanted)), Apn(wanted))
    for one in candidates:
        if found is not None and one.same_as(found):
            return one
    preferred = [one for one in candidates if one.source.startswith(_FIRST)]
    if preferred or len({_plain(one.name) for one in candidates}) == 1:
        return (preferred or list(candidates))[0]
    if not candidates:
        raise ApnUnknown("the SIM's operator is not in the APN data; write the link's apn into agent.yaml")
    names = ", ".join(f"{one.name} ({one.provider})" for one in candidates)
    raise ApnUnknown(f"the SIM's operator uses several APNs; write one into the link's apn: {names}")


def context_apn(lines: tuple[str, ...], context: int = _CONTEXT) -> tuple[str, str] | None:
    """Read +CGDCONT?: the PDP type and the APN of one context; None if it is not defined."""
    for line in lines:
        name, colon, body = line.partition(":")
        fields = fields_of(body) if colon and name.strip().upper() == "+CGDCONT" else []
        if len(fields) > 2 and fields[0].strip() == str(context):  # noqa: PLR2004  # cid, type, APN
            return fields[1].strip(), fields[2].strip()
    return None


def ensure(session: ModemSession, wanted: str, *, write: bool) -> Outcome:
    """Compare the modem's APN with the one it should have, and write that if it differs and `write` allows.

    After writing the radio goes off and on, without which some firmwares keep the old bearer. Raise ApnUnknown,
    CommandRefused if the modem does not take it, and what asking raises.
    """
    has = context_apn(session.ask("AT+CGDCONT?").lines)
    found = has[1] if has is not None else None
    apn = choose(wanted, of_subscriber(_subscriber(session)), found)
    if found is not None and apn.same_as(found):
        return Outcome(apn, found, written=False, told=f"APN {found} is right ({apn.source}); nothing is written")
    shown = found or "none"
    if not write:
        told = f"the modem has APN {shown}, {apn.name} is wanted ({apn.source}); bring_up.write_apn is off, so it stays"
        return Outcome(apn, found, written=False, told=told)
    kind = has[0] if has is not None and has[0] in {"IP", "IPV6", "IPV4V6"} else "IP"
    answer = session.ask(f'AT+CGDCONT={_CONTEXT},"{kind}","{apn.name}"', _FLASH_S)
    if not answer.ok:
        raise CommandRefused(f"{session.port_name}: the modem does not take the APN {apn.name}: {answer.final}")
    off = "AT+CFUN=0" if session.identify().vendor == "huawei" else "AT+CFUN=4"
    session.ask(off, _RADIO_S)
    session.ask("AT+CFUN=1", _RADIO_S)
    return Outcome(apn, found, written=True, told=f"APN {shown} replaced by {apn.name} ({apn.source})")


def _subscriber(session: ModemSession) -> str:
    """Return the first six digits of the IMSI, which name the operator and nobody else; empty if it cannot be read."""
    for line in session.ask("AT+CIMI").lines:
        if found := re.fullmatch(r"\s*([0-9]{6})[0-9]{8,9}\s*", line):
            return found[1]
    return ""


def _plain(name: str) -> str:
    return _OPERATOR_IDENTIFIER.sub("", name.strip().lower())
