"""USSD: a short code goes to the operator, a text comes back. 3GPP TS 27.007 7.15 (AT+CUSD), TS 23.038 (alphabets).

The text comes in whatever form the modem likes: plain, as the hexadecimal of UCS-2, or of packed 7-bit characters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.modem.errors import CommandRefused, ModemTimeout

if TYPE_CHECKING:
    from agent.modem.session import ModemSession

_NETWORK_S: Final = 30.0
"""How long the operator may take; a session of more steps than one is not held."""
_LINE: Final = re.compile(r'\+CUSD:\s*(?P<state>[0-5])(?:\s*,\s*"(?P<text>.*)"(?:\s*,\s*(?P<dcs>[0-9]+))?)?', re.DOTALL)
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){4,}")
# TS 23.038 6.2.1, the default alphabet; 0x1B opens the extension table, of which texts of operators use nothing.
_GSM: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_STATES_WITHOUT_ANSWER: Final = {
    3: "another client of the modem answered",
    4: "the network does not support it",
    5: "the network did not answer in time",
}


class Reply(NamedTuple):
    """A whole +CUSD line: `state` 0 and 1 carry a text."""

    state: int
    text: str | None


def parse(line: str) -> Reply | None:
    """Read a +CUSD line, its text decoded; None if it is none or its end is still to come."""
    found = _LINE.fullmatch(line.strip())
    if found is None or line.count('"') % 2:
        return None
    dcs = int(found["dcs"]) if found["dcs"] is not None else None
    return Reply(int(found["state"]), decode(found["text"], dcs) if found["text"] is not None else None)


def decode(text: str, dcs: int | None) -> str:
    """Turn a text into what a person reads; `dcs` is the coding scheme of TS 23.038 section 5, None if not told."""
    if not _HEX.fullmatch(text):
        return text
    raw = bytes.fromhex(text)
    if _is_ucs2(raw, dcs):
        return raw.decode("utf-16-be", "replace")
    unpacked = unpack(raw)
    return unpacked if unpacked.isprintable() or "\n" in unpacked else text


def _is_ucs2(raw: bytes, dcs: int | None) -> bool:
    """Whether the scheme says UCS-2 (language group 0x11, general group with alphabet 2); without one, by its look."""
    if len(raw) % 2:
        return False
    if dcs is not None and dcs != 15:  # noqa: PLR2004  # what many modems say whatever came
        return dcs == 0x11 or (dcs & 0xC0 == 0x40 and dcs & 0x0C == 0x08)  # noqa: PLR2004  # TS 23.038 section 5
    high = raw[::2]  # Latin and Vietnamese letters: blocks 00, 01, 03, 1E, 20
    return all(byte in {0x00, 0x01, 0x03, 0x1E, 0x20} for byte in high)


def pack(text: str) -> str:
    """Write a code of digits, * and # as packed 7-bit characters in hexadecimal: what some Huawei firmwares want."""
    bits = sum(_GSM.index(character) << (7 * place) for place, character in enumerate(text))
    return bits.to_bytes((7 * len(text) + 7) // 8, "little").hex().upper()


def unpack(raw: bytes) -> str:
    """Read packed 7-bit characters (TS 23.038 6.1.2.3: a CR at the end fills the last byte)."""
    bits = int.from_bytes(raw, "little")
    text = "".join(_GSM[(bits >> (7 * place)) & 0x7F] for place in range(len(raw) * 8 // 7))
    return text.rstrip("\r@") if len(raw) % 7 == 0 else text


def ask(modem: ModemSession, code: str) -> str:
    """Send a code and return the operator's text; raise ModemError and its kinds."""
    answer = modem.ask(f'AT+CUSD=1,"{code}",15', _NETWORK_S)
    if answer.error is not None:
        answer = modem.ask(f'AT+CUSD=1,"{pack(code)}",15', _NETWORK_S)
    if not answer.ok:
        raise CommandRefused(f"{modem.port_name}: AT+CUSD: {answer.final or 'no answer'}; does this stick take USSD?")
    reply = parse("\n".join(answer.lines)) if answer.lines else None
    if reply is None:
        line = modem.hear("+CUSD", _NETWORK_S, lambda heard: parse(heard) is not None)
        reply = parse(line) if line is not None else None
    if reply is None:
        raise ModemTimeout(f"{modem.port_name}: the operator did not answer {code} in {_NETWORK_S:.0f} s")
    if reply.state == 1:
        modem.ask("AT+CUSD=2")  # the operator waits for a choice; nobody makes one
    if reply.text is None:
        why = _STATES_WITHOUT_ANSWER.get(reply.state, "the operator ended it without a text")
        raise CommandRefused(f"{modem.port_name}: {code}: {why}")
    return reply.text
