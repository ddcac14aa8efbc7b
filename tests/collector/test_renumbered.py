"""A result that comes under another number than its first is known again, and its numbers leave no holes."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta
from itertools import permutations
from typing import TYPE_CHECKING

import msgspec
import pytest
from collector_helpers import START, Collector, Probe, collector_config, journalled, message, radio, result, wait_until

from collector import gaps, points, salvage, stats
from collector.acks import Acks
from collector.asking import Asker
from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal
from collector.settings import ResendSettings
from wire import codec, topics
from wire.results import Number, Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.servers import Influxd, Mosquitto
    from wire.delivery import Ack

HOLDER = result(7, elapsed_s=1.0)  # whoever came first under number 7 of spool s1
MOVED = result(7, elapsed_s=2.0, started_at=START + timedelta(hours=1))  # another one that had this number too


def moved(seq: int, spool: str = "s2", one: Result = MOVED) -> Result:
    """Give a result another number than its first."""
    formerly = Number(spool_id=one.spool_id, seq=one.seq)
    return msgspec.structs.replace(one, spool_id=spool, seq=seq, formerly=formerly)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db", fsync=False) as journal:
        yield journal


def store(journal: Journal, *results: Result) -> list[Ack]:
    """Store results that come in one message; return what is said of them."""
    intake = Intake()
    for one in results:
        intake.take(Arrival(topics.topic(one.probe_id, topics.RESULT), codec.encode(one), 0))
    said = Acks()
    said.note(intake, journal.append(Batch(received_us=5, results=intake.results)))
    return [ack for _, ack in said.take()]


def stored(journal: Journal) -> list[Result]:
    return [codec.decode_result(row.payload) for row in journal.read(0, 100)]


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_in_any_order_it_is_stored_once_and_never_refused_twice(journal: Journal, order: tuple[int, ...]) -> None:
    comers = [HOLDER, MOVED, moved(1), moved(4, "s3")]
    said = [store(journal, comers[place]) for place in order]
    held = stored(journal)
    first = order.index(0) < order.index(1)  # else number 7 is the moved one's, and the other one is refused
    assert [one.elapsed_s for one in held].count(2.0) == 1
    assert [one.elapsed_s for one in held].count(1.0) == 1 or not first
    for place, acknowledgements in zip(order, said, strict=True):
        (ack,) = acknowledgements
        if place > 1:
            assert ack.stored == ((comers[place].seq,) * 2,)
            assert ack.checks == codec.check(codec.encode(comers[place]))
    if first:
        (again,) = store(journal, MOVED)
        assert again.stored == ((7, 7),), "it is here, so its probe may let it go under its old number too"


def test_all_in_one_message_is_the_same_as_one_after_the_other(journal: Journal) -> None:
    store(journal, HOLDER, moved(1), MOVED, moved(1), moved(2), moved(9, "s3"))
    assert [(one.spool_id, one.seq) for one in stored(journal)] == [("s1", 7), ("s2", 1)]


def test_it_is_known_after_a_restart_and_after_a_transaction_that_failed(journal: Journal) -> None:
    store(journal, HOLDER, moved(1))
    journal.close()
    assert store(journal, moved(3, "s4"), MOVED)[0].stored == ((3, 3),)
    with pytest.raises(Exception, match=r"NoneType|NOT NULL"):
        journal.append(
            Batch(received_us=1, results=[salvage.entry_of(moved(4), codec.encode(moved(4)))], parked=[None])
        )  # type: ignore[list-item]  # what a bug might do
    assert store(journal, moved(4))[0].stored == ((4, 4),)
    assert len(stored(journal)) == 2


def test_other_contents_that_had_the_same_number_first_are_other_results(journal: Journal) -> None:
    others = [result(7, elapsed_s=float(number)) for number in range(3, 9)]
    store(journal, HOLDER, *(moved(seq, one=one) for seq, one in enumerate(others, 1)))
    assert len(stored(journal)) == 7
    fresh = result(7, elapsed_s=9.0)
    assert store(journal, moved(1, one=fresh))[0].refused[0].seq == 1, "a number that is taken stays taken"


def test_another_probe_may_say_what_it_likes(journal: Journal) -> None:
    store(journal, HOLDER, moved(1))
    stranger = msgspec.structs.replace(moved(1), probe_id="p2")
    store(journal, stranger)
    assert len(stored(journal)) == 3


def test_a_journal_that_is_salvaged_knows_it_too(tmp_path: Path) -> None:
    live, damaged, new = (tmp_path / name for name in ("live.db", "damaged.db", "new.db"))
    with Journal(live, fsync=False) as journal:
        store(journal, HOLDER)
        store(journal, moved(1))
        for suffix in ("", "-wal"):
            shutil.copy(f"{live}{suffix}", f"{damaged}{suffix}")
    assert salvage.salvage(damaged, new).results == 2
    with Journal(new, fsync=False) as journal:
        assert store(journal, moved(2), MOVED)[0].stored == ((2, 2),)
        assert len(stored(journal)) == 2


def test_two_collectors_with_a_journal_each_write_one_point(tmp_path: Path) -> None:
    with Journal(tmp_path / "one.db", fsync=False) as one, Journal(tmp_path / "other.db", fsync=False) as other:
        store(one, HOLDER, MOVED, moved(1001))
        store(other, MOVED, moved(1002, "s3"))
        lines = [points.line(held) for journal in (one, other) for held in stored(journal) if held.elapsed_s == 2.0]
    assert len(lines) == 2, "each has it"
    keys = {(line.split(" ", 1)[0], line.rsplit(" ", 1)[1]) for line in lines}
    assert len(keys) == 1, "the same series and the same time"


def test_a_number_under_which_a_known_result_came_is_no_hole(journal: Journal) -> None:
    asker = Asker(Journal(journal.path, fsync=False), ResendSettings(after_s=0), lambda *_: True, lambda _: None)
    store(journal, HOLDER, moved(1))
    asker.step(time.time_ns() // 1000)
    store(journal, moved(1, "s3"), radio(4, spool="s3"))
    asker.step(time.time_ns() // 1000)
    fresh = Asker(Journal(journal.path, fsync=False), ResendSettings(after_s=0), lambda *_: True, lambda _: None)
    fresh.step(time.time_ns() // 1000)
    store(journal, moved(2, "s3"), moved(6, "s3"), radio(7, spool="s3"))
    expected = [("s1", 1, 6), ("s3", 3, 3), ("s3", 5, 5)]
    assert [(hole.spool_id, hole.first, hole.last) for hole in gaps.collect(journal).holes] == expected
    assert stats.collect(journal).probes["p1"].holes == expected
    for one in (asker, fresh):
        one.step(time.time_ns() // 1000)
        holes = {(known.known.spool_id, *hole) for known in one._spools.values() for hole in known.known.holes}
        assert holes == set(expected)
        one._journal.close()


def test_lines_are_handed_over_only_where_every_result_was_stored(journal: Journal) -> None:
    store(journal, HOLDER)
    assert list(journal.new_ids) == [1]
    store(journal, moved(1), radio(9))
    assert not journal.new_ids, "the writer reads for itself what was stored"
    store(journal, moved(2), radio(10))
    assert not journal.new_ids


@pytest.mark.journey
def test_what_comes_under_three_numbers_is_one_row_and_one_point(
    broker: Mosquitto, influxd: Influxd, tmp_path: Path
) -> None:
    sink = {"kind": "influxdb1", "url": influxd.url, "database": "renumbered"}
    config = collector_config(tmp_path, broker, sink)
    with Probe(broker, "p1", tmp_path) as probe:
        with Collector(config, tmp_path / "journal.db"):
            probe.send(message(HOLDER, result(8)))
            wait_until(lambda: probe.acked() == {7, 8})
            probe.send(message(MOVED))
            wait_until(lambda: ("s1", 7) in probe.refused)
            probe.send(message(moved(1), result(9)))
            wait_until(lambda: probe.acked("s2") == {1})
        with Collector(config, tmp_path / "journal.db") as collector:  # started again
            probe.send(message(moved(2), moved(1, "s3"), MOVED, result(10)))
            wait_until(lambda: (probe.acked("s2"), probe.acked("s3")) == ({1, 2}, {1}))
            wait_until(lambda: 10 in probe.acked())
            query = "SELECT COUNT(seq) FROM throughput"
            wait_until(lambda: [row["count"] for row in influxd.query(query, "renumbered")] == [5])
            assert len(journalled(collector.journal)["p1"]) == 5
            assert list(probe.refused) == [("s1", 7)]


def test_what_was_never_given_another_number_pays_nothing_for_it() -> None:
    assert b"formerly" not in codec.encode(HOLDER)


def test_an_agent_that_does_not_say_what_it_was_first_is_taken_as_ever(journal: Journal) -> None:
    store(journal, HOLDER)
    silent = [msgspec.structs.replace(moved(seq), formerly=None) for seq in (1, 2)]
    assert [ack.stored for one in silent for ack in store(journal, one)] == [((1, 1),), ((2, 2),)]
    assert len(stored(journal)) == 3, "it cannot be known again"


def test_a_collector_that_does_not_know_what_it_was_first_reads_it_all_the_same() -> None:
    old = msgspec.defstruct(
        "Old", [(name, object) for name in ("probe_id", "spool_id", "seq", "started_at", "outcome")]
    )
    assert msgspec.json.decode(codec.encode(moved(3)), type=old).seq == 3  # type: ignore[attr-defined]  # made above
