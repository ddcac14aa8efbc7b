"""The AT command line (ITU-T V.250 section 5): characters to commands, answers to characters. No I/O."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST_LINE: Final = 560  # characters; a longer line answers ERROR
_EXTENDED: Final = re.compile(r"(?P<name>[+^*$!#][A-Z0-9]+)(?P<form>=\?|\?|=)?(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_BASIC: Final = re.compile(r"(?P<name>S\d+|&?[A-Z])(?P<form>\?|=\?|=)?(?P<rest>\d*)", re.IGNORECASE)
# V.250 table 1 and section 5.7.1: result codes of ATV0.
_NUMERIC: Final = {"OK": "0", "CONNECT": "1", "RING": "2", "NO CARRIER": "3", "ERROR": "4"}


class Request(NamedTuple):
    """One command of a line: `form` as in its table entry (`+CREG?`, `+CREG=`, `+CREG=?`, `+CREG`, `E`), and values."""

    name: str
    form: str
    values: list[str]
    text: str

    def number(self, index: int, default: int | None = None) -> int:
        """Return the value at `index` as a number; ValueError when it is missing or none."""
        if index >= len(self.values) or not self.values[index]:
            if default is None:
                raise ValueError(f"{self.name} needs a value at {index}")
            return default
        return int(self.values[index])


class After(Enum):
    """What happens when the answer has left."""

    RESTART = auto()
    POWER_OFF = auto()
    DATA = auto()


class Answer(NamedTuple):
    """Information lines, and how the command ends; `delay_s` is the time the network takes."""

    lines: Sequence[str] = ()
    final: str = "OK"
    delay_s: float = 0.0
    after: After | None = None


class CommandLine:
    """Collects characters until the carriage return. Memory is bounded."""

    def __init__(self) -> None:
        self._buffer = ""
        self._last = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Take bytes; yield each complete line without its AT, and "A/" as the line before."""
        for character in data.decode("latin-1"):
            if character == "\r":
                line, self._buffer = self._buffer.strip(), ""
                begin = line.upper().rfind("AT") if not line.upper().startswith("AT") else 0
                if begin >= 0 and line:
                    self._last = line[begin + 2 :]
                    yield self._last
            elif character in "\b\x7f":
                self._buffer = self._buffer[:-1]
            elif character not in "\n\0":
                self._buffer = (self._buffer + character)[-LONGEST_LINE:]
                if self._buffer.upper() == "A/":
                    self._buffer = ""
                    yield self._last


def parse(line: str) -> list[Request]:
    """Split what stands behind AT into its commands; ValueError if that is no command line."""
    requests = []
    rest = line.strip()
    while rest:
        if rest[0] == ";":
            rest = rest[1:].lstrip()
            continue
        if rest[0] in "dD":
            requests.append(Request("D", "D", [], rest[1:]))
            break
        if match := _EXTENDED.match(rest):
            values, rest = _until_semicolon(match["rest"])
        elif match := _BASIC.match(rest):
            values, rest = match["rest"], rest[match.end() :].lstrip()
        else:
            raise ValueError(f"no command: {rest}")
        name = match["name"].upper()
        form = name + (match["form"] or "") if name[0] in "+^*$!#" else name
        requests.append(Request(name, form, split_values(values), values))
    return requests


def _until_semicolon(text: str) -> tuple[str, str]:
    quoted = False
    for index, character in enumerate(text):
        quoted ^= character == '"'
        if character == ";" and not quoted:
            return text[:index], text[index + 1 :].lstrip()
    return text, ""


def split_values(text: str) -> list[str]:
    """Split at commas outside quotes, and take the quotes off."""
    values = [""]
    quoted = False
    for character in text.strip():
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            values.append("")
        else:
            values[-1] += character
    return [value if '"' in text else value.strip() for value in values] if text.strip() else []


def framed(groups: Sequence[Sequence[str]], final: str, *, words: bool) -> bytes:
    """Frame the information of each command and the result (V.250 section 5.7.1)."""
    if not words:
        text = "".join("\r\n".join(lines) + "\r\n" for lines in groups if lines)
        code = _NUMERIC.get(final) or _NUMERIC.get(final.split(maxsplit=1)[0])
        return (text + (code + "\r" if code else f"{final}\r\n")).encode("latin-1", "replace")
    text = "".join("\r\n" + "\r\n".join(lines) + "\r\n" for lines in groups if lines)
    return f"{text}\r\n{final}\r\n".encode("latin-1", "replace")
