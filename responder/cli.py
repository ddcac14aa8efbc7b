"""`probe-responder`: the commands, and the only place that builds the responder's objects."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from base import logs
from base.broker import CredentialsError, read_credentials
from base.configfile import ConfigError
from base.table import render
from responder import settings as configuration
from responder import standing
from responder.desk import Desk, DeskError
from responder.lender import Lender
from responder.servers import ServerError, iperf3, missing_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from responder.settings import Settings

log = logging.getLogger(__name__)

FINE: Final = 0
DID_NOT_WORK: Final = 1
WRONG_USAGE: Final = 2

_EXAMPLES: Final = """\
examples:
  probe-responder check-config --config responder.yaml    is the file right?
  probe-responder run --config responder.yaml             lend iperf3 servers until Ctrl-C or SIGTERM
  probe-responder run --verbose                           with the file in /etc/probefleet
  probe-responder status                                  who tests, who waits, what was refused or freed
  probe-responder status --json                           the same for machines
"""


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command; return the exit status: 0 fine, 1 did not work, 2 wrong usage or configuration."""
    args = _parser().parse_args(arguments)
    if args.command == "version":
        print(f"probe-responder {version('probefleet')}")
        return FINE
    try:
        settings = configuration.load(args.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_USAGE
    if args.command == "check-config":
        return _check(args.config, settings, as_json=args.json)
    if args.command == "status":
        return _status(settings, as_json=args.json)
    logs.set_up(verbose=args.verbose)
    try:
        with standing.sole_use(settings.status_file):
            return _serve(settings)
    except standing.StandingError as error:
        log.error("%s", error)  # noqa: TRY400  # an operator's matter, not a defect
        return DID_NOT_WORK


def _serve(settings: Settings) -> int:
    missing = missing_tools(_tools(settings))
    for complaint in missing:
        log.error("%s", complaint)
    if missing:
        return DID_NOT_WORK
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        lender = Lender(settings)
    except ServerError as error:
        log.error("%s", error)  # noqa: TRY400  # an operator's matter, not a defect
        return DID_NOT_WORK
    try:
        desk = Desk(settings, lender)
        lender.open()
        ports = settings.ports
        log.info("%s lends %s:%d-%d", settings.responder_id, settings.advertise_host, ports.first, ports.last)
        desk.run(stop)
    except (CredentialsError, DeskError) as error:
        log.error("%s", error)  # noqa: TRY400  # an operator's matter, or said before
        return DID_NOT_WORK
    finally:
        lender.close()
    log.info("ended")
    return FINE


def _check(path: Path, settings: Settings, *, as_json: bool) -> int:
    """Say what the file means on this machine, or what is missing for it to work."""
    complaints = missing_tools(_tools(settings))
    if settings.authenticate and not complaints and (complaint := iperf3().complaint) is not None:
        complaints.append(complaint)
    if settings.broker.credentials_file is not None:
        try:
            read_credentials(settings.broker.credentials_file)
        except CredentialsError as error:
            complaints.append(str(error))
    ports = settings.ports
    if as_json:
        found = {
            "config": str(path),
            "responder_id": settings.responder_id,
            "advertise_host": settings.advertise_host,
            "ports": len(ports.all),
            "complaints": complaints,
        }
        print(json.dumps(found))
    else:
        print(f"{path}: {settings.responder_id} lends {settings.advertise_host}:{ports.first}-{ports.last}")
        for complaint in complaints:
            print(complaint, file=sys.stderr)
    return DID_NOT_WORK if complaints else FINE


def _status(settings: Settings, *, as_json: bool) -> int:
    """Print what the running responder last wrote down."""
    try:
        now = standing.read(settings.status_file, now=datetime.now(UTC))
    except standing.StandingError as error:
        print(error, file=sys.stderr)
        return DID_NOT_WORK
    if as_json:
        print(msgspec.json.encode(now).decode())
        return FINE
    status = now.status
    name = f"{status.responder}, group {status.group}" if status.group is not None else status.responder
    print(
        f"{name}: {status.testing} testing, {status.waiting} waiting, {status.turned_away} turned away and"
        f" not served since; {status.lent_mbps:g} of {status.link_mbps:g} Mbit/s promised"
    )
    holders = [(holder, "tests") for holder in now.testing] + [(holder, "waits") for holder in now.waiting]
    if holders:
        head = ("probe", "link", "", "ports", "starts in s", "ends in s", "Mbit/s", "cell", "from")
        rows = [
            (
                *(holder.probe, holder.link, what, " ".join(map(str, holder.ports))),
                *(holder.starts_in_s, holder.ends_in_s, holder.mbps, holder.cell, " ".join(holder.clients) or None),
            )
            for holder, what in holders
        ]
        print("\n" + render(head, rows))
    print(
        "\n" + render(("since the start", "count"), [(name.replace("_", " "), n) for name, n in status.counts.items()])
    )
    return FINE


def _tools(settings: Settings) -> list[str]:
    guard = ["openssl"] if settings.authenticate else []
    return ["setpriv", "stdbuf", "iperf3", "ss", *guard, *(["irtt"] if settings.irtt is not None else [])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probe-responder",
        description="Lends single-use iperf3 servers to probes that ask for them over MQTT.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    serve = commands.add_parser("run", help="lend servers until told to stop")
    serve.add_argument("--verbose", action="store_true", help="log more")
    check = commands.add_parser("check-config", help="read the configuration and say whether it will work here")
    check.add_argument("--json", action="store_true", help="one JSON object on standard output")
    status = commands.add_parser("status", help="say who tests, who waits, and what was refused")
    status.add_argument("--json", action="store_true", help="one JSON object on standard output")
    for command in (serve, check, status):
        command.add_argument(
            "--config", type=Path, default=configuration.DEFAULT_PATH, help="default: %(default)s", metavar="FILE"
        )
    commands.add_parser("version", help="print the version")
    return parser


if __name__ == "__main__":
    main()
