"""A text message to the operator, and its answer. 3GPP TS 27.005 in text mode (AT+CMGS, AT+CMGL, AT+CMGD)."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.modem.errors import CommandRefused, ModemTimeout
from agent.modem.ussd import decode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from agent.modem.session import ModemSession

_SEND_S: Final = 20.0
_ANSWER_S: Final = 45.0
_LOOK_EVERY_S: Final = 3.0
# +CMGL: <index>,<stat>,<oa>,... then the text on lines of its own (TS 27.005 4.1).
_HEAD: Final = re.compile(r'\+CMGL:\s*(?P<index>[0-9]+)\s*,\s*"[^"]*"\s*,\s*"(?P<sender>[^"]*)"')


class Message(NamedTuple):
    """A message as the modem keeps it."""

    place: int
    sender: str
    text: str


def parse(lines: Iterable[str]) -> list[Message]:
    """Read the answer to AT+CMGL; sender and text may be in the hexadecimal of UCS-2."""
    found: list[tuple[int, str, list[str]]] = []
    for line in lines:
        head = _HEAD.match(line)
        if head is not None:
            found.append((int(head["index"]), decode(head["sender"], None), []))
        elif found:
            found[-1][2].append(line)
    return [Message(index, sender, "\n".join(decode(part, None) for part in text)) for index, sender, text in found]


def ask(modem: ModemSession, number: str, text: str) -> str:
    """Send a message and return the answer, its parts joined; raise ModemError and its kinds.

    Answers of that number are taken off the SIM, old ones too: nobody reads them there, and a full SIM takes no more.
    """
    for command in ("AT+CMGF=1", "AT+CNMI=2,1,0,0,0"):
        modem.ask(command)
    _take(modem, number, "ALL")
    sent = modem.ask(f'AT+CMGS="{number}"', _SEND_S, text=text)
    if not sent.ok:
        raise CommandRefused(f"{modem.port_name}: AT+CMGS: {sent.final or 'no answer'}; may this SIM send messages?")
    ends_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < ends_s:
        answer = _take(modem, number, "REC UNREAD")
        if answer:
            return " ".join(answer)
        time.sleep(_LOOK_EVERY_S)
    raise ModemTimeout(f"{modem.port_name}: {number} did not answer '{text}' in {_ANSWER_S:.0f} s")


def _take(modem: ModemSession, number: str, which: Literal["ALL", "REC UNREAD"]) -> list[str]:
    """Read the number's messages and delete them."""
    listed = modem.ask(f'AT+CMGL="{which}"', _SEND_S)
    messages = [message for message in parse(listed.lines) if message.sender.lstrip("+") == number.lstrip("+")]
    for message in messages:
        modem.ask(f"AT+CMGD={message.place}")
    return [message.text for message in messages]
