"""What can go wrong with a modem, as values; which of it is wrong just now."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import random


class FaultKind(StrEnum):
    """A bad day. The first group spoils the line, the second the radio and the SIM."""

    SILENCE = "silence"  # the command is swallowed: no echo, no answer
    GARBAGE = "garbage"  # noise instead of the answer
    HALF_LINE = "half-line"  # the answer stops in the middle and never goes on
    URC_STORM = "urc-storm"  # unsolicited lines before, inside and after every answer, and in between
    SLOW = "slow"  # the answer comes after `delay_s`
    WRONG_ECHO = "wrong-echo"  # a garbled echo, even after ATE0
    CME_ERROR = "cme-error"  # `+CME ERROR: <code>` instead of the answer
    VANISH = "vanish"  # the port goes away in the middle of the answer, and is back after `delay_s`
    STUCK = "stuck"  # the baseband hangs: it answers, but there is no radio, and only a power cycle cures it
    DENIED = "denied"  # the network refuses to register us
    SIM_PULLED = "sim-pulled"
    SIM_PIN = "sim-pin"  # the SIM asks for its PIN
    NO_SERVICE = "no-service"  # no cell can be heard


RADIO_FAULTS: Final = frozenset(
    {FaultKind.STUCK, FaultKind.DENIED, FaultKind.SIM_PULLED, FaultKind.SIM_PIN, FaultKind.NO_SERVICE}
)


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault. Line faults may name the one `command` they hit (`+CSQ`, as after AT) and how many `times`."""

    kind: FaultKind
    command: str | None = None
    times: int | None = None
    delay_s: float = 2.0
    code: int = 100

    def hits(self, commands: list[str]) -> bool:
        """Tell whether a line with these command names is spoilt."""
        return self.command is None or any(
            name.startswith(self.command.upper().removeprefix("AT")) for name in commands
        )


class FaultBoard:
    """The faults in force, one of each kind at most."""

    def __init__(self) -> None:
        self._faults: dict[FaultKind, Fault] = {}
        self._left: dict[FaultKind, int] = {}

    def __contains__(self, kind: FaultKind) -> bool:
        return kind in self._faults

    def __getitem__(self, kind: FaultKind) -> Fault:
        return self._faults[kind]

    def add(self, fault: Fault) -> None:
        """Put `fault` in force, in place of another of its kind."""
        self._faults[fault.kind] = fault
        self._left.pop(fault.kind, None)
        if fault.times is not None:
            self._left[fault.kind] = fault.times

    def clear(self, kind: FaultKind | None = None) -> None:
        """End the fault of this kind, or all."""
        for gone in [kind] if kind else list(self._faults):
            self._faults.pop(gone, None)
            self._left.pop(gone, None)

    def take(self, kind: FaultKind, commands: list[str]) -> Fault | None:
        """Return the fault of `kind` if it hits these commands, and count the hit."""
        fault = self._faults.get(kind)
        if fault is None or not fault.hits(commands):
            return None
        if kind in self._left:
            self._left[kind] -= 1
            if self._left[kind] <= 0:
                self.clear(kind)
        return fault


def noise(chance: random.Random) -> bytes:
    """Line noise, 8 to 64 bytes, with NULs and bytes that are no ASCII among them."""
    return chance.randbytes(chance.randint(8, 64))


def garbled(echo: bytes, chance: random.Random) -> bytes:
    """Return the echo with wrong case and, now and then, a lost or a wrong character."""
    kept = bytearray()
    for byte in echo.swapcase():
        luck = chance.random()
        if luck > 0.1:  # noqa: PLR2004  # one in ten is lost
            kept.append(byte if luck > 0.2 or byte == 0x0D else byte ^ 0x01)  # noqa: PLR2004  # one in ten is wrong
    return bytes(kept)


def storm_inside(reply: bytes, lines: list[str], chance: random.Random) -> bytes:
    """Put unsolicited lines before, behind and, where a line ends, inside the reply."""
    parts = reply.split(b"\r\n\r\n")
    stormy = b""
    for index, part in enumerate(parts):
        end = b"\r\n" if index < len(parts) - 1 else b""
        start = b"\r\n" if index > 0 else b""
        stormy += unsolicited(chance.choice(lines)) + start + part + end
    return stormy + unsolicited(chance.choice(lines))


def unsolicited(line: str) -> bytes:
    """Frame one unsolicited line (ITU-T V.250 section 5.7.1)."""
    return b"\r\n" + line.encode("latin-1") + b"\r\n"
