"""What a fleet's run has shown, link by link and station by station, and whether it may be believed. Pure.

Figures are read from results as the collector's journal holds them. Two things are checked: that every result made
has reached every station once, and that no TCP download is further than WORST_ERROR from what the cell's shaper lets
through. Verdicts are left to those who have the samples: see VERDICT_NOTE.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lab.cell.shaper import goodput_mbps
from wire.measured import Failed, Latency, Radio, Throughput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lab.sites import LinkPlan, SitePlan
    from wire.measured import Echo, Transfer
    from wire.radio import RadioReading
    from wire.results import Result

TARGET_MBPS: Final = 40.0
"""The province's target: average 4G download."""
WORST_ERROR: Final = 0.08
"""The largest distance of a measured download from what the shaper lets through, as a share of the latter."""
ENOUGH_TESTS: Final = 120
"""Valid tests that a probe-month needs, over at least 20 days, before its mean can be held against the target."""
VERDICT_NOTE: Final = (
    f"Verdict: met / not met takes at least {ENOUGH_TESTS} valid tests of a link, spread over 20 days or more and all "
    "hours; a demo never has them, and says so. In brackets: on which side of the target the mean was seen."
)


class Count(NamedTuple):
    """One probe's results, counted at every station. `points` and `distinct` are None without InfluxDB.

    made: runs begun, and steps of recovery; spooled: results given a number; waiting and refused: still with the probe;
    journalled: rows of the collector's journal; points: in InfluxDB; distinct: their (spool_id, seq).
    """

    probe: str
    made: int
    spooled: int
    waiting: int
    refused: int
    journalled: int
    points: int | None
    distinct: int | None

    @property
    def stations(self) -> tuple[int, ...]:
        """The numbers that must be one number."""
        stations = (self.made, self.spooled, self.journalled, self.points, self.distinct)
        return tuple(number for number in stations if number is not None)

    @property
    def equal(self) -> bool:
        """Whether every station counts the same."""
        return len(set(self.stations)) == 1


@dataclass
class Figures:
    """One link's figures so far. `true_mbps` of either direction is None where nothing shapes the link."""

    site: SitePlan
    link: LinkPlan
    shaped: bool
    radio: RadioReading | None = None
    operator: str | None = None
    last: Result | None = None
    rsrp_dbm: list[float] = field(default_factory=list)
    download_mbps: list[float] = field(default_factory=list)
    upload_mbps: list[float] = field(default_factory=list)
    rtt_ms: list[float] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    valid: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The link, for a line of text."""
        return f"{self.site.probe_id}/{self.link.name}"

    @property
    def true_down_mbps(self) -> float | None:
        """TCP payload that the shaper lets through to the probe."""
        return goodput_mbps(self.link.down_mbps) if self.shaped else None

    @property
    def true_up_mbps(self) -> float | None:
        """TCP payload that the shaper lets through from the probe."""
        return goodput_mbps(self.link.up_mbps) if self.shaped else None

    @property
    def ratios(self) -> list[float]:
        """Each download as a share of the true rate; empty where there is none."""
        true_mbps = self.true_down_mbps
        return [mbps / true_mbps for mbps in self.download_mbps] if true_mbps else []

    @property
    def rsrp(self) -> float | None:
        """Median of the levels seen, dBm."""
        return median(self.rsrp_dbm) if self.rsrp_dbm else None

    @property
    def loss_percent(self) -> float | None:
        """Echo packets that did not come back."""
        return 100 * (1 - self.received / self.sent) if self.sent else None

    @property
    def seen(self) -> str | None:
        """On which side of the target the mean of the downloads lies; an observation, no verdict."""
        if not self.download_mbps:
            return None
        return f"{'above' if fmean(self.download_mbps) >= TARGET_MBPS else 'below'} {TARGET_MBPS:.0f}"

    @property
    def verdict(self) -> str:
        """Met, not met or insufficient data: a run of the lab lasts too short for anything but the last."""
        return "insufficient data"

    def add(self, result: Result) -> None:
        """Take a result of this link in."""
        self.last = result
        if result.used is not None and result.used.operator is not None:
            self.operator = result.used.operator
        match result.outcome:
            case Throughput() as test:
                self._add_test(test)
            case Latency(udp=udp):
                self._add_echo(udp)
            case Radio(reading=reading):
                self._add_radio(reading)
            case Failed() as failure:
                job = result.job.measurement if result.job is not None else "run"
                self.failed[f"{job}: {failure.reason}"] += 1
                self._add_radio(failure.radio)

    def _add_test(self, test: Throughput) -> None:
        self.download_mbps.append(_mean_mbps(test.download))
        if test.upload is not None:
            self.upload_mbps.append(_mean_mbps(test.upload))
        self.valid += test.valid
        self.invalid.update(str(reason) for reason in test.invalid)
        self._add_radio(test.radio_after or test.radio_before)

    def _add_echo(self, echo: Echo) -> None:
        self.sent += echo.sent
        self.received += echo.received
        if echo.rtt_mean_ms is not None:
            self.rtt_ms.append(echo.rtt_mean_ms)

    def _add_radio(self, reading: RadioReading | None) -> None:
        if reading is None:
            return
        self.radio = reading
        self.operator = reading.operator or self.operator
        if reading.rsrp_dbm is not None:
            self.rsrp_dbm.append(reading.rsrp_dbm)

    def as_json(self) -> dict[str, Any]:
        """Give the link as one flat object; means of what was measured, None for what was not."""
        return {
            "site": self.site.site_id,
            "site_name": self.site.name,
            "commune": self.site.commune,
            "probe": self.site.probe_id,
            "link": self.link.name,
            "modem": self.link.modem,
            "operator": self.operator,
            "technology": self.radio.technology if self.radio else None,
            "band": self.radio.band if self.radio else None,
            "rsrp_dbm": self.rsrp,
            "true_download_mbps": self.true_down_mbps,
            "true_upload_mbps": self.true_up_mbps,
            "download_mbps": mean(self.download_mbps),
            "upload_mbps": mean(self.upload_mbps),
            "downloads_mbps": self.download_mbps,
            "download_ratios": self.ratios,
            "rtt_ms": mean(self.rtt_ms),
            "loss_percent": self.loss_percent,
            "tests": len(self.download_mbps),
            "valid": self.valid,
            "invalid": dict(self.invalid),
            "failed": dict(self.failed),
            "seen": self.seen,
            "verdict": self.verdict,
        }


def mean(values: Sequence[float]) -> float | None:
    """Average; None of nothing."""
    return fmean(values) if values else None


def figures(plan: Iterable[SitePlan], *, shaped: bool) -> dict[tuple[str, str], Figures]:
    """Lay out empty figures of every link, by (probe, link)."""
    return {
        (site.probe_id, link.name): Figures(site=site, link=link, shaped=shaped) for site in plan for link in site.links
    }


def total(counts: Sequence[Count]) -> Count:
    """Add up all probes."""
    points = [count.points for count in counts if count.points is not None]
    distinct = [count.distinct for count in counts if count.distinct is not None]
    return Count(
        probe="total",
        made=sum(count.made for count in counts),
        spooled=sum(count.spooled for count in counts),
        waiting=sum(count.waiting for count in counts),
        refused=sum(count.refused for count in counts),
        journalled=sum(count.journalled for count in counts),
        points=sum(points) if points else None,
        distinct=sum(distinct) if distinct else None,
    )


def problems(links: Mapping[tuple[str, str], Figures], counts: Sequence[Count]) -> list[str]:
    """Say everything that makes this run fail, one line each; nothing where all is well."""
    found = []
    for link in links.values():
        if not link.download_mbps:
            failures = ", ".join(f"{what} x{times}" for what, times in link.failed.items())
            found.append(f"{link.name}: no throughput result" + (f" (failed: {failures})" if failures else ""))
        found += [
            f"{link.name}: a download of {mbps:.2f} Mbps where the shaper lets {link.true_down_mbps:.2f} Mbps through: "
            f"{abs(ratio - 1):.1%} off, at most {WORST_ERROR:.0%} are allowed"
            for mbps, ratio in zip(link.download_mbps, link.ratios, strict=False)
            if abs(ratio - 1) > WORST_ERROR
        ]
    for count in counts:
        if not count.equal:
            stations = f"made {count.made}, spooled {count.spooled}, journalled {count.journalled}"
            if count.points is not None:
                stations += f", points {count.points} ({count.distinct} distinct)"
            found.append(f"{count.probe}: the stations do not count the same: {stations}")
        elif count.waiting or count.refused:
            found.append(f"{count.probe}: {count.waiting} results wait in the spool, {count.refused} were refused")
    if not sum(count.made for count in counts):
        found.append("no probe has made a single result")
    return found


def _mean_mbps(transfer: Transfer) -> float:
    """Take the mean over the whole transfer, slow start included; where nobody saw its start, the mean after it."""
    return transfer.steady_mbps if transfer.mbps is None else transfer.mbps
