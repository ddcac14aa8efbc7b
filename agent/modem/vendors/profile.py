"""What every vendor family declares: parsers by command name, and which commands to ask in which order. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from agent.modem.at import prefix_of
from agent.modem.reading import Fields
from agent.modem.signal import fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One reply as a parser sees it: information lines only, echo, notices and final result taken off."""

    command: str
    model: str | None
    lines: tuple[str, ...]

    def bodies(self, *prefixes: str) -> Iterator[str]:
        """Yield what stands behind `PREFIX:` on each line that opens with one of the prefixes."""
        for line in self.lines:
            if prefix_of(line) in prefixes:
                yield line.partition(":")[2].strip()

    def rows(self, *prefixes: str) -> Iterator[list[str]]:
        """Yield the comma-separated fields of each such line, without quotes."""
        for body in self.bodies(*prefixes):
            yield fields_of(body)

    def text(self, *prefixes: str) -> str | None:
        """Return the first line of an answer that may come with or without its prefix; quotes are taken off."""
        for line in self.lines:
            name = prefix_of(line)
            if name is None or name in prefixes:
                value = (line if name is None else line.partition(":")[2]).strip()
                return re.sub(r'^"|"$', "", value).strip() or None
        return None


Parser = Callable[[Reply], Fields]


def first(found: Iterator[Fields]) -> Fields:
    """Return what the first line says, or nothing."""
    return next(found, Fields())


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """One reading command. `first`: volatile settings it needs. `unless`: needless when all these fields are known.

    `registered` among `unless` stands for: a registration at home or roaming is known.
    """

    command: str
    first: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How a family is asked for its radio: polls in order of preference; `prefer` names better sources for some fields.

    Without an entry in `prefer`, the first poll in order that knows a field gives it.
    """

    polls: tuple[Poll, ...]
    prefer: Mapping[str, tuple[str, ...]] = {}


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's dialect. `makers`: matched against the answers to +CGMI, +CGMM and ATI, in any case."""

    key: str
    makers: re.Pattern[str]
    parsers: Mapping[str, Parser]
    profile: Profile
    setup: tuple[str, ...] = ()
    iccid: tuple[str, ...] = ("AT+CCID", "AT+ICCID")
