"""The vendor families, and the one entry that reads any reply: `read_reply`. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.modem.at import masked, names_of, prefix_of, sort_lines
from agent.modem.reading import Fields, ModemReading, without_identity
from agent.modem.vendors.cinterion import CINTERION
from agent.modem.vendors.generic import GENERIC, sim_of_error
from agent.modem.vendors.huawei import HUAWEI
from agent.modem.vendors.minor import PARSERS as MINOR
from agent.modem.vendors.profile import Family, Parser, Reply
from agent.modem.vendors.quectel import QUECTEL
from agent.modem.vendors.sierra import SIERRA
from agent.modem.vendors.simcom import SIMCOM
from agent.modem.vendors.telit import TELIT
from agent.modem.vendors.ublox import UBLOX
from agent.modem.vendors.xmm import XMM
from agent.modem.vendors.zte import ZTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.modem.at import Answer

FAMILIES: Final[dict[str, Family]] = {
    family.key: family for family in (GENERIC, QUECTEL, SIMCOM, HUAWEI, TELIT, SIERRA, ZTE, UBLOX, CINTERION, XMM)
}
"""Every family by its key; a vendor without one speaks `generic`."""

_SIM_COMMANDS: Final = frozenset({"+CPIN", "^CPIN", "#QSS", "+QSIMSTAT", "^SCKS", "+SIMCARD"})


def family_of(*hints: str | None) -> Family:
    """Find the family by a vendor key or by what the modem calls itself (maker, model, ATI); generic if none fits."""
    for hint in hints:
        if hint and hint.lower() in FAMILIES:
            return FAMILIES[hint.lower()]
    for family in FAMILIES.values():
        if any(hint and family.makers.search(hint) for hint in hints):
            return family
    return GENERIC


def read_reply(vendor: str, model: str | None, command: str, lines: Sequence[str]) -> ModemReading:
    """Read one recorded reply: echo, notices and final result may be among the lines, in any vendor's dialect.

    `vendor` is a family key, or any maker's name (which then speaks 3GPP). `command` is what was sent, or `URC` for
    lines that came by themselves. Never raises for what a modem says: what cannot be read is None.
    """
    return read_answer(vendor, model, sort_lines(command, lines))


def read_answer(vendor: str, model: str | None, answer: Answer) -> ModemReading:
    """Read the sorted answer of a live dialogue; see read_reply."""
    family = family_of(vendor)
    name = command_name(answer.command)
    found = _parse(family, model, answer, name)
    if answer.error is not None and (state := sim_of_error(answer.error, asked_for_sim=name in _SIM_COMMANDS)):
        found = {**found, "sim_state": state}
    notes = found.get("notes", [])
    values = {field: value for field, value in found.items() if field != "notes"}
    return ModemReading(
        vendor=vendor,
        command=masked(answer.command),
        error=answer.error,
        final=answer.final,
        notes=tuple(without_identity(note) for note in notes),
        raw=tuple(without_identity(line) for line in answer.lines),
        spoken=frozenset(values),
        **values,  # type: ignore[arg-type]  # Fields has ModemReading's names and types
    )


def command_name(command: str) -> str:
    """Return what a command is called: `+CSQ` of `AT+CSQ`, `I` of `ATI`, `URC` of URC."""
    names = names_of(command)
    if names:
        return names[0]
    return re.sub(r"^\s*AT", "", command.strip().upper())[:3].rstrip("0123456789;")


def _parse(family: Family, model: str | None, answer: Answer, name: str) -> Fields:
    if name == "URC":
        return _parse_notices(family, model, answer)
    found: Fields = {}
    for part in dict.fromkeys((name, *names_of(answer.command))):
        parser = parser_of(family, part)
        if parser is not None:
            found = {**found, **parser(Reply(command=answer.command, model=model, lines=answer.lines))}
    return found


def _parse_notices(family: Family, model: str | None, answer: Answer) -> Fields:
    """Read lines that came by themselves, each by its own prefix; the last word on a field counts."""
    found: Fields = {}
    for line in answer.lines:
        parser = parser_of(family, prefix_of(line) or "")
        if parser is not None:
            found |= parser(Reply(command="URC", model=model, lines=(line,)))
    return found


def parser_of(family: Family, name: str) -> Parser | None:
    """Find a command's parser: the family's own, then 3GPP's, then another family's (vendors borrow commands)."""
    for candidate in (family, GENERIC, *FAMILIES.values()):
        if name in candidate.parsers:
            return candidate.parsers[name]
    return MINOR.get(name)
