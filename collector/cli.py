"""`probe-collector`: the commands.

Exit status: 0 fine, 1 did not work, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from base import configfile, logs
from base.broker import CredentialsError, make_client
from base.configfile import ConfigError
from base.durable import StorageError
from base.share import MAX_PLACES, MAX_ROOM
from base.table import render
from collector import clashes, fleet, gaps, salvage, service, settings, stats
from collector.influx import SinkError, open_sink
from collector.instants import microseconds
from collector.journal import Journal
from collector.settings import DEFAULT_CONFIG, DEFAULT_SITES
from collector.writer import BATCH_RESULTS, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[[argparse.Namespace], int]

log = logging.getLogger(__name__)

_FAR_PAST_US: Final = -(2**62)
_FAR_FUTURE_US: Final = 2**62

_EXAMPLES: Final = """\
examples:
  probe-collector check-config                         is /etc/probefleet/collector.yaml usable?
  probe-collector run                                  collect until SIGTERM or Ctrl-C
  probe-collector stats --json                         what the journal holds, for machines
  probe-collector salvage journal.db rescued.db        save what a damaged journal still tells
  probe-collector clashes                              do two probes share an id?
  probe-collector gaps --since 2026-07-01              what is missing since then, and why
  probe-collector replay --since 2026-07-01            write July and later into the database again
  probe-collector replay --probe lc-tan-phong-1        write one probe's results again
  probe-collector acl --sites /etc/probefleet/sites.yaml   who may do what at the broker
  probe-collector places --room 9 --of 400                 each link's turn at the test servers
"""


def main() -> None:
    """Run the command that the arguments name."""
    try:
        arguments = _parser().parse_args()
        logs.set_up(verbose=arguments.verbose)
        command: Command = arguments.command
        status = command(arguments)
    except (ConfigError, CredentialsError) as error:
        print(error, file=sys.stderr)
        status = 2
    except (StorageError, SinkError, service.NoRoomError) as error:
        print(error, file=sys.stderr)
        status = 1
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _run(arguments: argparse.Namespace) -> int:
    config = settings.load(arguments.config)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return 0 if service.collect(config, stopping) else 1


def _check_config(arguments: argparse.Namespace) -> int:
    config = settings.load(arguments.config)
    service.subscriptions(config)
    make_client(config.broker, client_id=config.client_id, clean_session=True)
    open_sink(config.sink).close()
    print(f"{arguments.config}: fine")
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    config = settings.load(arguments.config)
    if config.sink.kind == "none":
        raise ConfigError(arguments.config, [": sink.kind is none: there is no database to write into"])
    since_us = _FAR_PAST_US if arguments.since is None else microseconds(arguments.since)
    until_us = _FAR_FUTURE_US if arguments.until is None else microseconds(arguments.until)
    if until_us <= since_us:
        print("--until is not after --since: there is nothing between them", file=sys.stderr)
        return 2
    written = refused = after = 0
    with Journal(config.journal.path, read_only=True) as journal, contextlib.closing(open_sink(config.sink)) as sink:
        total = journal.count(since_us=since_us, until_us=until_us, probe_id=arguments.probe)
        if not total:
            _refuse_unknown(journal, arguments.probe)
        try:
            while rows := journal.select(
                after, BATCH_RESULTS, since_us=since_us, until_us=until_us, probe_id=arguments.probe
            ):
                for bad in write_rows(sink, rows):
                    refused += 1
                    print(f"\rresult {bad.id}: {bad.reason}", file=sys.stderr)
                written += len(rows)
                after = rows[-1].id
                print(f"\r{written} of {total} results", end="", file=sys.stderr, flush=True)
        finally:
            print(file=sys.stderr)
    print(f"{written - refused} results written to {sink.name}, {refused} refused")
    return 1 if refused else 0


def _refuse_unknown(journal: Journal, probe: str) -> None:
    """Raise StorageError if the journal has never had a result of a probe that was named."""
    if probe and not journal.count(since_us=_FAR_PAST_US, until_us=_FAR_FUTURE_US, probe_id=probe):
        raise StorageError(f"{journal.path}: holds no result of {probe}; `probe-collector stats` names its probes")


def _journal_named(arguments: argparse.Namespace) -> Journal:
    """Open the journal that the arguments or their configuration name, for reading."""
    return Journal(arguments.journal or settings.load(arguments.config).journal.path, read_only=True)


def _say(arguments: argparse.Namespace, found: object, text: str) -> int:
    print(msgspec.json.encode(found).decode() if arguments.json else text)
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    with _journal_named(arguments) as journal:
        found = stats.collect(journal)
    return _say(arguments, found, stats.table(found))


def _sites(arguments: argparse.Namespace) -> Path:
    """Name the site list: the one given, else the configuration's; a broker's machine may have no configuration."""
    if arguments.sites is None and os.path.lexists(arguments.config):
        serves = settings.load(arguments.config).serves
        return DEFAULT_SITES if serves is None else serves.sites_file
    return arguments.sites or DEFAULT_SITES


def _acl(arguments: argparse.Namespace) -> int:
    sys.stdout.write(fleet.acl(fleet.load(_sites(arguments))))
    return 0


def _salvage(arguments: argparse.Namespace) -> int:
    saved = salvage.salvage(arguments.damaged, arguments.new)
    return _say(arguments, saved, salvage.text(saved, arguments.new))


def _places(arguments: argparse.Namespace) -> int:
    sites = _sites(arguments)
    try:
        found = fleet.places(fleet.load(sites), links_each=arguments.links, room=arguments.room, of=arguments.of)
    except ValueError as error:
        print(f"{sites}: {error}", file=sys.stderr)
        return 2
    rows = [(p.probe, p.link, f"share: {{place: {p.place}, of: {p.of}, room: {p.room}}}") for p in found]
    text = render(("probe", "link", "write into the link in agent.yaml"), rows)
    return _say(arguments, [place._asdict() for place in found], text)


def _clashes(arguments: argparse.Namespace) -> int:
    with _journal_named(arguments) as journal:
        found = clashes.collect(journal)
    return _say(arguments, found, clashes.text(found))


def _gaps(arguments: argparse.Namespace) -> int:
    with _journal_named(arguments) as journal:
        found = gaps.collect(journal, since=arguments.since, probe=arguments.probe)
        if not (found.holes or found.not_made):
            _refuse_unknown(journal, arguments.probe)
    _say(arguments, found, gaps.show(found))
    if arguments.ask:
        with Journal(journal.path) as journal:
            spools = gaps.wish(journal, (hole for hole in found.holes if hole.state == "open"))
        text = f"the running collector will ask for what is open, of {spools} spools: a probe for one every 90 s"
        print(text, file=sys.stderr)
    return 0


def _version(_: argparse.Namespace) -> int:
    print(f"probe-collector {importlib.metadata.version('probefleet')}")
    return 0


def _config(text: str) -> Path:
    """Take a named configuration, also where a command can do without one; raise ConfigError if it is not there."""
    path = Path(text)
    try:
        path.stat()
    except OSError as error:
        raise configfile.unreadable(path, error) from error
    return path


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 1 or more")
    return int(text)


def iso_time(text: str) -> datetime:
    """Read a day or an instant; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        why = f"{text!r} is no time; write 2026-07-01, or 2026-07-01T12:00+07:00"
        raise argparse.ArgumentTypeError(why) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probe-collector",
        description="Takes the probes' results from the broker into the journal, and from there into the database.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=_config, default=DEFAULT_CONFIG, help="the configuration (%(default)s)")
    common.add_argument("--verbose", action="store_true", help="log more")
    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument("--journal", type=Path, metavar="FILE", help="read this journal and no configuration")
    reading.add_argument("--json", action="store_true", help="for machines")
    listing = argparse.ArgumentParser(add_help=False)
    listing.add_argument(
        "--sites", type=Path, metavar="FILE", help=f"the site list (serves.sites_file, else {DEFAULT_SITES})"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common, *parents], help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("run", _run, "collect until told to stop")
    add("check-config", _check_config, "say what is wrong with the configuration, without connecting anywhere")
    replay = add("replay", _replay, "write the journal into the database again; writing twice changes nothing")
    replay.add_argument(
        "--since", type=iso_time, metavar="TIME", help="only results that began at or after TIME (ISO 8601, else UTC)"
    )
    replay.add_argument("--until", type=iso_time, metavar="TIME", help="only results that began before TIME")
    replay.add_argument("--probe", default="", metavar="ID", help="only results of this probe")
    add("stats", _stats, "count what the journal holds; may run beside the collector", reading)
    add("acl", _acl, "write the broker's access list from the site list", listing)
    turns = add("places", _places, "write each link's place among those that share the test servers", listing)
    turns.add_argument("--links", type=_positive, default=1, metavar="N", help="links of each probe (%(default)s)")
    turns.add_argument(
        "--room", type=_positive, required=True, metavar="N", help=f"tests at once that fit, at most {MAX_ROOM}"
    )
    turns.add_argument(
        "--of",
        type=_positive,
        metavar="N",
        help=f"places in all, with those to come, at most {MAX_PLACES} (default: the links)",
    )
    turns.add_argument("--json", action="store_true", help="for machines")
    add("clashes", _clashes, "name probes that share an id, or came back with an old card", reading)
    rescue = add("salvage", _salvage, "write every result of a damaged journal that can be read into a new journal")
    rescue.add_argument("damaged", type=Path, help="the damaged journal; it is left as it is")
    rescue.add_argument("new", type=Path, help="the journal to write; must not exist yet")
    rescue.add_argument("--json", action="store_true", help="for machines")
    holes = add("gaps", _gaps, "what never came and which runs were never made; may run beside the collector", reading)
    holes.add_argument("--since", type=iso_time, metavar="TIME", help="only what came to light at or after TIME")
    holes.add_argument("--probe", default="", metavar="ID", help="only of this probe")
    holes.add_argument("--ask", action="store_true", help="ask the probes now for what is open")
    add("version", _version, "print the version")
    return parser


if __name__ == "__main__":
    main()
