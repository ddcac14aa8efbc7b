"""`probe-lab demo`: the whole way from a modem to InfluxDB, watched for two minutes, then summed up and checked."""

# ruff: noqa: T201 # what a demo prints is its result

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from lab import sites, summary, view
from lab.cell.link import CellError
from lab.configs import DATABASE
from lab.fleet import Fleet, FleetError
from lab.netns import NetworkError
from lab.pki import PkiError
from lab.programs import ProgramError
from lab.servers import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.summary import Count, Figures
    from lab.view import View

_EXAMPLES: Final = """\
examples:
  sudo probe-lab demo                                  three sites, two minutes
  sudo probe-lab demo --sites 8 --minutes 5 --keep     more of them, and keep them running to look around
  sudo probe-lab demo --json > demo.json               the summary for a machine; progress on standard error
  probe-lab demo --loopback --no-influxdb              without root and without a database

exit status: 0 if every result is counted once at every station, every link was tested, and every TCP download is
within 8 % of what its cell lets through; 1 if not (it says which); 130 after Ctrl-C. It may go on a little after the
minutes are over, until every link has been tested.
"""

_NEEDS: Final = {
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "iperf3": "iperf3",
    "irtt": "irtt",
    "openssl": "openssl",
    "ping": "iputils-ping",
}
_LIBIPERF: Final = "usr/lib/*/libiperf.so.0"
_LOOK_EVERY_S: Final = 0.5
_WIND_UP_S: Final = 20.0
"""The end of the time, in which tests under way may end and no new ones begin."""
_LONGEST_MINUTES: Final = 24 * 60
_AFTERWARDS: Final = """\
All of it is gone again. Next: --keep leaves it running to look around; docs/install.md sets up a real site."""
_PLAIN_COLUMNS: Final = 120
_FAILURES: Final = (FleetError, NetworkError, CellError, ServerError, ProgramError, PkiError)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo`; the chosen parser's `run` takes the arguments and returns the exit status."""
    parser = subparsers.add_parser(
        "demo",
        help="a fleet of probes measures emulated cells, all the way into InfluxDB",
        description="Probes with simulated modems measure emulated cells; broker, InfluxDB, iperf3, agents, responder "
        "and collector are the real ones. Needs root for network namespaces, unless --loopback.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sites", type=_sites, default=3, metavar="N", help="how many sites (%(default)s)")
    parser.add_argument("--minutes", type=_minutes, default=2.0, metavar="M", help="how long to measure (%(default)g)")
    parser.add_argument("--keep", action="store_true", help="after the summary keep everything running until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--no-influxdb", action="store_true", help="the collector's journal alone")
    parser.add_argument("--loopback", action="store_true", help="no root: no namespaces, no shaping, all on 127.0.0.1")
    parser.add_argument("--save-svg", type=Path, metavar="FILE", help="save a picture of the summary")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Set up, watch, sum up, clean up."""
    if (complaint := _cannot(arguments)) is not None:
        print(f"probe-lab demo: {complaint}", file=sys.stderr)
        return 1
    plan = sites.fleet(arguments.sites)
    if arguments.loopback:
        plan = sites.on_loopback(plan)
    console = Console(stderr=arguments.json)
    if not console.is_terminal:
        console.width = _PLAIN_COLUMNS
    shown: View = view.Live(console) if console.is_terminal and not arguments.json else view.Lines(console)
    fleet = Fleet(plan, loopback=arguments.loopback, influxdb=not arguments.no_influxdb, on_stage=shown.stage)
    try:
        return _demo(fleet, shown, console, arguments)
    except KeyboardInterrupt:
        fleet.close()
        print("interrupted; every process, namespace and file of the demo is gone", file=sys.stderr)
        return 130
    except _FAILURES as failure:
        print(f"probe-lab demo: {failure}", file=sys.stderr)
        return 1
    finally:
        fleet.close()


def _demo(fleet: Fleet, shown: View, console: Console, arguments: argparse.Namespace) -> int:
    links = summary.figures(fleet.plan, shaped=not fleet.loopback)
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        with shown:
            stack.enter_context(fleet)
            _watch(fleet, shown, links, arguments.minutes * 60)
            shown.stage("finishing", None)
            fleet.finish()
            shown.stage("finishing", "every agent has ended, the database has caught up")
            _take_in(fleet, shown, links, time.monotonic() - began_s)
            counts = fleet.counts()
        problems = summary.problems(links, counts)
        picture = view.report(links, counts, problems)
        console.print(picture)
        if problems:
            print(f"\n{fleet.last_words()}", file=sys.stderr)
        if arguments.save_svg is not None:
            arguments.save_svg.write_text(view.svg(picture), encoding="utf-8")
        if arguments.json:
            print(
                json.dumps(_as_json(links, counts, problems, time.monotonic() - began_s), ensure_ascii=False, indent=1)
            )
        if arguments.keep:
            _keep(fleet, console)
        else:
            console.print(_AFTERWARDS, highlight=False)
    return 1 if problems else 0


def _watch(fleet: Fleet, shown: View, links: dict[tuple[str, str], Figures], for_s: float) -> None:
    """Look on until the time is over and every link has been tested; not for ever."""
    began_s = time.monotonic()
    enough_s = max(for_s - _WIND_UP_S, for_s / 2)
    at_most_s = max(for_s, fleet.pace.all_tested_s)
    while True:
        fleet.check()
        at_s = time.monotonic() - began_s
        _take_in(fleet, shown, links, at_s)
        shown.tick(at_s, for_s, links, {name: probe.backlog() for name, probe in fleet.probes.items()})
        untested = [link for link in links.values() if not link.download_mbps]
        if at_s >= at_most_s or (at_s >= enough_s and not untested):
            return
        time.sleep(_LOOK_EVERY_S)


def _take_in(fleet: Fleet, shown: View, links: dict[tuple[str, str], Figures], at_s: float) -> None:
    for result in fleet.new_results():
        link = links.get((result.probe_id, result.link or ""))
        if link is not None:
            link.add(result)
            shown.result(at_s, link, result)


def _keep(fleet: Fleet, console: Console) -> None:
    """Set the agents to work again and wait for Ctrl-C, which is the proper end here."""
    for probe in fleet.probes.values():
        probe.agent.start()
    console.print(look_around(fleet), highlight=False, markup=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            fleet.check()
            time.sleep(_LOOK_EVERY_S)
    print("cleaning up", file=sys.stderr)


def look_around(fleet: Fleet) -> str:
    """Where the parts of a running fleet can be looked at, as commands to copy."""
    bin_dir = Path(sys.executable).parent
    core = " ".join(fleet.network.core_prefix)
    first = next(iter(fleet.probes.values()))
    in_probe = " ".join(first.agent.prefix)
    lines = [
        "Everything keeps running, and measuring, until Ctrl-C. Where to look:",
        f"  files and logs        ls {fleet.run_dir.path}/*",
        f"  an agent at work      tail -f {first.agent.log_file}",
        f"  its links, its modem  {in_probe} {bin_dir}/probe-agent links --config {first.agent.config}",
        f"  the journal           {bin_dir}/probe-collector stats --journal {fleet.journal_file}",
    ]
    if fleet.influx is not None:
        query = "SELECT download_mbps, upload_mbps, rsrp_dbm FROM throughput GROUP BY site, link"
        if shutil.which("influx"):
            ask = f"influx -host {fleet.influx.host} -port {fleet.influx.port} -database {DATABASE} -execute '{query}'"
        else:
            ask = f"curl -sG {fleet.influx.url}/query --data-urlencode db={DATABASE} --data-urlencode 'q={query}'"
        lines.append(f"  InfluxDB              {core} {ask}")
    if fleet.network.core_prefix:
        cell = next(iter(first.cells.values()))
        lines.append(f"  a cell's shaper       ip netns exec {cell.namespace.name} tc -s qdisc show dev ue0")
    return "\n".join(lines)


def _as_json(
    links: dict[tuple[str, str], Figures], counts: Sequence[Count], problems: Sequence[str], elapsed_s: float
) -> dict[str, Any]:
    return {
        "ok": not problems,
        "problems": list(problems),
        "elapsed_s": round(elapsed_s, 1),
        "target_mbps": summary.TARGET_MBPS,
        "verdict_note": summary.VERDICT_NOTE,
        "links": [link.as_json() for link in links.values()],
        "counts": [count._asdict() for count in counts],
        "total": summary.total(counts)._asdict(),
    }


def _cannot(arguments: argparse.Namespace) -> str | None:
    """Say in one line why the demo cannot begin here; None if it can."""
    if not arguments.loopback and os.geteuid() != 0:
        return (
            "network namespaces need root: run it with sudo, or try `probe-lab demo --loopback` "
            "(no namespaces, no shaping, no root)"
        )
    needs = dict(_NEEDS)
    if not arguments.no_influxdb:
        needs["influxd"] = "influxdb"
    if not arguments.loopback:
        needs |= {"ip": "iproute2", "tc": "iproute2"}
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    missing = {package for program, package in needs.items() if shutil.which(program, path=path) is None}
    if not any(Path("/").glob(_LIBIPERF)):
        missing.add("libiperf0")
    if missing:
        return f"missing here: apt-get install --no-install-recommends {' '.join(sorted(missing))}"
    if arguments.save_svg is not None and not arguments.save_svg.absolute().parent.is_dir():
        return f"{arguments.save_svg}: there is no such folder to save the picture in"
    return None


def _sites(text: str) -> int:
    number = int(text)
    if not 1 <= number <= sites.MOST_SITES:
        raise argparse.ArgumentTypeError(f"from 1 to {sites.MOST_SITES}, as Lai Châu has communes")
    return number


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= _LONGEST_MINUTES:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {_LONGEST_MINUTES}")
    return minutes
