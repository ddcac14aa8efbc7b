from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lab import sites, summary
from lab.cell.shaper import goodput_mbps
from lab.summary import Count, Figures
from wire.measured import Echo, Failed, Latency, Radio, Throughput, Transfer
from wire.radio import RadioReading, Technology
from wire.reasons import Invalid, Reason
from wire.results import Job, Outcome, Result, Route

SITE = sites.fleet(1)[0]
LINK = SITE.links[0]
KEY = (SITE.probe_id, LINK.name)
TRUE_MBPS = goodput_mbps(LINK.down_mbps)
LTE = RadioReading(technology=Technology.LTE, operator="Viettel", band=3, rsrp_dbm=-93.0)


def result(outcome: Outcome, measurement: str = "throughput") -> Result:
    return Result(
        probe_id=SITE.probe_id,
        site=SITE.site_id,
        link=LINK.name,
        job=Job(name="job", measurement=measurement),
        used=Route(interface="wwan0", operator="Viettel"),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        agent_version="0",
        outcome=outcome,
    )


def transfer(mbps: float | None, steady_mbps: float = 1.0) -> Transfer:
    return Transfer(mbps=mbps, steady_mbps=steady_mbps, payload_bytes=1, elapsed_s=5.0)


def link_with(*shares: float, shaped: bool = True) -> dict[tuple[str, str], Figures]:
    """One link, with a download of each of these shares of the true rate."""
    links = {KEY: Figures(site=SITE, link=LINK, shaped=shaped)}
    for share in shares:
        links[KEY].add(result(Throughput(download=transfer(share * TRUE_MBPS), upload=transfer(20.0), radio_after=LTE)))
    return links


EQUAL = Count("p", made=3, spooled=3, waiting=0, refused=0, journalled=3, points=3, distinct=3)


def test_all_is_well() -> None:
    assert summary.problems(link_with(1.0, 0.921, 1.079), [EQUAL]) == []


@pytest.mark.parametrize("share", [0.91, 1.09])
def test_a_download_too_far_from_the_truth_is_named(share: float) -> None:
    (problem,) = summary.problems(link_with(1.0, share), [EQUAL])
    assert "lc-tan-phong-1/viettel" in problem
    assert "9.0% off" in problem


def test_unshaped_links_are_held_against_nothing() -> None:
    links = link_with(17.0, shaped=False)
    assert summary.problems(links, [EQUAL]) == []
    assert links[KEY].true_down_mbps is None


def test_an_untested_link_is_named_with_its_failures() -> None:
    links = link_with()
    links[KEY].add(result(Failed(reason=Reason.BUSY)))
    links[KEY].add(result(Failed(reason=Reason.BUSY)))
    assert summary.problems(links, [EQUAL]) == [
        "lc-tan-phong-1/viettel: no throughput result (failed: throughput: busy x2)"
    ]


@pytest.mark.parametrize("station", ["made", "spooled", "journalled", "points", "distinct"])
def test_any_station_that_counts_differently_is_named(station: str) -> None:
    count = EQUAL._replace(**{station: 2})
    assert not count.equal
    (problem,) = summary.problems(link_with(1.0), [count])
    assert problem.startswith("p: the stations do not count the same: made ")


def test_without_a_database_its_station_does_not_count() -> None:
    assert summary.problems(link_with(1.0), [EQUAL._replace(points=None, distinct=None)]) == []


def test_what_the_probe_still_holds_is_named() -> None:
    assert summary.problems(link_with(1.0), [EQUAL._replace(refused=1)]) == [
        "p: 0 results wait in the spool, 1 were refused"
    ]


def test_a_fleet_that_made_nothing_has_failed() -> None:
    assert "no probe has made a single result" in summary.problems(link_with(1.0), [Count("p", 0, 0, 0, 0, 0, 0, 0)])


def test_the_mean_over_the_whole_transfer_comes_first() -> None:
    links = link_with()
    links[KEY].add(result(Throughput(download=transfer(10.0, steady_mbps=12.0))))
    links[KEY].add(result(Throughput(download=transfer(None, steady_mbps=14.0))))
    assert links[KEY].download_mbps == [10.0, 14.0]
    assert links[KEY].seen == "below 40"


def test_echoes_are_added_up_not_averaged() -> None:
    figures = link_with()[KEY]
    figures.add(
        result(Latency(udp=Echo(tool="irtt", sent=90, received=90, loss_percent=0, rtt_mean_ms=30.0)), "latency")
    )
    figures.add(result(Latency(udp=Echo(tool="irtt", sent=10, received=0, loss_percent=100)), "latency"))
    assert figures.loss_percent == pytest.approx(10.0)
    assert figures.rtt_ms == [30.0]


def test_operator_and_radio_are_what_the_modem_said() -> None:
    figures = link_with()[KEY]
    figures.add(result(Radio(reading=LTE), "radio"))
    told = figures.as_json()
    assert (told["operator"], told["technology"], told["band"], told["rsrp_dbm"]) == ("Viettel", "lte", 3, -93.0)


def test_no_number_of_tests_makes_a_verdict_here() -> None:
    figures = link_with(*[1.0] * 5)[KEY]
    assert figures.seen == "above 40"
    assert figures.verdict == "insufficient data"


def test_tests_that_are_no_samples_are_counted_by_reason() -> None:
    figures = link_with()[KEY]
    figures.add(result(Throughput(download=transfer(50.0), invalid=(Invalid.ROAMING,))))
    assert figures.valid == 0
    assert figures.as_json()["invalid"] == {"roaming": 1}


def test_the_total_adds_every_station() -> None:
    assert summary.total([EQUAL, EQUAL]) == Count("total", 6, 6, 0, 0, 6, 6, 6)
    assert summary.total([EQUAL._replace(points=None, distinct=None)]).points is None
