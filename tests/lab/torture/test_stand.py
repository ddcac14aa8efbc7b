"""The stand says "settled" when all is done and not before; what is missing is told in full, late or lost."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from lab.torture import evidence, judge, known
from lab.torture.stand import DATABASE, Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.journey

PATIENCE_S = 30.0
SLOW_S = 1.5


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Stand(random.Random(1), per_s=25.0) as entered:
        yield entered


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def looked(stand: Stand, *excused: int) -> judge.Verdict:
    return judge.look(stand, datetime.now(UTC) - timedelta(minutes=5), {}, set(excused), set())


def test_what_a_killed_probe_had_deferred_is_waited_for_until_it_is_in_influxdb(stand: Stand) -> None:
    writer = stand.writers[0]

    def deferred_alone() -> bool:
        last = writer.truth.read_bytes().splitlines()[-1:]
        return last != [] and last[0].startswith(b"d ") and writer.backlog() == 0

    stand.go_on()
    until(deferred_alone)
    writer.program.kill()
    command = writer.program._command
    writer.program._command = ["sh", "-c", f'sleep {SLOW_S}; exec "$@"', "slow", *command]  # a busy machine
    writer.program.start()
    assert stand.settle() == []
    writer.program._command = command
    verdict = looked(stand)
    assert verdict.made > 0
    assert (verdict.lost, verdict.late, verdict.doubled, verdict.evidence) == (set(), set(), set(), [])


def test_a_point_that_is_missing_is_lost_and_everything_known_of_it_is_told(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "_LATE_WITHIN_S", 0.5)
    token, number, time_ns = gone(stand)
    verdict = looked(stand, token)  # a fault may cost it before the journal has it, not afterwards
    assert (verdict.lost, verdict.late) == ({token}, set())
    said = "\n".join(verdict.evidence)
    assert f"result {token}:" in said
    assert f"number {number}, received at" in said
    assert f"{time_ns}; other rows that may have this key: none" in said
    assert "refused by InfluxDB: no" in said
    assert "InfluxDB under its key: nothing" in said
    assert "writer's mark: " in said
    assert "0 have come" in said


def test_a_point_that_comes_afterwards_is_late_and_not_lost(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _, _ = gone(stand)
    found = evidence.of

    def meanwhile(stand: Stand, tokens: set[int]) -> list[str]:
        said = found(stand, tokens)
        with contextlib.closing(sqlite3.connect(stand.journal_file, timeout=10)) as db, db:
            db.execute("UPDATE cursors SET result_id = 0")  # the collector's writer writes all of it again
        return said

    monkeypatch.setattr(evidence, "of", meanwhile)
    verdict = looked(stand)
    assert verdict.lost == set()
    assert token in verdict.late
    assert f"result {token}:" in "\n".join(verdict.evidence)


def test_probes_say_that_their_clocks_are_set_as_real_ones_do(stand: Stand) -> None:
    said = known.statuses(stand.journal_file).values()
    assert {status.clock.synchronised for status in said} == {True}


def gone(stand: Stand) -> tuple[int, int, int]:
    """Make some results, then take a point out of InfluxDB behind everybody's back; return its token, number, time."""
    stand.go_on()
    until(lambda: len(stand.influx.query("SELECT seq FROM radio", DATABASE)) > 0)
    assert stand.settle() == []
    one = stand.influx.query("SELECT elapsed_s, seq FROM radio LIMIT 1", DATABASE)[0]
    stand.influx.query(f"DELETE FROM radio WHERE time = {one['time']}", DATABASE)  # noqa: S608  # a number
    return int(one["elapsed_s"]), one["seq"], one["time"]
