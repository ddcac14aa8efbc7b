from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
from collector_helpers import failed, result

from base.durable import StorageError
from collector import salvage
from collector.instants import microseconds
from collector.intake import entry_of
from collector.journal import Batch, Entry, Journal
from wire import codec

if TYPE_CHECKING:
    from pathlib import Path

    from wire.results import Result


def entry(seq: int) -> Entry:
    one = result(seq) if seq % 3 else failed(seq)
    kind = str(type(one.outcome).__struct_config__.tag)
    return Entry(one.probe_id, one.spool_id, seq, kind, microseconds(one.started_at), codec.encode(one))


def left_by_a_crash(path: Path, count: int) -> None:
    """Leave a journal with a log, as after a crash."""
    live = path.with_name("live.db")
    with Journal(live) as journal:
        for seq in range(1, count + 1, 5):
            journal.append(Batch(received_us=1000 + seq, results=[entry(n) for n in range(seq, seq + 5)]))
        for suffix in ("", "-wal"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")


def rescued(path: Path) -> dict[int, bytes]:
    with Journal(path, read_only=True) as journal:
        return dict(journal.connection.execute("SELECT seq, payload FROM results").fetchall())


@pytest.mark.parametrize("seed", range(4))
def test_what_can_be_read_of_a_damaged_journal_is_in_the_new_one(tmp_path: Path, seed: int) -> None:
    damaged = tmp_path / "journal.db"
    left_by_a_crash(damaged, 1000)
    chance = random.Random(seed)
    content = bytearray(damaged.read_bytes())
    page = chance.randrange(len(content) // 4096) * 4096
    content[page : page + 4096] = chance.randbytes(4096)
    damaged.write_bytes(content)
    saved = salvage.salvage(damaged, tmp_path / "new.db")
    found = rescued(tmp_path / "new.db")
    assert saved.results == len(found) >= 1000 - 30
    assert all(payload == entry(seq).payload for seq, payload in found.items())
    assert damaged.read_bytes() == content


def test_a_collector_does_not_start_on_a_log_that_breaks_off_in_the_middle(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    salvage.refuse_damaged(journal)
    left_by_a_crash(journal, 300)
    salvage.refuse_damaged(journal)
    wal = journal.with_name("journal.db-wal")
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 1
    wal.write_bytes(content)
    with pytest.raises(StorageError, match="probe-collector salvage"):
        salvage.refuse_damaged(journal)
    assert salvage.salvage(journal, tmp_path / "new.db").results >= 290


def test_a_journal_that_is_empty_beside_its_log_is_not_opened(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    left_by_a_crash(journal, 50)
    journal.write_bytes(b"")
    with pytest.raises(StorageError, match="damaged"):
        salvage.refuse_damaged(journal)
    assert salvage.salvage(journal, tmp_path / "new.db").results == 50
    with pytest.raises(StorageError, match="exists"):
        salvage.salvage(journal, tmp_path / "new.db")


@pytest.mark.parametrize("kind", ["folder", "missing", "empty", "other"])
def test_what_holds_no_result_leaves_no_new_journal(tmp_path: Path, kind: str) -> None:
    damaged, new = tmp_path / "damaged", tmp_path / "new.db"
    if kind == "folder":
        damaged.mkdir()
    elif kind != "missing":
        damaged.write_bytes(b"" if kind == "empty" else b"no database " * 1000)
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(StorageError, match="damaged: "):
            salvage.salvage(damaged, new)
    assert sorted(tmp_path.iterdir()) == before


def test_a_rescue_that_breaks_off_leaves_no_new_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "journal.db"
    left_by_a_crash(damaged, 50)
    before = sorted(tmp_path.iterdir())

    def stopped(result: Result, payload: bytes) -> Entry:
        if result.seq > 40:
            raise KeyboardInterrupt
        return entry_of(result, payload)

    monkeypatch.setattr(salvage, "entry_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        salvage.salvage(damaged, tmp_path / "new.db")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_written_beside_a_log_that_stands_alone(tmp_path: Path) -> None:
    lost = tmp_path / "journal.db"
    left_by_a_crash(lost, 50)
    lost.unlink()
    with pytest.raises(StorageError, match=r"journal\.db-wal: exists"):
        salvage.salvage(lost, lost)
    assert salvage.salvage(lost, tmp_path / "new.db").results == 50
