"""What is where: the probes' own truth against the journal and InfluxDB, by token and by number."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from collector.instants import microseconds
from lab.torture import evidence
from lab.torture.stand import DATABASE

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from lab.torture.stand import Stand, Writer

Number = tuple[str, str, int]
"""A result's identity: probe_id, spool_id, seq."""


class Truth(NamedTuple):
    """One writer's: the tokens begun, those that the spool took, when it deferred which, and the numbers acknowledged.

    Numbers are (spool_id, seq), times those of the monotonic clock in s.
    """

    begun: set[int]
    made: set[int]
    deferred: dict[int, float]
    acked: set[tuple[str, int]]


class Held(NamedTuple):
    """What the journal holds: each token so often, each number's token and begin in µs, and reports of damage.

    What a spool says of itself has no token; minus its row's id stands for it.
    """

    tokens: Counter[int]
    numbers: dict[Number, tuple[int, int]]
    again: set[Number]
    damage_told: Counter[str]


class Seen(NamedTuple):
    """What InfluxDB holds: each token so often, and which numbers."""

    tokens: Counter[int]
    numbers: set[Number]


class Verdict(msgspec.Struct):
    """What was found. `lost`, `late` and `doubled` are tokens; `broken` counts numbers acknowledged and not journalled.

    `late`: not there when all was settled, but soon afterwards. Somebody said "done" who was not.
    """

    made: int = 0
    journalled: int = 0
    lost: set[int] = msgspec.field(default_factory=set)
    late: set[int] = msgspec.field(default_factory=set)
    doubled: set[int] = msgspec.field(default_factory=set)
    broken: int = 0
    evidence: list[str] = msgspec.field(default_factory=list)


class _Peek(msgspec.Struct):
    """As much of a result as it takes to know it."""

    elapsed_s: float = 0.0


_LATE_WITHIN_S: Final = 10.0
"""What is missing is looked for again and again for so long: it is late, or lost."""
_LOOK_AGAIN_S: Final = 0.2
_peek = msgspec.json.Decoder(_Peek)


def truth(writer: Writer) -> Truth:
    """Read what a writer wrote down."""
    begun, made, deferred, acked = set[int](), set[int](), dict[int, float](), set[tuple[str, int]]()
    for line in writer.truth.read_text().splitlines() if writer.truth.exists() else ():
        match line.split():
            case ["b", token]:
                begun.add(int(token))
            case ["m", token, _, _]:
                made.add(int(token))
            case ["d", token, at_s]:
                made.add(int(token))
                deferred[int(token)] = float(at_s)
            case ["a", spool_id, first, last]:
                acked.update((spool_id, seq) for seq in range(int(first), int(last) + 1))
    return Truth(begun, made, deferred, acked)


def last_commits(writer: Writer) -> set[int]:
    """Name what the spool's last two commits held at most: the last two results not deferred, and those beside them."""
    commits, since = [set[int](), set[int]()], set[int]()
    for line in writer.truth.read_text().splitlines():
        match line.split():
            case ["d", token, _]:
                since.add(int(token))
            case ["m", token, _, _]:
                commits, since = [commits[1], since | {int(token)}], set()
    return commits[0] | commits[1] | since


def next_token(writer: Writer) -> int:
    """Name the token that a writer will give next."""
    return max(truth(writer).begun, default=writer.first_token - 1) + 1


def token(payload: bytes) -> int:
    """Read a result's token; 0 where it has none."""
    return int(_peek.decode(payload).elapsed_s)


def journal(path: Path) -> Held:
    """Read all of the journal."""
    held = Held(Counter(), {}, set(), Counter())
    query = "SELECT id, probe_id, spool_id, seq, kind, started_us, payload FROM results NATURAL JOIN spools"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        for id_, probe_id, spool_id, seq, kind, started_us, payload in db.execute(query):
            its_token = token(payload) or -id_
            held.numbers[probe_id, spool_id, seq] = its_token, started_us
            held.tokens[its_token] += 1
            if kind == "damaged":
                held.damage_told[probe_id] += 1
        held.again.update(db.execute("SELECT probe_id, spool_id, seq FROM renumbered NATURAL JOIN spools"))
    return held


def influx(stand: Stand, since_us: int) -> Seen:
    """Read which results have points whose time is not before `since_us`."""
    query = f"SELECT elapsed_s, seq, spool_id, probe FROM /.*/ WHERE time >= {since_us * 1000}"  # noqa: S608  # a number
    rows = [row for row in stand.influx.query(query, DATABASE) if row["seq"] is not None]
    return Seen(
        Counter(token for row in rows if (token := int(row["elapsed_s"] or 0))),
        {(row["probe"], row["spool_id"], row["seq"]) for row in rows},
    )


def look(stand: Stand, since: datetime, first_tokens: dict[str, int], excused: set[int], counted: set[int]) -> Verdict:
    """Compare the stations once all is settled; of InfluxDB only what began since. Count what has tokens from then on.

    `excused` tokens may be missing in the journal: they were on a card that is gone, or were destroyed; what is in the
    journal must be in InfluxDB. `counted` ones were told of.
    What is missing at first sight is looked for again, and is in `late` if it comes.
    """
    began_s = time.monotonic()
    verdict = _look(stand, since, first_tokens, excused, counted)
    said = evidence.of(stand, verdict.lost | verdict.doubled)
    missing = verdict.lost
    while verdict.lost and time.monotonic() - began_s < _LATE_WITHIN_S:
        time.sleep(_LOOK_AGAIN_S)
        verdict = _look(stand, since, first_tokens, excused, counted)
    if missing:
        verdict.late = missing - verdict.lost
        waited_s = time.monotonic() - began_s
        said.append(f"{waited_s:.1f} s later {len(verdict.late)} have come: {sorted(verdict.late)}")
        said += evidence.of(stand, verdict.lost)
    verdict.evidence = said
    return verdict


def _look(stand: Stand, since: datetime, first_tokens: dict[str, int], excused: set[int], counted: set[int]) -> Verdict:
    verdict = Verdict()
    since_us = microseconds(since)
    held = journal(stand.journal_file)
    seen = influx(stand, since_us)
    verdict.lost = {
        token for number, (token, us) in held.numbers.items() if us >= since_us and number not in seen.numbers
    } - counted
    for writer in (*stand.writers, *stand.gone):
        known = truth(writer)
        fresh = {token for token in known.made if token >= first_tokens.get(writer.name, 0)}
        verdict.made += len(fresh)
        verdict.journalled += sum(held.tokens[token] > 0 for token in fresh)
        verdict.lost |= {token for token in known.made if held.tokens[token] == 0} - excused - counted
        twice = {token for token in known.begun if held.tokens[token] > 1 or seen.tokens[token] > 1}
        verdict.doubled |= twice - counted
        journalled = held.numbers.keys() | held.again
        verdict.broken += sum((writer.probe_id, *number) not in journalled for number in known.acked)
    return verdict
