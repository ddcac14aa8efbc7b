"""A SIM's PIN: typed once at most, and never again if it was wrong. PUKs and network locks are never answered.

In this order: what the SIM waits for; the PIN file; whether this PIN has failed before; how many tries are left, by
the vendor's own counter. Where a counter cannot be read, or fewer than three tries are left, nothing is typed. That a
PIN is about to be typed is on disk before it is: a probe that dies in between does not try it twice. The PIN is in no
log, and in no transcript (see agent.modem.at.masked).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from agent.modem.durable_file import read_json, write_json
from agent.modem.errors import SimAbsent, SimLocked
from agent.modem.identity import iccid_of
from agent.modem.signal import fields_of
from agent.modem.vendors import family_of

if TYPE_CHECKING:
    from pathlib import Path

    from agent.modem.session import ModemSession

TRIES_NEEDED: Final = 3
_TYPE_S: Final = 20.0
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}
_PIN: Final = re.compile(r"[0-9]{4,8}")  # 3GPP TS 31.101 section 9.5.1: four to eight digits


class Counter(msgspec.Struct, frozen=True):
    """How a family tells the tries left: the command, the prefix of the line, and where the PIN's number stands."""

    command: str
    prefix: str
    position: int
    fields: int


# Orders differ from vendor to vendor (MODEMS notes, section 8; ModemManager's and Sierra's own readers).
COUNTERS: Final[dict[str, tuple[Counter, ...]]] = {
    "quectel": (Counter('AT+QPINC="SC"', "+QPINC", 1, 3),),  # "SC",<PIN>,<PUK>
    "huawei": (Counter("AT^CPIN?", "^CPIN", 3, 6),),  # <code>,<times>,<PUK>,<PIN>,<PUK2>,<PIN2>
    "ublox": (Counter("AT+UPINCNT", "+UPINCNT", 0, 4),),  # <PIN>,<PIN2>,<PUK>,<PUK2>
    "simcom": (Counter("AT+SPIC", "+SPIC", 0, 4),),  # <PIN>,<PUK>,<PIN2>,<PUK2>
    "sierra": (Counter("AT+CPINC?", "+CPINC", 0, 4),),  # <PIN>,<PIN2>,<PUK>,<PUK2>
    "zte": (Counter("AT+ZPINPUK=?", "+ZPINPUK", 0, 2),),  # <PIN>,<PUK>
    "cinterion": (Counter("AT^SPIC", "^SPIC", 0, 1),),  # of the code that is asked for, here the PIN
    "telit": (Counter("AT#PCT", "#PCT", 0, 1),),  # of the code that is asked for
    "fibocom": (Counter("AT+XPINCNT", "+XPINCNT", 0, 4),),  # <PIN>,<PIN2>,<PUK>,<PUK2>
}


class _Failure(msgspec.Struct, frozen=True):
    """A PIN that was typed and not accepted, and the SIM it was typed into; `sim` is None where it had no number."""

    pin: str
    sim: str | None = None


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    salt: str
    failures: tuple[_Failure, ...] = ()


class FailedPins:
    """The PINs that must not be typed again, as salted hashes in a file. Any method may raise StorageError.

    A PIN has so few digits that no hash hides it from who has the file and time; the file is the owner's alone (0600).
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, pin: str, iccid: str | None) -> bool:
        """Whether this PIN has failed on this SIM; on an unknown SIM, every failure counts."""
        kept = self._read()
        sim = self._hash(kept, iccid) if iccid else None
        pins = [failure for failure in kept.failures if hmac.compare_digest(failure.pin, self._hash(kept, pin))]
        return any(sim is None or failure.sim in {None, sim} for failure in pins)

    def add(self, pin: str, iccid: str | None) -> None:
        """Note, durably, that this PIN is about to be typed: until `remove` it counts as one that failed."""
        kept = self._read()
        failure = _Failure(self._hash(kept, pin), self._hash(kept, iccid) if iccid else None)
        write_json(self._path, msgspec.structs.replace(kept, failures=(*kept.failures, failure)))

    def remove(self, pin: str) -> None:
        """Forget it: the SIM has accepted it."""
        kept = self._read()
        hashed = self._hash(kept, pin)
        write_json(
            self._path,
            msgspec.structs.replace(kept, failures=tuple(one for one in kept.failures if one.pin != hashed)),
        )

    def _read(self) -> _Kept:
        return read_json(self._path, _Kept) or _Kept(salt=secrets.token_hex(16))

    @staticmethod
    def _hash(kept: _Kept, text: str) -> str:
        return hashlib.scrypt(text.encode(), salt=bytes.fromhex(kept.salt), dklen=32, **_SCRYPT).hex()


def read_pin(path: Path) -> str:
    """Read a PIN file; raise SimLocked with what is wrong with it, never with what is in it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(100).decode("ascii", "replace").strip()
    except OSError as error:
        raise SimLocked(
            f"{path}: {error.strerror}; the link's pin_file must be readable for the agent's user"
        ) from error
    if mode & (stat.S_IRWXO | stat.S_IRWXG):
        raise SimLocked(f"{path}: others may read the PIN; run: chmod 600 {path}")
    if not _PIN.fullmatch(text):
        raise SimLocked(f"{path}: expected one line with a PIN of 4 to 8 digits")
    return text


def tries_left(vendor: str, session: ModemSession) -> int | None:
    """Ask the modem how often the PIN may still be wrong; None where it does not say."""
    for counter in COUNTERS.get(family_of(vendor).key, ()):
        for line in session.ask(counter.command).lines:
            name, colon, body = line.partition(":")
            fields = [field.strip() for field in fields_of(body)]
            fits = colon and name.strip().upper() == counter.prefix and len(fields) >= counter.fields
            if fits and (text := fields[counter.position]).isdecimal():
                return int(text)
    return None


def unlock(session: ModemSession, pin_file: Path | None, failed: FailedPins) -> str:
    """Make the SIM ready if that is allowed; return what was found or done.

    Raise SimAbsent; SimLocked with the reason why nothing was typed, or that it was wrong; StorageError.
    """
    port, state = session.port_name, session.sim_state()
    if state == "absent":
        raise SimAbsent(f"{port}: the modem finds no SIM; put one in, contacts clean, the right way round")
    if state in {"puk", "puk2"} or state.startswith("ph_"):
        what = "its PUK; ask the operator" if state.startswith("puk") else f"a network lock ({state})"
        raise SimLocked(f"{port}: the SIM waits for {what}; the agent never types one")
    if state != "pin":
        return f"the SIM is {state}; no PIN is asked for"
    if pin_file is None:
        raise SimLocked(f"{port}: the SIM waits for its PIN; switch it off in a phone, or give the link a pin_file")
    pin = read_pin(pin_file)
    identity = session.identify()
    iccid = identity.iccid or iccid_of(session.ask("AT+CCID").lines)
    if failed.holds(pin, iccid):
        raise SimLocked(f"{port}: the PIN in {pin_file} was refused before and is not typed again; correct the file")
    left = tries_left(identity.vendor, session)
    if left is None:
        raise SimLocked(f"{port}: this modem does not tell how many tries are left, so no PIN is typed; see pin_file")
    if left < TRIES_NEEDED:
        raise SimLocked(f"{port}: only {left} tries are left, and {TRIES_NEEDED} are needed; unlock the SIM in a phone")
    failed.add(pin, iccid)
    answer = session.ask(f'AT+CPIN="{pin}"', _TYPE_S)
    if answer.ok or session.sim_state() == "ready":
        failed.remove(pin)
        return "the PIN was typed once and accepted"
    said = answer.final or "no answer"
    raise SimLocked(f"{port}: the PIN in {pin_file} was not accepted ({said}); it is not typed again, correct the file")
