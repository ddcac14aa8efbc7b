"""What the journal holds, counted: per probe results, span, kinds and holes; quarantine by reason; how far sinks are.

Reads only, so it may run beside the collector. A hole is a number of a spool that was never stored though a higher one
was: seq starts at 1 and never repeats.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from base import durable
from collector import renumbered, spans
from collector.instants import moment

if TYPE_CHECKING:
    from collector.journal import Journal

MAX_RANGES: Final = 20
"""How many holes of a probe are listed; all are counted."""


class _Online(msgspec.Struct):
    online: bool = False


class ProbeStats(msgspec.Struct):
    """One probe. `missing` counts numbers, `holes` are the first closed ranges of them as (spool_id, first, last)."""

    results: int = 0
    first: datetime | None = None
    last: datetime | None = None
    kinds: dict[str, int] = {}
    missing: int = 0
    holes: list[tuple[str, int, int]] = []
    online: bool | None = None
    status_received: datetime | None = None


class QuarantineStats(msgspec.Struct):
    """How often something was stopped at this stage for this reason, and how often without keeping it (no room)."""

    stage: str
    reason: str
    times: int
    not_kept: int


class SinkStats(msgspec.Struct):
    """How far one sink has come, and how many results it has still to take."""

    sink: str
    result_id: int
    behind: int


class Stats(msgspec.Struct):
    """Everything that `probe-collector stats` says."""

    results: int
    probes: dict[str, ProbeStats]
    quarantine: list[QuarantineStats]
    sinks: list[SinkStats]


def collect(journal: Journal) -> Stats:
    """Count; raise StorageError."""
    try:
        connection = journal.connection
        connection.execute("BEGIN")  # one view of all tables
        try:
            probes = _probes(connection)
            return Stats(
                results=sum(probe.results for probe in probes.values()),
                probes=dict(sorted(probes.items())),
                quarantine=_quarantine(connection),
                sinks=_sinks(connection),
            )
        finally:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise durable.explain(journal.path, error) from error


def table(stats: Stats) -> str:
    """Write the counts for people."""
    kinds = sorted({kind for probe in stats.probes.values() for kind in probe.kinds})
    rows = [["probe", "state", "results", *kinds, "missing", "first", "last"]]
    rows += [
        [
            probe_id,
            {True: "online", False: "offline", None: "-"}[probe.online],
            str(probe.results),
            *(str(probe.kinds.get(kind, 0)) for kind in kinds),
            str(probe.missing),
            _short(probe.first),
            _short(probe.last),
        ]
        for probe_id, probe in stats.probes.items()
    ]
    parts = [_columns(rows), f"{stats.results} results of {len(stats.probes)} probes"]
    for probe_id, probe in stats.probes.items():
        if probe.holes:
            ranges = ", ".join(f"{first}-{last}" if last > first else str(first) for _, first, last in probe.holes)
            parts.append(f"missing of {probe_id}: {ranges}{', ...' if len(probe.holes) == MAX_RANGES else ''}")
    if stats.quarantine:
        rows = [["quarantined at", "because", "times", "of these not kept"]]
        rows += [[one.stage, one.reason, str(one.times), str(one.not_kept)] for one in stats.quarantine]
        parts.append(_columns(rows))
    if stats.sinks:
        parts.append(_columns([["sink", "behind"], *([sink.sink, str(sink.behind)] for sink in stats.sinks)]))
    return "\n\n".join(parts)


def _columns(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _short(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}" if at else "-"


def _probes(connection: sqlite3.Connection) -> dict[str, ProbeStats]:
    probes: dict[str, ProbeStats] = {}
    counts = connection.execute(
        "SELECT probe_id, kind, COUNT(*), MIN(started_us), MAX(started_us)"
        " FROM results NATURAL JOIN spools GROUP BY probe_id, kind"
    )
    for probe_id, kind, results, first_us, last_us in counts:
        probe = probes.setdefault(probe_id, ProbeStats())
        probe.results += results
        probe.kinds[kind] = results
        probe.first = min(probe.first or moment(first_us), moment(first_us))
        probe.last = max(probe.last or moment(last_us), moment(last_us))
    holes = connection.execute(
        "SELECT spool, probe_id, spool_id, before + 1, seq - 1 FROM ("
        " SELECT spool, seq, LAG(seq, 1, 0) OVER (PARTITION BY spool ORDER BY seq) AS before FROM results"
        ") NATURAL JOIN spools WHERE seq > before + 1 ORDER BY probe_id, spool, seq"
    )
    again = renumbered.again(connection)
    for spool, probe_id, spool_id, *hole in holes:
        probe = probes[probe_id]
        for first, last in spans.without([(hole[0], hole[1])], again.get(spool, [])):
            probe.missing += last - first + 1
            if len(probe.holes) < MAX_RANGES:
                probe.holes.append((spool_id, first, last))
    for probe_id, received_us, status in connection.execute("SELECT probe_id, received_us, status FROM probes"):
        probe = probes.setdefault(probe_id, ProbeStats())
        probe.status_received = moment(received_us)
        probe.online = says_online(status)
    return probes


def says_online(status: bytes) -> bool:
    """Whether a kept status says that its probe is there; reads no more of it than intake has proved readable."""
    return msgspec.json.decode(status, type=_Online).online


def _quarantine(connection: sqlite3.Connection) -> list[QuarantineStats]:
    rows = connection.execute(
        "SELECT stage, reason, SUM(kept + lost), SUM(lost) FROM ("
        " SELECT stage, reason, times AS kept, 0 AS lost FROM quarantine"
        " UNION ALL SELECT stage, reason, 0, times FROM not_kept"
        ") GROUP BY stage, reason ORDER BY stage, reason"
    )
    return [QuarantineStats(*row) for row in rows]


def _sinks(connection: sqlite3.Connection) -> list[SinkStats]:
    rows = connection.execute(
        "SELECT sink, result_id, (SELECT COUNT(*) FROM results WHERE id > result_id) FROM cursors ORDER BY sink"
    )
    return [SinkStats(*row) for row in rows]
