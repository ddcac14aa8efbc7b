"""Short codes and messages through ModemManager, where it owns the modem: `mmcli`'s options and what 1.20 prints."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

from agent.modem.errors import CommandRefused, ModemTimeout
from agent.modem.manager import mmcli

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.modem.manager import Ask, MmModem

_NETWORK_S: Final = 45.0
_ANSWER_S: Final = 45.0
_LOOK_EVERY_S: Final = 3.0
_REPLY: Final = re.compile(r"new reply from network: '(?P<text>.*)'\s*$", re.DOTALL)
_MADE: Final = re.compile(r"created new SMS: (?P<path>\S+)")


def ussd(modem: MmModem, code: str, ask: Ask | None = None) -> str:
    """Send a code and return the operator's text; raise ModemError and its kinds. A menu is left."""
    ask = ask or _mmcli
    said = _said(ask(["-m", modem.path, f"--3gpp-ussd-initiate={code}"]))
    with contextlib.suppress(CommandRefused):  # there is nothing to leave: the operator has ended it
        ask(["-m", modem.path, "--3gpp-ussd-cancel"])
    found = _REPLY.search(said)
    if found is None:
        raise CommandRefused(f"{modem.usb_path}: {code}: mmcli printed no reply: {said[:200] or 'nothing'}")
    return found["text"]


def sms(modem: MmModem, number: str, text: str, ask: Ask | None = None) -> str:
    """Send a message and return the answer, its parts joined; raise ModemError and its kinds.

    Answers of that number are deleted, old ones too: nobody reads them there, and a full SIM takes no more.
    """
    ask = ask or _mmcli
    _take(modem, number, ask)
    said = _said(ask(["-m", modem.path, f'--messaging-create-sms=number="{number}",text="{text}"']))
    made = _MADE.search(said)
    if made is None:
        raise CommandRefused(f"{modem.usb_path}: mmcli made no message: {said[:200] or 'nothing'}")
    ask(["-s", made["path"], "--send"])
    ask(["-m", modem.path, f"--messaging-delete-sms={made['path']}"])
    ends_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < ends_s:
        answer = _take(modem, number, ask)
        if answer:
            return " ".join(answer)
        time.sleep(_LOOK_EVERY_S)
    raise ModemTimeout(f"{modem.usb_path}: {number} did not answer '{text}' in {_ANSWER_S:.0f} s")


def _mmcli(arguments: Sequence[str]) -> dict[str, Any]:
    return mmcli([f"--timeout={_NETWORK_S:.0f}", *arguments], timeout_s=_NETWORK_S + 5)


def _said(answer: dict[str, Any]) -> str:
    """Return what mmcli printed where it prints no JSON."""
    return str(answer.get("text", ""))


def _take(modem: MmModem, number: str, ask: Ask) -> list[str]:
    """Read the number's messages, oldest first, and delete them."""
    texts = []
    for path, content in sorted(_messages(modem, ask), key=lambda one: int(one[0].rpartition("/")[2])):
        if str(content.get("number", "")).lstrip("+") == number.lstrip("+"):
            texts.append(str(content.get("text", "")))
            ask(["-m", modem.path, f"--messaging-delete-sms={path}"])
    return texts


def _messages(modem: MmModem, ask: Ask) -> Iterator[tuple[str, dict[str, Any]]]:
    """List the received messages that are whole, with their content."""
    for path in ask(["-m", modem.path, "--messaging-list-sms"]).get("modem.messaging.sms", []):
        found = ask(["-s", path]).get("sms", {})
        if found.get("properties", {}).get("state") == "received":
            yield str(path), dict(found.get("content", {}))
