from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from collector_helpers import START, result, wait_until

from base.durable import StorageError
from collector.instants import microseconds
from collector.intake import Arrival, Intake
from collector.journal import Batch, Entry, Journal, ProbeStatus, Row
from collector.lock import JournalLock
from collector.quarantine import Cause, Parked, Stage
from wire import codec
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator


def entry(seq: int, *, spool: str = "s1", probe: str = "p1", **changes: object) -> Entry:
    payload = codec.encode(result(seq, spool=spool, probe=probe, **changes))
    intake = Intake()
    intake.take(Arrival(f"probefleet/v1/{probe}/result", payload, len(payload)))
    return intake.results[0]


def parked(text: bytes, cause: Cause = Cause.UNDECODABLE) -> Parked:
    return Parked(Stage.INTAKE, "probefleet/v1/p1/result", cause, "bad", text, len(text))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


def quarantined(journal: Journal) -> list[tuple[str, int]]:
    return list(journal.connection.execute("SELECT reason, times FROM quarantine ORDER BY id"))


def test_what_was_appended_reads_back_in_order_after_reopening(journal: Journal) -> None:
    entries = [entry(seq) for seq in (3, 1, 2)]
    assert journal.append(Batch(received_us=1, results=entries)) == []
    journal.close()
    assert [row.payload for row in journal.read(0, 10)] == [one.payload for one in entries]
    assert journal.read(2, 10) == [Row(3, entries[2].payload)]


def test_the_same_result_again_is_ignored(journal: Journal) -> None:
    for _ in range(3):
        assert journal.append(Batch(received_us=1, results=[entry(1), entry(1), entry(2)])) == []
    assert len(journal.read(0, 10)) == 2
    assert quarantined(journal) == []


def test_the_ids_of_what_was_appended_are_known_where_all_of_it_was_new(journal: Journal) -> None:
    for first, last in ((1, 3), (4, 253), (254, 254)):
        some = [entry(seq) for seq in range(first, last + 1)]
        journal.append(Batch(received_us=1, results=some, parked=[parked(b"x%d" % first)]))
        assert [row.id for row in journal.read(first - 1, len(some))] == list(journal.new_ids)
        assert [row.payload for row in journal.read(journal.new_ids[0] - 1, len(some))] == [one.payload for one in some]
    for others in ([entry(254), entry(255)], []):
        journal.append(Batch(received_us=1, results=others))
        assert not journal.new_ids


def test_a_number_is_free_again_in_another_spool_and_for_another_probe(journal: Journal) -> None:
    assert journal.append(Batch(received_us=1, results=[entry(1), entry(1, spool="s2"), entry(1, probe="p2")])) == []
    assert len(journal.read(0, 10)) == 3


def test_another_result_under_a_taken_number_goes_to_quarantine_and_what_stands_stays(journal: Journal) -> None:
    first, second = entry(1), entry(1, elapsed_s=99.0)
    journal.append(Batch(received_us=1, results=[first]))
    assert journal.append(Batch(received_us=2, results=[second, entry(2)])) == [second]
    assert [row.payload for row in journal.read(0, 10)] == [first.payload, entry(2).payload]
    assert quarantined(journal) == [("conflict", 1)]


def test_another_spelling_of_the_same_content_is_the_same_result(journal: Journal) -> None:
    one = entry(1)
    journal.append(Batch(received_us=1, results=[one]))
    spaced = one._replace(payload=one.payload.replace(b'":', b'": '))
    assert journal.append(Batch(received_us=2, results=[spaced])) == []


def test_a_conflict_in_parts_that_cannot_be_read_is_still_only_a_conflict(journal: Journal) -> None:
    one = entry(1)
    odd = one._replace(payload=one.payload[:-1] + b',"x":"\\ud800"}')
    journal.append(Batch(received_us=1, results=[one]))
    assert journal.append(Batch(received_us=2, results=[odd])) == [odd]


def test_a_batch_is_stored_whole_or_not_at_all(journal: Journal) -> None:
    broken = entry(2)._replace(payload=None)  # type: ignore[arg-type]  # what a bug might do
    with pytest.raises(Exception, match=r"NoneType|NOT NULL"):
        journal.append(Batch(received_us=1, results=[entry(1)], parked=[broken]))  # type: ignore[list-item]  # as above
    assert journal.read(0, 10) == []
    journal.append(Batch(received_us=1, results=[entry(1)]))
    assert len(journal.read(0, 10)) == 1


def test_the_quarantine_keeps_the_beginning_and_counts_repeats_on_one_row(journal: Journal) -> None:
    for _ in range(5):
        journal.append(Batch(received_us=1, parked=[parked(b"x" * 100_000)]))
    assert quarantined(journal) == [("undecodable", 5)]
    kept = journal.connection.execute("SELECT length(payload), payload_bytes FROM quarantine").fetchone()
    assert kept == (4096, 100_000)


def test_a_full_quarantine_counts_what_it_does_not_keep(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db", quarantine_max_bytes=10_000) as journal:
        for number in range(20):
            journal.append(Batch(received_us=1, parked=[parked(b"%d" % number * 5000)]))
        assert len(quarantined(journal)) == 3
        rows = journal.connection.execute("SELECT stage, reason, times FROM not_kept").fetchall()
        assert rows == [("intake", "undecodable", 17)]


def test_each_sink_has_a_cursor_of_its_own(journal: Journal) -> None:
    journal.park(1, [], sink="a", cursor=7)
    journal.park(1, [], sink="a", cursor=9)
    assert (journal.cursor("a"), journal.cursor("b")) == (9, 0)


def test_the_newest_status_of_a_probe_is_kept_and_an_old_one_changes_nothing(journal: Journal) -> None:
    now_us = microseconds(START + timedelta(days=2))
    old, new = (
        ProbeStatus("p1", codec.encode(Status(probe_id="p1", online=online, at=START + timedelta(days=online))))
        for online in (False, True)
    )
    for second, (status, news) in enumerate([(old, {old}), (new, {new}), (old, set()), (new, set())]):
        journal.append(Batch(received_us=now_us + second, statuses=[status]))
        assert journal.news == news
    assert journal.connection.execute("SELECT * FROM probes").fetchall() == [("p1", now_us + 1, new.payload)]


def test_a_choice_of_results_goes_by_start_and_probe(journal: Journal) -> None:
    journal.append(Batch(received_us=1, results=[entry(1), entry(2), entry(3), entry(4, probe="p2")]))
    since, until = entry(2).started_us, entry(4).started_us + 1
    assert [row.id for row in journal.select(0, 9, since_us=since, until_us=until)] == [2, 3, 4]
    assert [row.id for row in journal.select(0, 9, since_us=since, until_us=until, probe_id="p2")] == [4]
    assert journal.count(since_us=since, until_us=until - 1) == 2


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StorageError, match="newer version"):
        Journal(path)


def test_a_journal_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has the collector run"):
        Journal(tmp_path / "journal.db", read_only=True)


def test_a_file_that_holds_no_journal_is_said_to_hold_none(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty.db", tmp_path / "other.db"
    empty.touch()
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE letters (text)")
    for path in (empty, other):
        with pytest.raises(StorageError, match=r"holds no journal; name the collector's \(journal.path"):
            Journal(path, read_only=True)
    assert not empty.stat().st_size


def test_reading_an_empty_file_leaves_the_log_beside_it(tmp_path: Path) -> None:
    path, log = tmp_path / "journal.db", tmp_path / "journal.db-wal"
    with Journal(tmp_path / "live.db") as journal:
        journal.append(Batch(received_us=1, results=[entry(1)]))
        shutil.copy(tmp_path / "live.db-wal", log)
    path.touch()
    before = log.read_bytes()
    with pytest.raises(StorageError, match="probe-collector salvage"):
        Journal(path, read_only=True).count(since_us=0, until_us=1)
    assert log.read_bytes() == before


@pytest.mark.root
def test_a_folder_that_one_may_not_enter_is_said_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    tmp_path.chmod(0o750)
    os.seteuid(65534)
    try:
        for opening in (lambda: Journal(path, read_only=True), lambda: Journal(path), lambda: JournalLock(path)):
            with pytest.raises(StorageError, match=r"run this as the service's user or as root|check that the folder"):
                opening()
    finally:
        os.seteuid(0)


def test_a_file_that_is_no_journal_is_named_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database, just text of some length. " * 100)
    with pytest.raises(StorageError, match="damaged"):
        Journal(path)


def test_only_one_may_hold_the_lock(tmp_path: Path) -> None:
    with JournalLock(tmp_path / "journal.db"), pytest.raises(StorageError, match="another collector"):
        JournalLock(tmp_path / "journal.db")
    JournalLock(tmp_path / "journal.db").release()


def fill(journal: Journal) -> int:
    """Append pairs until the disk says no; return how many results were stored."""
    stored = 0
    with pytest.raises(StorageError, match="free some space"):  # noqa: PT012  # the moment is the disk's choice
        while True:
            journal.append(Batch(received_us=1, results=[entry(stored + 1), entry(stored + 2)]))
            stored += 2
    return stored


def test_a_full_database_refuses_whole_batches_and_takes_them_when_there_is_room(journal: Journal) -> None:
    (pages,) = journal.connection.execute("PRAGMA page_count").fetchone()
    journal.connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    stored = fill(journal)
    # The next use opens a connection anew, without the limit.
    assert len(journal.read(0, 10_000)) == stored
    journal.append(Batch(received_us=1, results=[entry(stored + 1), entry(stored + 2)]))
    assert len(journal.read(0, 10_000)) == stored + 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_stores_nothing_by_halves_and_a_read_only_one_says_so(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", mount], check=True)
    try:
        with Journal(mount / "journal.db") as journal:
            stored = fill(journal)
            subprocess.run(["mount", "-o", "remount,size=4m", mount], check=True)
            assert len(journal.read(0, 10_000)) == stored > 0
            journal.append(Batch(received_us=1, results=[entry(stored + 1)]))
            assert len(journal.read(0, 10_000)) == stored + 1
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        with pytest.raises(StorageError, match=r"make it writable|check that the folder"):
            Journal(mount / "journal.db")
        with pytest.raises(StorageError, match="make it writable"):
            JournalLock(mount / "journal.db")
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)  # a failed test may still hold a file


APPEND_FOR_EVER = """
import sys, pathlib, os
sys.path.insert(0, sys.argv[1])
from collector_helpers import result
from collector.instants import microseconds
from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal
from wire import codec
journal, told = Journal(pathlib.Path(sys.argv[2])), open(sys.argv[3], "ab", buffering=0)
(last,) = journal.connection.execute("SELECT COALESCE(MAX(seq), 0) FROM results").fetchone()
while True:
    intake = Intake()
    for last in range(last + 1, last + 4):
        payload = codec.encode(result(last))
        intake.take(Arrival("probefleet/v1/p1/result", payload, len(payload)))
    journal.append(Batch(received_us=1, results=intake.results))
    told.write(b"%d\\n" % last)
"""


def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.touch()
    for round_ in range(4):
        enough = told.stat().st_size + 1 + 7 * round_
        arguments = [str(Path(__file__).parent), str(tmp_path / "journal.db"), str(told)]
        with subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, *arguments]) as child:
            wait_until(lambda enough=enough: told.stat().st_size > enough)
            child.kill()
    acknowledged = int(told.read_text().splitlines()[-1])
    with Journal(tmp_path / "journal.db") as journal:
        stored = [codec.decode_result(row.payload).seq for row in journal.read(0, 1_000_000)]
    assert stored == list(range(1, len(stored) + 1)), "in order, no holes, nothing twice"
    assert len(stored) >= acknowledged
    assert len(stored) % 3 == 0
