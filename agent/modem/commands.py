"""`probe-agent modem ...`: read a recorded reply, list modems; and, through link_commands, what is done to a link."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.modem.reading import ModemReading
from agent.modem.vendors import FAMILIES, read_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.modem.discovery import FoundModem
    from agent.modem.owner import Owner

# The names under which `parse` prints what ModemReading calls otherwise.
_PRINTED_AS: Final = {"technology": "access_technology"}
_MAX_REPLY_BYTES: Final = 1024 * 1024

_EXAMPLES: Final = """\
examples:
  probe-agent modem parse --vendor quectel --command 'AT+QCSQ' < reply.txt
  printf '+CSQ: 20,99\\r\\n\\r\\nOK\\r\\n' | probe-agent modem parse --vendor generic --command AT+CSQ
  probe-agent modem list
  probe-agent modem list --json
  probe-agent modem up --link viettel --dry-run     what is found, and what would be done to bring the link up
  probe-agent modem up --link viettel               do it; a PPP call is held until Ctrl-C
  probe-agent modem recover --dry-run               what the recovery ladder would do now, and why
  probe-agent modem ignore-rule --usb-path 1-1.2    the udev rule that keeps ModemManager off that modem
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `modem` with its commands; each sets `handler`: parsed arguments in, exit code out."""
    modem = subparsers.add_parser(
        "modem",
        help="list modems, bring links up, recover them, read a recorded reply",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = modem.add_subparsers(dest="modem_command", required=True, metavar="COMMAND")

    parse = commands.add_parser(
        "parse",
        help="read one reply from standard input, print what it says as JSON",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument(
        "--vendor", required=True, help=f"the maker: {', '.join(sorted(FAMILIES))}; others speak generic"
    )
    parse.add_argument("--model", help="the model, where dialects differ (SIM7070, LM960)")
    parse.add_argument(
        "--command", required=True, help="the command that was sent, or URC for lines that came by themselves"
    )
    parse.set_defaults(handler=run_parse)

    listing = commands.add_parser(
        "list",
        help="list the USB modems, their ports and roles, and why",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("--sys-root", type=Path, default=Path("/sys"), help="where sysfs is mounted (default: /sys)")
    listing.add_argument("--dev-root", type=Path, default=Path("/dev"), help="where device nodes are (default: /dev)")
    listing.set_defaults(handler=run_list)

    _add_link_parsers(commands)


def _add_link_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add what is done to links; their handlers are imported when they are called, since they import everything."""

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(handler=functools.partial(_in_link_commands, f"run_{name.replace('-', '_')}"))
        return command

    up = add("up", "bring a link up: SIM, APN, network, data, and the proof of it")
    recover = add("recover", "look at links, and do the rung of the recovery ladder that is due")
    for command in (up, recover):
        command.add_argument("--config", type=Path, default=Path("/etc/probefleet/agent.yaml"), metavar="FILE")
        command.add_argument("--link", metavar="LINK", help="only this link (default: all)")
        command.add_argument("--dry-run", action="store_true", help="explain, and change nothing")
    up.add_argument("--json", action="store_true", help="print the steps as JSON, one a line")

    rule = add("ignore-rule", "print the udev rule that keeps ModemManager off a modem")
    rule.add_argument("--usb-path", metavar="PATH", help="which modem, where several are plugged in (1-1.2)")
    rule.add_argument("--only-interface", type=int, metavar="N", help="only this interface of it, its second AT port")
    rule.add_argument("--sys-root", type=Path, default=Path("/sys"), help="where sysfs is mounted (default: /sys)")

    dial = add("dial", "dial the data call on standard input: what pppd runs as its connect script")
    dial.add_argument("--cid", type=int, default=1, help="the PDP context (default: 1)")


def _in_link_commands(function: str, arguments: argparse.Namespace) -> int:
    from agent.modem import link_commands  # noqa: PLC0415 - keeps the whole agent out of `modem parse`

    run: Callable[[argparse.Namespace], int] = getattr(link_commands, function)
    return run(arguments)


def run_parse(arguments: argparse.Namespace) -> int:
    """Read a reply from standard input and print its reading as JSON. 0: read; 2: the input is no reply."""
    data = sys.stdin.buffer.read(_MAX_REPLY_BYTES + 1)
    if len(data) > _MAX_REPLY_BYTES:
        print(f"standard input: more than {_MAX_REPLY_BYTES} bytes; give one reply of a modem", file=sys.stderr)  # noqa: T201
        return 2
    lines = data.decode("utf-8", "replace").splitlines()
    reading = read_reply(arguments.vendor, arguments.model, arguments.command, lines)
    print(json.dumps(printed(reading), ensure_ascii=False, indent=2))  # noqa: T201 - a command prints its result
    return 0


def printed(reading: ModemReading) -> dict[str, object]:
    """Choose what to print: the fields that the reply speaks about (null: not known), error, notes, raw lines."""
    spoken = {
        _PRINTED_AS.get(field, field): getattr(reading, field)
        for field in ModemReading.__struct_fields__
        if field in reading.spoken
    }
    notes = {"notes": list(reading.notes)} if reading.notes else {}
    return {**spoken, "error": reading.error, **notes, "raw": list(reading.raw)}


def run_list(arguments: argparse.Namespace) -> int:
    """Print the modems that are plugged in. 0: at least one; 1: none."""
    from agent.modem import discovery  # noqa: PLC0415 - keeps pyserial out of `modem parse`
    from agent.modem.owner import owner_lines, owner_of  # noqa: PLC0415 - the same

    modems = discovery.find_ports(arguments.sys_root, arguments.dev_root)
    owners = {modem.usb_path: owner_of(modem) for modem in modems}
    if arguments.json:
        print(json.dumps([_listed(modem, owners[modem.usb_path]) for modem in modems], ensure_ascii=False, indent=2))  # noqa: T201
    elif modems:
        print(discovery.table(modems))  # noqa: T201
        for modem in modems:
            for line in owner_lines(modem, owners[modem.usb_path]):
                print(line)  # noqa: T201
    if not modems:
        told = "no USB modem found; is it plugged in, and does `lsusb` show it?"
        print(told, file=sys.stderr)  # noqa: T201
    return 0 if modems else 1


def _listed(modem: FoundModem, owner: Owner) -> dict[str, object]:
    """Add to a modem who holds each port, and whether ModemManager owns it."""
    facts: dict[str, object] = msgspec.to_builtins(modem)
    held = {port.device: owner.of_port(port.device) for port in modem.ports}
    return {**facts, "held_by": held, "modem_manager": owner.manager is not None}
