"""All that can be known of a result that is not where it has to be, taken down at once, so that it proves something.

Where it was made, where it lies in the journal and since when, how far the writer said it was, what InfluxDB has under
the point's own key and under the result's token, who else has that key, and whether the database had refused it.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from collector import points
from collector.instants import microseconds
from lab.servers import ServerError
from lab.torture.stand import DATABASE
from wire import codec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.torture.stand import Stand

_SERIES: Final = re.compile(r"(?:\\.|[^ \\])*")
_LOG_LINES: Final = 12
_AT_MOST: Final = 5
"""Results that are told of in full."""


class Key(NamedTuple):
    """What InfluxDB knows a point by: measurement and tags as they travel, and the time."""

    series: str
    time_ns: int


def key(line: str) -> Key:
    """Read a point's key from its line."""
    found = _SERIES.match(line)
    return Key(found[0] if found else "", int(line.rpartition(" ")[2]))


def of(stand: Stand, tokens: Iterable[int]) -> list[str]:
    """Take down what is known of each token (minus a row of the journal, for what has none), and InfluxDB's log."""
    wanted = sorted(tokens)
    said = [line for token in wanted[:_AT_MOST] for line in _of_one(stand, token)]
    if wanted[_AT_MOST:]:
        said.append(f"and the results {wanted[_AT_MOST:]}")
    log = stand.influx.log_tail(_LOG_LINES) or "nothing"
    return [*said, f"InfluxDB's log until {_clock(_now_us())}: {log}"] if said else []


def _of_one(stand: Stand, token: int) -> list[str]:
    said = [f"result {token}:"]
    for writer in (*stand.writers, *stand.gone):
        lines = writer.truth.read_text().splitlines() if writer.truth.exists() else []
        about = "; ".join(line for line in lines if line.split()[1:2] == [str(token)])
        said += [f"  {writer.name} noted: {about}"] if about else []
    try:
        with contextlib.closing(sqlite3.connect(f"file:{stand.journal_file}?mode=ro", uri=True, timeout=10)) as db:
            said += _in_the_journal(stand, db, token)
    except sqlite3.Error as error:
        said.append(f"  journal: {error}")
    return [*said, f"  InfluxDB under its token: {_asked(stand, f'elapsed_s = {token}')}"]


def _in_the_journal(stand: Stand, db: sqlite3.Connection, token: int) -> list[str]:
    where = "id = -?" if token < 0 else "json_extract(CAST(payload AS TEXT), '$.elapsed_s') = ?"
    rows = db.execute(
        f"SELECT id, spool, seq, started_us, received_us, payload FROM results WHERE {where}",  # noqa: S608  # ours
        (token,),
    ).fetchall()
    marks = [f"{id_} of {sink}, moved at {_clock(us)}" for sink, id_, us in db.execute("SELECT * FROM cursors")]
    (last,) = db.execute("SELECT MAX(id) FROM results").fetchone()
    said = [f"  writer's mark: {', '.join(marks) or 'none'}; the journal's last row is {last}"]
    if not rows:
        said.append("  journal: not there")
    for id_, spool, seq, started_us, received_us, payload in rows:
        at = key(points.line(codec.decode_result(payload)))
        beside = db.execute(
            "SELECT id, seq FROM results WHERE started_us = ? AND seq % 1000 = ? AND id != ?",
            (started_us, seq % 1000, id_),
        ).fetchall()
        parked = db.execute("SELECT detail FROM quarantine WHERE stage = 'sink' AND payload = ?", (payload,)).fetchall()
        said += [
            f"  journal: row {id_}, spool {spool}, number {seq}, received at {_clock(received_us)}",
            f"  its point: {at.series} at {at.time_ns}; other rows that may have this key: {beside or 'none'}",
            f"  refused by InfluxDB: {parked or 'no'}",
            f"  InfluxDB under its key: {_asked(stand, f'time = {at.time_ns}')}",
        ]
    return said


def _asked(stand: Stand, where: str) -> str:
    query = f"SELECT elapsed_s, seq, spool_id FROM /.*/ WHERE {where}"  # noqa: S608  # a number
    try:
        found = stand.influx.query(query, DATABASE)
    except (OSError, ServerError) as error:
        return str(error)
    return ", ".join(f"{row['spool_id']} {row['seq']} at {row['time']}" for row in found) or "nothing"


def _clock(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%H:%M:%S.%f}"


def _now_us() -> int:
    return microseconds(datetime.now(UTC))
