"""`probe-lab capacity`: what fleets of several sizes ask of broker, collector, database and network.

Rates come from a simulated day of the schedule (`lab.capacity.traffic`), prices of the same results from the real parts
on this machine (`lab.capacity.costs`); everything else is their product. Shares of a core are of one of this machine's.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from base.table import render
from lab.benches import Judged, add_bench, say
from lab.capacity import costs, traffic
from lab.capacity.costs import Costs
from lab.capacity.traffic import Traffic
from lab.collecting.content import EXAMPLE, Content
from lab.collecting.watch import StalledError
from lab.netns import NetworkError
from lab.numbers import whole
from lab.pki import PkiError
from lab.programs import ProgramError
from lab.rundir import RunDir
from lab.servers import ServerError
from lab.wire.pipe import PipeError

if TYPE_CHECKING:
    import argparse

    from lab.benches import Parts

FLEETS: Final = (300, 3000, 10_000)
_DAYS_A_MONTH: Final = 30
_OUTAGE_DAYS: Final = 2

_EXAMPLES: Final = """examples:
  sudo probe-lab capacity                          fleets of 300, 3,000 and 10,000 probes; some four minutes
  sudo probe-lab capacity --probes 1500 --config agent.yaml
  sudo probe-lab capacity --check                  exit status 1 if one collector would not carry the largest fleet
  probe-lab capacity responder --help              what the test servers need

One link per probe and one collector are assumed; `docs/scale.md` is about more.
"""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one fleet asks for."""

    probes: int
    traffic: Traffic
    collector_core_percent: float
    broker_core_percent: float
    influxd_core_percent: float
    journal_gb_a_month: float
    influxd_gb_a_month: float
    series: int
    network_mbps: float
    catch_up_minutes: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The object printed with --json."""

    costs: Costs
    fleets: list[Need]
    short: str


def add_parser(parts: Parts) -> argparse.ArgumentParser:
    """Add `capacity`; return it, for its parts."""
    parser = add_bench(
        parts,
        "capacity",
        run,
        summary="what a fleet needs of its servers",
        description="What fleets of several sizes ask of broker, collector, database and network (root).",
        examples=_EXAMPLES,
        check="if one collector is not enough",
        failures=(NetworkError, ServerError, ProgramError, PkiError, PipeError, StalledError, OSError),
    )
    parser.add_argument("--probes", type=whole(1, 100_000), metavar="N", help="one fleet of this size")
    parser.add_argument("--config", type=Path, default=EXAMPLE, metavar="FILE", help="an agent.yaml (%(default)s)")
    parser.add_argument(
        "--results", type=whole(1), default=20_000, metavar="N", help="for each price (default %(default)s)"
    )
    parser.add_argument(
        "--played", type=whole(1, 100_000), default=100, metavar="N", help="days that are played (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    return parser


def run(arguments: argparse.Namespace) -> Judged:
    """Measure, simulate, multiply and judge; raise Complaint, ConfigError, or what `costs.measure` raises."""
    fleets = FLEETS if arguments.probes is None else (arguments.probes,)
    made = Content(arguments.config)
    with RunDir() as place:
        prices = costs.measure(made, place, arguments.results, say)
    days = traffic.play(made.settings, arguments.played, functools.partial(say, again=True))
    needs = [need(traffic.draw(days, probes, arguments.seed), probes, prices) for probes in fleets]
    say("", again=True)
    worst = needs[-1].traffic.results_per_s_busiest_minute
    enough = worst <= prices.results_per_s and needs[-1].collector_core_percent < 100  # noqa: PLR2004  # one core
    short = "" if enough else f"{needs[-1].probes} probes bring {worst:.0f} results/s in their busiest minute"
    report = Report(costs=prices, fleets=needs, short=short)
    return Judged(report, show(report), [f"one collector is not enough: {short}"] if short else ())


def need(load: Traffic, probes: int, prices: Costs) -> Need:
    """Multiply."""
    collector_us = (
        load.messages_per_s * prices.collector_us_per_message + load.results_per_s * prices.collector_us_per_result
    )
    return Need(
        probes=probes,
        traffic=load,
        collector_core_percent=collector_us / 1e4,
        broker_core_percent=2 * load.messages_per_s * prices.broker_us_per_message / 1e4,  # each is answered by an ack
        influxd_core_percent=load.points_a_day / 86_400 * prices.influxd_us_per_result / 1e4,
        journal_gb_a_month=load.results_a_day * _DAYS_A_MONTH * prices.journal_bytes_per_result / 1e9,
        influxd_gb_a_month=load.points_a_day * _DAYS_A_MONTH * prices.influxd_bytes_per_point / 1e9,
        series=round(probes * prices.series_per_link),
        network_mbps=probes * prices.wire_bytes_per_link_day * 8 / 86_400 / 1e6,
        catch_up_minutes=load.results_a_day * _OUTAGE_DAYS / prices.results_per_s / 60,
    )


def show(report: Report) -> str:
    """Write the tables for people."""
    prices = report.costs
    measured = [
        ("collector, CPU us a message", round(prices.collector_us_per_message, 1)),
        ("collector, CPU us a result", round(prices.collector_us_per_result, 1)),
        ("broker, CPU us a message", round(prices.broker_us_per_message, 1)),
        ("InfluxDB, CPU us a point", round(prices.influxd_us_per_result, 1)),
        ("collector, results/s sustained", round(prices.results_per_s)),
        ("collector, MB of memory at most", round(prices.collector_rss_mb)),
        ("journal, B a result", round(prices.journal_bytes_per_result)),
        ("InfluxDB, B a point", round(prices.influxd_bytes_per_point)),
        ("InfluxDB, series a link", round(prices.series_per_link, 1)),
        ("network, kB a link and day", round(prices.wire_bytes_per_link_day / 1000)),
    ]
    rows = [
        ("messages/s, mean", *(f"{one.traffic.messages_per_s:.1f}" for one in report.fleets)),
        ("messages/s, busiest minute", *(f"{one.traffic.messages_per_s_busiest_minute:.1f}" for one in report.fleets)),
        (
            "messages in the busiest second",
            *(f"{one.traffic.messages_per_s_busiest_second:.0f}" for one in report.fleets),
        ),
        ("results/s, mean", *(f"{one.traffic.results_per_s:.1f}" for one in report.fleets)),
        ("results/s, busiest minute", *(f"{one.traffic.results_per_s_busiest_minute:.1f}" for one in report.fleets)),
        ("collector, % of a core", *(f"{one.collector_core_percent:.2f}" for one in report.fleets)),
        ("broker, % of a core", *(f"{one.broker_core_percent:.2f}" for one in report.fleets)),
        ("InfluxDB, % of a core", *(f"{one.influxd_core_percent:.2f}" for one in report.fleets)),
        ("journal, GB a month", *(f"{one.journal_gb_a_month:.1f}" for one in report.fleets)),
        ("InfluxDB, GB a month", *(f"{one.influxd_gb_a_month:.1f}" for one in report.fleets)),
        ("InfluxDB, points a day", *(f"{one.traffic.points_a_day:.0f}" for one in report.fleets)),
        ("InfluxDB, series", *(str(one.series) for one in report.fleets)),
        ("network, Mbit/s, mean", *(f"{one.network_mbps:.2f}" for one in report.fleets)),
        (f"minutes to catch up {_OUTAGE_DAYS} days", *(f"{one.catch_up_minutes:.1f}" for one in report.fleets)),
    ]
    head = ("one link a probe", *(f"{one.probes} probes" for one in report.fleets))
    tail = f"\n\n{report.short}: more than one collector" if report.short else ""
    return f"{render(('measured here', ''), measured)}\n\n{render(head, rows)}{tail}"
