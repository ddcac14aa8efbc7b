from __future__ import annotations

import io
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from rich.console import Console

from lab import sites, summary, view
from lab.cell.shaper import goodput_mbps
from lab.summary import Count, Figures
from wire.measured import Failed, Radio, Throughput, Transfer
from wire.radio import RadioReading, Technology
from wire.reasons import Reason
from wire.results import Job, Outcome, Result

PLAN = sites.fleet(3)
LTE = RadioReading(technology=Technology.LTE, operator="Viettel", band=3, rsrp_dbm=-93.0)


def result(probe: str, link: str, outcome: Outcome) -> Result:
    return Result(
        probe_id=probe,
        site="s",
        link=link,
        job=Job(name="light", measurement="throughput"),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        agent_version="0",
        outcome=outcome,
    )


def download(mbps: float) -> Throughput:
    half = Transfer(mbps=mbps, steady_mbps=mbps, payload_bytes=1, elapsed_s=5.0)
    return Throughput(download=half, upload=half, radio_after=LTE)


def measured_fleet() -> dict[tuple[str, str], Figures]:
    links = summary.figures(PLAN, shaped=True)
    for (probe, name), link in links.items():
        link.add(result(probe, name, download(goodput_mbps(link.link.down_mbps))))
    return links


def drawn(picture: object, width: int = 132) -> str:
    paper = Console(file=io.StringIO(), width=width)
    paper.print(picture)
    return paper.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO


def counts(points: int | None = 4) -> list[Count]:
    return [Count(site.probe_id, 4, 4, 0, 0, 4, points, points) for site in PLAN]


def test_the_summary_names_every_site_its_figures_and_an_honest_verdict() -> None:
    text = drawn(view.report(measured_fleet(), counts(), []))
    for name in ("Tân Phong", "Mù Cả", "Sìn Hồ"):
        assert name in text
    assert "LTE B3" in text
    assert "59.3/20.1" in text
    assert text.count("insufficient data") == 4
    assert "above 40" in text
    assert "below 40" in text
    assert "12 results made" in text


def test_problems_stand_at_the_end() -> None:
    text = drawn(view.report(measured_fleet(), counts(points=3), ["p: the stations do not count the same"]))
    assert "differ" in text
    assert text.rstrip().endswith("✗ p: the stations do not count the same")


def test_without_a_database_there_is_no_column_of_it() -> None:
    assert "points" not in drawn(view.counts_table(counts(points=None)))


def test_on_loopback_the_summary_says_that_nothing_is_shaped() -> None:
    text = drawn(view.report(summary.figures(PLAN, shaped=False), counts(), []))
    assert "Loopback: nothing is shaped" in text


def test_the_summary_of_a_fleet_that_measured_nothing_can_be_drawn() -> None:
    assert "Tân Phong" in drawn(view.report(summary.figures(PLAN, shaped=True), [], ["nothing"]))


def test_the_live_table_shows_last_result_and_backlog() -> None:
    links = measured_fleet()
    links["lc-mu-ca-1", "vietnamobile"].add(result("lc-mu-ca-1", "vietnamobile", Failed(reason=Reason.BUSY)))
    text = drawn(view.live_table(links, {"lc-mu-ca-1": 17}))
    assert "failed: busy" in text
    assert "17" in text


def test_plain_lines_tell_of_tests_and_of_the_first_look_only() -> None:
    paper = Console(file=io.StringIO(), width=80)
    lines = view.Lines(paper)
    link = next(iter(summary.figures(PLAN, shaped=True).values()))
    for outcome in (Radio(reading=LTE), Radio(reading=LTE), download(58.9)):
        lines.result(3.0, link, result("lc-tan-phong-1", "viettel", outcome))
    text = paper.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    assert text.splitlines() == [
        "   3 s  lc-tan-phong-1/viettel, light: Viettel, lte, RSRP -93 dBm",
        "   3 s  lc-tan-phong-1/viettel, light: 58.9 Mbps down, 58.9 Mbps up",
    ]


def test_the_live_picture_follows_the_stages_and_leaves_the_terminal_as_it_was() -> None:
    paper = Console(file=io.StringIO(), width=100, force_terminal=True)
    with view.Live(paper) as live:
        live.stage("broker", None)
        live.stage("broker", "mosquitto")
        live.tick(1.0, 120.0, measured_fleet(), {})
    text = paper.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    assert "mosquitto" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_picture_for_the_readme_is_svg_that_fetches_nothing() -> None:
    drawing = view.svg(view.report(measured_fleet(), counts(), []))
    assert ET.fromstring(drawing).tag.endswith("svg")  # noqa: S314  # our own drawing
    assert "url(" not in drawing.replace("url(#", "")
    assert "insufficient" in drawing
