"""What a person sees while the fleet works: a live picture on a terminal, plain lines anywhere else; and the summary.

The pictures are made from `lab.summary`'s figures and counts alone; only `Live` and `Lines` know that time passes.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, Final, Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from agent.runner import describe
from lab import summary
from wire.measured import Radio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.summary import Count, Figures
    from wire.results import Result

    Links = Mapping[tuple[str, str], Figures]


_SVG_COLUMNS: Final = 100


class View(Protocol):
    """Somebody who is told what goes on."""

    def stage(self, name: str, done: str | None) -> None:
        """Hear that a stage of the set-up begins (None), or what it has done."""
        ...

    def result(self, at_s: float, link: Figures, result: Result) -> None:
        """Hear that a result has reached the journal."""
        ...

    def tick(self, at_s: float, of_s: float, links: Links, backlog: Mapping[str, int]) -> None:
        """Hear that time has passed."""
        ...

    def note(self, text: str) -> None:
        """Pass something else on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Lines:
    """One line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._heard: set[str] = set()

    def stage(self, name: str, done: str | None) -> None:
        """Print what is done."""
        if done is not None:
            self.note(f"{name}: {done}")

    def result(self, at_s: float, link: Figures, result: Result) -> None:
        """Print tests and failures, and of the radio only the first look."""
        if isinstance(result.outcome, Radio):
            if link.name in self._heard:
                return
            self._heard.add(link.name)
        job = result.job.name if result.job else "-"
        self.note(f"{at_s:4.0f} s  {link.name}, {job}: {describe(result.outcome)}")

    def tick(self, at_s: float, of_s: float, links: Links, backlog: Mapping[str, int]) -> None:
        """Say nothing: every event has its line already."""

    def note(self, text: str) -> None:
        """Print it."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Live:
    """The stages, then a table of the links that is renewed in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = RichLive(console=console, refresh_per_second=4, transient=True)
        self._stages: dict[str, str | None] = {}

    def stage(self, name: str, done: str | None) -> None:
        """Show the list of stages."""
        self._stages[name] = done
        self._live.update(self._stage_list(), refresh=True)

    def result(self, at_s: float, link: Figures, result: Result) -> None:
        """Leave it to the next tick."""

    def tick(self, at_s: float, of_s: float, links: Links, backlog: Mapping[str, int]) -> None:
        """Renew the table."""
        left = f"{at_s:.0f} of {of_s:.0f} s" if at_s <= of_s else f"{at_s:.0f} s, until every link has been tested"
        self._live.update(
            Group(self._stage_list(), live_table(links, backlog), Text(f"  {left}; Ctrl-C ends it", "dim"))
        )

    def note(self, text: str) -> None:
        """Print it above the picture."""
        self._console.print(text, markup=False, highlight=False)

    def _stage_list(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name, done in self._stages.items():
            mark = Text("✓", "green") if done is not None else Text("…", "yellow")
            table.add_row(mark, Text(name, "bold"), Text(done or "", "dim", overflow="ellipsis", no_wrap=True))
        return table

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        with contextlib.suppress(OSError):
            self._console.show_cursor()


def live_table(links: Links, backlog: Mapping[str, int]) -> Table:
    """Draw every link as it stands now."""
    table = _table(
        "site\noperator",
        "radio\nRSRP",
        ("true\n↓/↑ Mbps", "right"),
        ("tests", "right"),
        "last result",
        ("backlog", "right"),
    )
    for (probe, _), link in links.items():
        table.add_row(
            _who(link),
            _radio(link, link.radio.rsrp_dbm if link.radio is not None else None),
            _pair(link.true_down_mbps, link.true_up_mbps),
            str(len(link.download_mbps)),
            describe(link.last.outcome) if link.last is not None else "-",
            str(backlog.get(probe, 0)),
        )
    return table


def summary_table(links: Links) -> Table:
    """Draw what was measured, beside what is true."""
    table = _table(
        "site\noperator",
        "radio\nRSRP",
        ("true\n↓/↑ Mbps", "right"),
        ("measured\n↓/↑ Mbps", "right"),
        ("↓ of\ntrue", "right"),
        ("RTT\nloss", "right"),
        ("tests", "right"),
        f"verdict\n{summary.TARGET_MBPS:.0f} Mbps",
    )
    for link in links.values():
        verdict = Text(link.verdict)
        if link.seen is not None:
            verdict.append(f"\n({link.seen})", "green" if link.seen.startswith("above") else "yellow")
        rtt_ms = summary.mean(link.rtt_ms)
        table.add_row(
            _who(link),
            _radio(link, link.rsrp),
            _pair(link.true_down_mbps, link.true_up_mbps),
            _pair(summary.mean(link.download_mbps), summary.mean(link.upload_mbps)),
            "\n".join(sorted({f"{ratio:.3f}" for ratio in (min(link.ratios), max(link.ratios))}))
            if link.ratios
            else "-",
            "-" if rtt_ms is None else f"{rtt_ms:.1f} ms\n{link.loss_percent:.1f} %",
            str(len(link.download_mbps)),
            verdict,
        )
    return table


def counts_table(counts: Sequence[Count]) -> Table:
    """Draw every station's count."""
    stations: list[str | tuple[str, str]] = ["probe", ("made", "right"), ("spooled", "right"), ("journalled", "right")]
    with_points = any(count.points is not None for count in counts)
    if with_points:
        stations += [("points in InfluxDB", "right"), ("distinct", "right")]
    table = _table(*stations, "")
    for count in [*counts, summary.total(counts)]:
        points = [str(count.points), str(count.distinct)] if with_points else []
        mark = Text("=", "green") if count.equal else Text("differ", "bold red")
        row = [count.probe, str(count.made), str(count.spooled), str(count.journalled), *points]
        table.add_row(*row, mark, style="bold" if count.probe == "total" else "")
    return table


def report(links: Links, counts: Sequence[Count], problems: Sequence[str]) -> RenderableType:
    """Draw the whole summary."""
    parts: list[RenderableType] = [summary_table(links), Text(summary.VERDICT_NOTE, "dim"), *_notes(links), Text()]
    parts += [counts_table(counts), Text()]
    parts += [Text(f"✗ {problem}", "bold red") for problem in problems]
    if not problems:
        parts.append(Text(_all_is_well(links, counts), "green"))
    return Group(*parts)


def svg(picture: RenderableType) -> str:
    """Draw it for a page, without rich's web fonts, so that the page asks nothing of the network."""
    paper = Console(record=True, width=_SVG_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    paper.print(picture)
    return re.sub(r"@font-face \{.*?\}", "", paper.export_svg(title="probe-lab demo"), flags=re.DOTALL)


def _all_is_well(links: Links, counts: Sequence[Count]) -> str:
    made = summary.total(counts).made
    text = f"✓ {made} results made, every one of them counted once at every station"
    ratios = [ratio for link in links.values() for ratio in link.ratios]
    if ratios:
        worst = max(abs(ratio - 1) for ratio in ratios)
        text += f"; {len(ratios)} downloads, none further than {worst:.1%} from what the shaper lets through"
    return text


def _notes(links: Links) -> list[Text]:
    """Say what the table cannot."""
    notes = []
    if not any(link.shaped for link in links.values()):
        notes.append(
            Text("Loopback: nothing is shaped, so the rates are this machine's and are held against nothing.", "dim")
        )
    invalid = sum((link.invalid for link in links.values()), start=type(next(iter(links.values())).invalid)())
    if invalid:
        reasons = ", ".join(f"{reason} x{times}" for reason, times in invalid.most_common())
        notes.append(Text(f"Tests that would be no samples for a verdict, and why: {reasons}", "dim"))
    failed = [f"{link.name} {what} x{times}" for link in links.values() for what, times in link.failed.items()]
    if failed:
        notes.append(Text(f"Failed runs, which are results too: {'; '.join(failed)}", "dim"))
    return notes


def _table(*columns: str | tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        if isinstance(column, str):
            table.add_column(column)
        else:
            table.add_column(column[0], justify="right", no_wrap=True)
    return table


def _who(link: Figures) -> Text:
    return Text.assemble((link.site.commune_name, "bold"), "\n", link.operator or link.link.name)


def _radio(link: Figures, rsrp_dbm: float | None) -> str:
    if link.radio is None or link.radio.technology is None:
        return "-"
    band = f" B{link.radio.band}" if link.radio.band is not None else ""
    level = f"\n{rsrp_dbm:.0f} dBm" if rsrp_dbm is not None else ""
    return link.radio.technology.value.upper() + band + level


def _pair(down: float | None, up: float | None) -> str:
    return "/".join("-" if value is None else f"{value:.1f}" for value in (down, up))
