"""`probe-lab capacity responder`: what network and how many ports a fleet needs of its test servers.

Arithmetic with every assumption shown. Tests a day fall evenly on the day's seconds, as the schedule spreads them; a
busy hour has `peak` times the mean. How many run at once in it is Poisson (many independent probes), so that the server
is made for the number that is exceeded in one instant of a hundred, and whoever comes in that instant is booked. A busy
hour with the responder's own book of leases shows what that means for the probes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from base.table import render
from lab.benches import Complaint, Judged, add_bench, say
from lab.lending.rush import Rush, busy_hour
from lab.numbers import real, whole

if TYPE_CHECKING:
    import argparse

    from lab.benches import Parts

SLOT_S: Final = 45.0
"""A lease from its request to its end, with time to spare: download, upload, pauses, and what a slow link adds."""
DOWNLOAD_S: Final = 6.5
"""1 s of start, 5 s measured, and 0.2-0.5 s that still drain when the test has ended."""
PORTS_PER_TEST: Final = 2
LINK_SHARE: Final = 0.7
"""Tests may take so much of the server's network; beyond it they would measure the server."""
RARELY: Final = 0.01
FLEETS: Final = ((300, 8), (1000, 8), (3000, 8), (3000, 24))
_DAY_S: Final = 86400.0
_QUICK_WORK: Final = 2_000_000
_MOST_WORK: Final = 20_000_000
"""Tests of a busy hour times those at once: what its play takes grows with it."""
_BITS: Final = 8

_EXAMPLES: Final = """examples:
  probe-lab capacity responder                                  four usual fleets
  probe-lab capacity responder --probes 300 --tests 8 --mbps 45
  probe-lab capacity responder --probes 300 --tests 8 --ports 16 --link-mbps 1000 --check
                                                                is this server enough? exit status 1 if not
"""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one fleet asks of its servers."""

    probes: int
    tests_a_day: float
    mbps: float
    peak: float
    tests_at_once: int  # exceeded in one instant of a hundred of the busy hour
    ports: int
    mean_mbps: float  # downloads, over the day
    busy_mbps: float  # what a responder has promised to that many leases
    link_mbps: float  # what the network must have, so that this is LINK_SHARE of it
    terabytes_a_month: float


def need(probes: int, tests_a_day: float, *, mbps: float, peak: float) -> Need:
    """Work it out for one fleet whose links download at `mbps` on average."""
    arrivals_s = probes * tests_a_day / _DAY_S
    at_once = exceeded_rarely(arrivals_s * peak * SLOT_S)
    return Need(
        probes=probes,
        tests_a_day=tests_a_day,
        mbps=mbps,
        peak=peak,
        tests_at_once=at_once,
        ports=PORTS_PER_TEST * at_once,
        mean_mbps=round(arrivals_s * DOWNLOAD_S * mbps, 1),
        busy_mbps=at_once * mbps,
        link_mbps=round(at_once * mbps / LINK_SHARE),
        terabytes_a_month=round(arrivals_s * DOWNLOAD_S * mbps * 1e6 / _BITS * _DAY_S * 30 / 1e12, 1),
    )


def exceeded_rarely(mean: float) -> int:
    """Smallest number that a Poisson variable of that mean exceeds with a probability of at most RARELY."""
    number, covered = max(0, math.floor(mean - 10 * math.sqrt(mean))) - 1, 0.0  # what is below is less than 10^-20
    while 1.0 - covered > RARELY:
        number += 1
        covered += math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
    return max(number, 1)


def add_parser(parts: Parts) -> None:
    """Add `responder` to the capacities."""
    parser = add_bench(
        parts,
        "responder",
        run,
        summary="network and ports of the test servers",
        description="How much network and how many ports a fleet needs of its test servers.",
        examples=_EXAMPLES,
        check="if --ports or --link-mbps is not enough",
    )
    parser.add_argument("--probes", type=whole(1), metavar="N", help="probes (default: four usual fleets)")
    parser.add_argument(
        "--tests", type=real(0.01, 2000), default=8, metavar="N", help="tests a day of each (default %(default)s)"
    )
    parser.add_argument(
        "--mbps", type=real(0.1, 100_000), default=45, metavar="N", help="mean download (default %(default)s)"
    )
    parser.add_argument(
        "--peak", type=real(0.1, 100), default=3, metavar="N", help="busy hour / mean hour (default %(default)s)"
    )
    parser.add_argument("--ports", type=whole(1), metavar="N", help="ports that the servers have together")
    parser.add_argument("--link-mbps", type=real(1, 1e9), metavar="N", help="network that the servers have together")


def run(arguments: argparse.Namespace) -> Judged:
    """Work out what is needed, and judge what there is; raise Complaint."""
    if arguments.check and (arguments.probes is None or (arguments.ports is None and arguments.link_mbps is None)):
        raise Complaint("--check needs --probes, and --ports or --link-mbps", status=2)
    fleets = FLEETS if arguments.probes is None else ((arguments.probes, arguments.tests),)
    needs = [need(probes, tests, mbps=arguments.mbps, peak=arguments.peak) for probes, tests in fleets]
    rushes = [_rush(one, arguments) for one in needs]
    short = [what for one in needs for what in _shortages(one, arguments)]
    document = {
        "assumed": {"slot_s": SLOT_S, "download_s": DOWNLOAD_S, "link_share": LINK_SHARE, "rarely": RARELY},
        "needs": needs,
        "busy_hours": rushes,
        "short": short,
    }
    text = "\n".join([_needs(needs), "", _rushes(needs, rushes, arguments), *short])
    return Judged(document, text, short)


def _rush(one: Need, arguments: argparse.Namespace) -> Rush | None:
    """Play a busy hour; None for a fleet that it would take minutes for."""
    asks = round(one.probes * one.tests_a_day / 24 * one.peak)
    if asks * one.tests_at_once > _MOST_WORK:
        return None
    if asks * one.tests_at_once > _QUICK_WORK:
        say(f"a busy hour of {one.probes} probes ...")
    return busy_hour(
        asks,
        ports=arguments.ports or one.ports,
        link_mbps=(arguments.link_mbps or one.link_mbps) * LINK_SHARE,
        mbps=one.mbps,
    )


def _needs(needs: list[Need]) -> str:
    head = ("probes", "tests/day", "at once", "ports", "mean Mbit/s", "busy Mbit/s", "network Mbit/s", "TB/month")
    rows = [
        (
            *(one.probes, one.tests_a_day, one.tests_at_once, one.ports),
            *(one.mean_mbps, one.busy_mbps, one.link_mbps, one.terabytes_a_month),
        )
        for one in needs
    ]
    return (
        f"{render(head, rows)}\n"
        f"\n{needs[0].mbps:g} Mbit/s a download of {DOWNLOAD_S:g} s, {SLOT_S:g} s a test with all it needs, busy hour"
        f" {needs[0].peak:g} x the mean;\nat once: exceeded in one instant of {1 / RARELY:.0f}, whoever comes then is"
        f" booked; network: so that tests take {LINK_SHARE:.0%} of it."
    )


def _rushes(needs: list[Need], rushes: list[Rush | None], arguments: argparse.Namespace) -> str:
    head = ("busy hour of", "ports", "asked", "% at once", "mean wait s", "longest s", "refused", "most at once")
    rows = [
        (
            *(f"{one.probes} x {one.tests_a_day:g}", arguments.ports or one.ports, rush.asked, rush.at_once_percent),
            *(rush.wait_mean_s, rush.wait_max_s, rush.refused, rush.most_at_once),
        )
        for one, rush in zip(needs, rushes, strict=True)
        if rush is not None
    ]
    return render(head, rows) if rows else "The busy hour of so many takes too long to play."


def _shortages(one: Need, arguments: argparse.Namespace) -> list[str]:
    found = []
    if arguments.ports is not None and arguments.ports < one.ports:
        found.append(f"{one.probes} probes need {one.ports} ports, there are {arguments.ports}")
    if arguments.link_mbps is not None and arguments.link_mbps < one.link_mbps:
        found.append(f"{one.probes} probes need {one.link_mbps:g} Mbit/s, there are {arguments.link_mbps:g}")
    return found
