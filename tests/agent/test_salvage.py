"""A damaged, an old or a copied spool: what can be read travels on, what cannot is told, nobody's number is taken."""

from __future__ import annotations

import random
import shutil
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent import salvage
from agent.ledger import Booking
from agent.plan import Spent
from agent.spool import Spool
from base import carve
from base.durable import StorageError
from wire.codec import check, decode_result, encode
from wire.delivery import CONFLICT, Refusal
from wire.events import Damaged, Dropped
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result

if TYPE_CHECKING:
    from pathlib import Path

LARGE = 10**9


def result(number: int, *, size: int = 200) -> Result:
    return Result(
        probe_id="p1",
        site="s1",
        link="viettel",
        started_at=datetime(2026, 6, 15, 8, 0, tzinfo=UTC),
        agent_version="0.1.0",
        outcome=Failed(reason=Reason.BUSY, detail=f"{number} ".ljust(size, "x")),
    )


def numbers(spool: Spool) -> list[int]:
    """Read the tests' own numbers of what waits."""
    waiting = [decode_result(row.payload).outcome for row in spool.oldest(100_000)]
    return sorted(int(outcome.detail.split()[0]) for outcome in waiting if isinstance(outcome, Failed))


def reports(spool: Spool) -> list[Damaged]:
    waiting = [decode_result(row.payload).outcome for row in spool.oldest(100_000)]
    return [outcome for outcome in waiting if isinstance(outcome, Damaged)]


def refuse(spool: Spool, spool_id: str, seq: int, reason: str, check_text: str = "") -> None:
    spool.refuse(spool_id, [Refusal(seq=seq, reason=reason, check=check_text)])


def abandoned(path: Path, count: int, *, size: int = 200) -> str:
    """Leave a spool as a power cut does: its newest part in the write-ahead log only. Return its spool_id."""
    live = path.with_name("live.db")
    spool = Spool(live, max_bytes=LARGE)
    for number in range(count):
        spool.append(result(number, size=size), booking=Booking("viettel", "2026-06-15", 10))
    for suffix in ("", "-wal"):
        shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    spool.close()
    return spool.spool_id


@pytest.mark.parametrize("seed", range(8))
def test_a_page_that_is_destroyed_costs_its_own_results_and_no_others(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "spool.db"
    old_id = abandoned(path, 600)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    page = chance.randrange(len(content) // 4096)
    content[page * 4096 : page * 4096 + 4096] = chance.randbytes(4096)
    path.write_bytes(content)
    spool = Spool(path, max_bytes=LARGE)
    held = numbers(spool)
    assert len(held) >= 600 - 20, "a page holds a dozen of these"
    assert (tmp_path / "spool.db.damaged-1").read_bytes()[4096:] == content[4096:]
    spool.append(result(1000))
    (report,) = reports(spool)
    assert report.saved == len(held)
    if spool.spool_id != old_id and len(held) < 600:
        assert report.unreadable > 0
    ids = {decode_result(row.payload).spool_id for row in spool.oldest(100_000)}
    assert ids == {old_id, spool.spool_id}, "what was saved keeps its identity, what is new has one that nobody had"
    assert spool.append(result(1001)).seq == 3
    spool.close()


@pytest.mark.parametrize("seed", range(12))
def test_flipped_and_missing_bytes_anywhere_are_never_taken_for_a_result(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "spool.db"
    abandoned(path, 300, size=50 + 40 * seed)
    chance = random.Random(seed)
    victim = path if seed % 2 else path.with_name("spool.db-wal")
    content = bytearray(victim.read_bytes())
    for _ in range(40):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    if seed % 3 == 0:
        del content[chance.randrange(len(content)) :]
    victim.write_bytes(content)
    spool = Spool(path, max_bytes=LARGE)
    waiting = [decode_result(row.payload) for row in spool.oldest(100_000)]
    for one in waiting:
        assert isinstance(one.outcome, Failed)
        number = int(one.outcome.detail.split()[0])
        assert one.outcome == result(number, size=50 + 40 * seed).outcome, "as it was made, to the last byte"
        assert one.seq == number + 1
    assert len({(one.spool_id, one.seq) for one in waiting}) == len(waiting)
    spool.append(result(5000))
    spool.close()


def test_a_result_too_long_for_a_page_is_carved_whole(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    abandoned(path, 30, size=15_000)
    wal = path.with_name("spool.db-wal").read_bytes()
    payloads = {
        column
        for row in carve.rows(path.read_bytes(), wal)
        for column, beside in zip(row.columns, row.columns[1:], strict=False)
        if isinstance(column, bytes) and beside == check(column)
    }
    assert {int(decode_result(p).outcome.detail.split()[0]) for p in payloads} == set(range(30))  # type: ignore[union-attr]  # all are Failed


def test_the_books_of_the_data_plan_are_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    abandoned(path, 300)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO untimed VALUES (300, 'boot', 12.5)")
        db.execute("INSERT INTO archive SELECT 0, '2026-06-14', rank, kind, payload, crc FROM results WHERE seq=1")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name='results_by_rank'").fetchone()
    db.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : (root - 1) * 4096 + 100] = b"\xff" * 100
    path.write_bytes(content)
    spool = Spool(path, max_bytes=LARGE)
    assert numbers(spool) == list(range(299)), "the last one waits for the clock"
    today = datetime(2026, 6, 15, tzinfo=UTC).date()
    assert spool.spent("viettel", today, today.replace(day=1)) == Spent(3000, 3000)
    assert spool._db.execute("SELECT * FROM untimed").fetchall() == [(300, "boot", 12.5)]
    assert spool._db.execute("SELECT seq, day FROM archive").fetchall() == [(0, "2026-06-14")]
    spool.close()


def test_a_power_cut_while_the_rebuilt_file_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool.db"
    abandoned(path, 300)
    wal = path.with_name("spool.db-wal")
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    del_after = {"count": 0}
    replace = type(path).replace

    def dies(source: Path, target: Path) -> Path:
        if source == path:  # the log has been moved away already, the main file has not
            del_after["count"] += 1
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(type(path), "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        Spool(path, max_bytes=LARGE)
    monkeypatch.undo()
    assert del_after["count"] == 1
    assert not wal.exists()
    spool = Spool(path, max_bytes=LARGE)
    assert len(numbers(spool)) > 0, "what the log held is not forgotten"
    spool.append(result(1000))
    assert len(reports(spool)) == 1
    spool.close()
    assert not list(tmp_path.glob("*.rebuil*"))


def test_damage_found_while_running_is_mended_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path, max_bytes=LARGE)
    for number in range(300):
        spool.append(result(number))
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spool._db.execute("PRAGMA cache_size=0")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 4)
    spool._db.execute("PRAGMA shrink_memory")
    for number in range(300, 303):
        try:
            spool.append(result(number))
        except salvage.StorageError:
            spool.append(result(number))
    assert {300, 301, 302} <= set(numbers(spool))
    assert len(numbers(spool)) > 200
    assert "is damaged" in caplog.text
    spool.close()


def test_a_result_that_changed_on_the_card_is_kept_back_and_told(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    for number in range(3):
        spool.append(result(number))
    spool._db.execute("UPDATE results SET payload = CAST(replace(payload, '1 xx', '7 xx') AS BLOB)")
    assert numbers(spool) == [0, 2]
    assert spool.counts().refused == 1
    spool.append(result(3))
    assert reports(spool)[0].unreadable == 1
    spool.close()


# --- an old copy of the card --------------------------------------------------------------------------------------


def with_any_columns(path: Path, **bounds: int) -> Spool:
    """Open a spool in which any value may stand, as a flipped bit in a row's header does it."""
    spool = Spool(path, max_bytes=LARGE)
    spool._db.execute("PRAGMA writable_schema=ON")
    spool._db.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name IN ('results', 'archive')"
    )
    spool.close()
    return Spool(path, max_bytes=bounds.get("max_bytes", LARGE))


@pytest.mark.parametrize(
    "change",
    [
        "payload = CAST(payload AS TEXT)",  # a flipped bit in the row's header
        "payload = NULL",
        "payload = 7",
        "crc = CAST(x'41C14141' AS TEXT)",  # a flipped bit in the text of the check: no UTF-8 any more
        "crc = NULL",
    ],
)
def test_a_column_that_has_become_another_costs_its_own_result_only(tmp_path: Path, change: str) -> None:
    spool = with_any_columns(tmp_path / "spool.db")
    for number in range(3):
        spool.append(result(number))
    spool._db.execute(f"UPDATE results SET {change} WHERE seq = 2")  # noqa: S608  # the test's own words
    spool._db.execute("PRAGMA query_only=ON")
    assert numbers(spool) == [0, 2], "also where the card takes no note of it"
    spool._db.execute("PRAGMA query_only=OFF")
    assert numbers(spool) == [0, 2]
    spool.append(result(3))
    assert numbers(spool) == [0, 2, 3]
    assert reports(spool)[0].unreadable == 1
    spool.close()


@pytest.mark.parametrize("change", ["NULL", "7", "CAST(payload AS TEXT)", "x'FF'"])
def test_what_has_changed_hinders_neither_making_room_nor_a_new_number_nor_the_archive(
    tmp_path: Path, change: str
) -> None:
    spool = with_any_columns(tmp_path / "spool.db", max_bytes=6000)
    for number in range(40):
        spool.append(result(number))
    kinds = [decode_result(row.payload).outcome for row in spool.oldest(100)]
    assert any(isinstance(outcome, Dropped) for outcome in kinds)
    for number in range(40, 80):
        spool._db.execute(f"UPDATE results SET payload = {change}")  # noqa: S608  # the test's own words
        spool.append(result(number))
    seq = spool.append(result(80)).seq
    spool._db.execute(f"UPDATE results SET payload = {change}")  # noqa: S608  # as above
    refuse(spool, spool.spool_id, seq, CONFLICT)
    spool._db.execute("INSERT INTO archive SELECT seq, '2026-06-15', rank, kind, payload, crc FROM results")
    spool._db.execute("DELETE FROM results")
    spool._db.execute(f"UPDATE archive SET payload = {change} WHERE seq % 2")  # noqa: S608  # as above
    spool._bytes = 0
    spool.resend(spool._db.execute("SELECT spool_id FROM lives ORDER BY before").fetchone()[0], [(1, 1000)])
    spool.append(result(81))
    assert 81 in numbers(spool)
    spool.close()


def test_what_changed_in_a_file_that_was_rebuilt_keeps_nothing_deferred_from_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE, defer_s=60)
    for number in range(2):
        spool.append(result(number))
    spool._db.execute("INSERT INTO meta VALUES (?, ?)", (salvage.DAMAGE, encode(Damaged(saved=2, unreadable=0))))
    spool._db.execute("UPDATE results SET payload = CAST(payload AS TEXT) WHERE seq = 1")
    spool.defer(result(2))
    spool.flush()
    assert numbers(spool) == [1, 2]
    spool.close()


def test_a_disk_that_takes_no_rebuilt_file_is_one_clear_error_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path, max_bytes=LARGE)
    for number in range(50):
        spool.append(result(number))
    spool.close()
    content = bytearray(path.read_bytes())
    content[:100] = bytes(100)
    path.write_bytes(content)
    in_the_way = tmp_path / "spool.db.reading"
    in_the_way.mkdir()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"spool\.db: Is a directory"):
            Spool(path, max_bytes=LARGE)
    in_the_way.rmdir()
    spool = Spool(path, max_bytes=LARGE)
    assert numbers(spool) == list(range(50))
    spool._db.close()
    path.write_bytes(content)
    in_the_way.mkdir()
    for use in (lambda: spool.append(result(50)), lambda: spool.oldest(1), spool.counts):  # damaged while it is used
        with pytest.raises(StorageError, match="Is a directory"):
            use()
    in_the_way.rmdir()
    with pytest.raises(StorageError, match="closed"):
        spool.counts()  # it is rebuilt now
    spool.append(result(51))
    assert numbers(spool) == [*range(50), 51]
    spool.close()


def test_a_refused_number_is_given_up_and_the_result_travels_under_a_new_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    old_id = spool.spool_id
    for number in range(5):
        spool.append(result(number))
    refuse(spool, old_id, 2, CONFLICT)
    refuse(spool, old_id, 4, CONFLICT)
    refuse(spool, old_id, 4, CONFLICT)
    waiting = [decode_result(row.payload) for row in spool.oldest(10)]
    assert [(one.spool_id == old_id, one.seq) for one in waiting] == [
        (True, 1),
        (True, 3),
        (True, 5),
        (False, 1),
        (False, 2),
    ]
    assert numbers(spool) == [0, 1, 2, 3, 4]
    new = spool.append(result(5))
    assert (new.spool_id, new.seq) == (spool.spool_id, 3)
    assert spool.counts().spooled == 6, "given a new number is not made anew"
    assert spool.acknowledge(old_id, [(1, 100)]) == 3
    assert spool.acknowledge(spool.spool_id, [(2, 3)]) == 2
    spool.close()
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    assert [decode_result(row.payload).seq for row in spool.oldest(10)] == [1]
    assert spool.append(result(6)).seq == 4
    spool.close()


def test_an_ack_for_what_had_the_number_before_lets_nothing_go(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path, max_bytes=LARGE)
    spool.append(result(0))
    spool.close()
    shutil.copy(path, tmp_path / "image")
    spool = Spool(path, max_bytes=LARGE)
    spool.append(result(1))
    checks = "".join(check(row.payload) for row in spool.oldest(10))
    spool.close()
    shutil.copy(tmp_path / "image", path)
    spool = Spool(path, max_bytes=LARGE)
    spool.append(result(2))
    assert spool.acknowledge(spool.spool_id, [(1, 2)], checks) == 1
    assert numbers(spool) == [2]
    refuse(spool, spool.spool_id, 2, "late", checks[4:])
    refuse(spool, spool.spool_id, 2, CONFLICT, checks[4:])
    assert numbers(spool) == [2]
    assert spool.counts().refused == 0
    spool.close()


def test_a_file_of_the_first_format_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path, max_bytes=LARGE)
    spool.append(result(0))
    spool.close()
    with sqlite3.connect(path) as db:
        db.executescript("ALTER TABLE results DROP COLUMN crc; DROP TABLE lives; PRAGMA user_version=1")
    db.close()
    again = Spool(path, max_bytes=LARGE)
    assert again.spool_id == spool.spool_id
    assert numbers(again) == [0]
    assert again.append(result(1)).seq == 2
    again.close()


def test_a_log_that_breaks_off_in_the_middle_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    old_id = abandoned(path, 40)
    wal = path.with_name("spool.db-wal")
    content = bytearray(wal.read_bytes())
    frames = (len(content) - 32) // 4120
    content[32 + frames // 2 * 4120 + 24 + 2000] ^= 4
    wal.write_bytes(content)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"copy.db{suffix}")
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        (by_sql,) = db.execute("SELECT COUNT(*) FROM results").fetchone()
    db.close()
    assert by_sql < 30, "SQLite says nothing and leaves the rest out"
    spool = Spool(path, max_bytes=LARGE)
    assert len(numbers(spool)) >= 39
    assert spool.spool_id != old_id
    spool.close()


def test_a_power_cut_in_the_last_commit_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    old_id = abandoned(path, 40)
    wal = path.with_name("spool.db-wal")
    content = wal.read_bytes()
    for cut in (1, 100, 4000, 4120):
        wal.write_bytes(content[:-cut])
        assert not salvage.log_is_damaged(path, "last_seq", "SELECT 1")
    torn = bytearray(content)
    torn[-10] ^= 255
    wal.write_bytes(torn)
    spool = Spool(path, max_bytes=LARGE)
    assert spool.spool_id == old_id
    assert numbers(spool) == list(range(39))
    spool.close()


def test_a_power_cut_among_commits_that_were_not_fsynced_is_no_damage(tmp_path: Path) -> None:
    live, path = tmp_path / "live.db", tmp_path / "spool.db"
    spool = Spool(live, max_bytes=LARGE)
    for number in range(20):
        spool.append(result(number))
    begun = live.with_name("live.db-wal").stat().st_size
    for number in range(1, 9):
        spool.acknowledge(spool.spool_id, [(number, number)])
    spool.append(result(20))
    for suffix in ("", "-wal"):
        shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    spool.close()
    wal = path.with_name("spool.db-wal")
    content = bytearray(wal.read_bytes())
    content[begun + 24 + 10] ^= 255  # in the first acknowledgement's page
    wal.write_bytes(content)
    again = Spool(path, max_bytes=LARGE)
    assert again.spool_id == spool.spool_id
    assert numbers(again) == list(range(20))
    again.close()


@pytest.mark.parametrize("main", ["empty", "missing"])
def test_all_that_is_left_is_the_log(tmp_path: Path, main: str) -> None:
    path = tmp_path / "spool.db"
    abandoned(path, 40)
    path.unlink()
    if main == "empty":
        path.touch()
    wal = path.with_name("spool.db-wal").read_bytes()
    spool = Spool(path, max_bytes=LARGE)
    assert numbers(spool) == list(range(40))
    spool.append(result(40))
    assert reports(spool)[0].saved == 40
    assert path.with_name("spool.db.damaged-1-wal").read_bytes() == wal
    spool.close()


@pytest.mark.parametrize("seed", range(6))
def test_any_garbage_is_survived(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "spool.db"
    abandoned(path, 60)
    chance = random.Random(seed)
    for file in (path, path.with_name("spool.db-wal")):
        content = bytearray(file.read_bytes())
        for _ in range(3000):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content)
    for _ in range(3):
        spool = Spool(path, max_bytes=LARGE)
        spool.append(result(100))
        assert spool.counts().spooled > 0
        assert spool.under_way() == []
        spool.close()


def test_a_name_in_the_schema_that_is_no_text_any_more_hides_no_result(tmp_path: Path) -> None:
    """What SQLite says of it is no text either."""
    path = tmp_path / "spool.db"
    abandoned(path, 60)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = path.read_bytes().replace(b"tablerefused", b"tableref\xefsed")
    path.write_bytes(content.replace(b"TABLE refused", b"TABLE ref\xefsed"))
    spool = Spool(path, max_bytes=LARGE)
    spool.append(result(60))
    assert numbers(spool) == [*range(61)]
    assert [report.saved for report in reports(spool)] == [60]
    spool.close()


def test_a_result_that_has_another_number_now_does_not_come_back_under_its_old_one(tmp_path: Path) -> None:
    live, path = tmp_path / "live.db", tmp_path / "spool.db"
    spool = Spool(live, max_bytes=LARGE)
    for number in range(10):
        spool.append(result(number))
    old_id = spool.spool_id
    for seq in range(1, 11):
        refuse(spool, old_id, seq, CONFLICT)
    for suffix in ("", "-wal"):
        shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    spool.close()
    path.write_bytes(b"")
    again = Spool(path, max_bytes=LARGE)
    assert numbers(again) == list(range(10))
    again.close()


def destroyed(path: Path, *tables: str) -> None:
    """Destroy the root pages of these tables in a file that has no log."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = [
            db.execute("SELECT rootpage FROM sqlite_master WHERE name=?", (name,)).fetchone()[0] for name in tables
        ]
    db.close()
    content = bytearray(path.read_bytes())
    for root in roots:
        content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)


def killed(spool: Spool, path: Path) -> None:
    """Leave the file and its log as they are now."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{spool._path}{suffix}", f"{path}{suffix}")
    spool.close()


def test_a_life_of_which_nothing_is_known_any_more_takes_no_number_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter("cba")  # the unknown one is placed first
    monkeypatch.setattr("agent.lives.secrets.token_hex", lambda _: next(names))
    live, path = tmp_path / "live.db", tmp_path / "spool.db"
    spool = Spool(live, max_bytes=LARGE)
    for number in range(4):
        spool.append(result(number))
    refuse(spool, spool.spool_id, 1, CONFLICT)
    for number in (4, 5):
        spool.append(result(number))
    spool._db.execute("DELETE FROM lives WHERE spool_id=?", (spool.spool_id,))
    killed(spool, path)
    destroyed(path, "meta")
    again = Spool(path, max_bytes=LARGE)
    assert numbers(again) == list(range(6))
    for number in range(6, 10):
        again.append(result(number))
    assert numbers(again) == list(range(10))
    again.close()


def test_what_was_made_in_a_life_that_the_broken_log_hides_is_saved(tmp_path: Path) -> None:
    live, path = tmp_path / "live.db", tmp_path / "spool.db"
    spool = Spool(live, max_bytes=LARGE)
    for number in range(10):
        spool.append(result(number))
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    refuse(spool, spool.spool_id, 1, CONFLICT)
    for number in range(10, 15):
        spool.append(result(number))
    killed(spool, path)
    wal = path.with_name("spool.db-wal")
    content = bytearray(wal.read_bytes())
    content[32 + 16] ^= 1  # the first frame's checksum: SQLite reads none
    wal.write_bytes(content)
    again = Spool(path, max_bytes=LARGE)
    assert set(numbers(again)) == set(range(15))
    again.close()


def test_a_log_that_looks_like_a_power_cut_is_read_all_the_same_where_the_file_is_damaged(tmp_path: Path) -> None:
    live, path = tmp_path / "live.db", tmp_path / "spool.db"
    spool = Spool(live, max_bytes=LARGE)
    for number in range(10):
        spool.append(result(number))
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spool.append(result(10))
    killed(spool, path)
    wal = path.with_name("spool.db-wal")
    content = bytearray(wal.read_bytes())
    content[32 + 16] ^= 1
    wal.unlink()
    destroyed(path, "told")
    wal.write_bytes(content)
    again = Spool(path, max_bytes=LARGE)
    assert numbers(again) == list(range(11))
    again.close()


def test_all_that_one_answer_refuses_is_one_commit(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    for number in range(50):
        spool.append(result(number))
    done: list[str] = []
    spool._db.set_trace_callback(done.append)
    spool.refuse(spool.spool_id, [Refusal(seq=seq, reason=CONFLICT if seq % 5 else "no") for seq in range(1, 51)])
    spool._db.set_trace_callback(None)
    assert done.count("COMMIT") == 1, "each costs the card a write"
    assert len(numbers(spool)) == 40
    assert spool.counts().refused == 10
    spool.close()


@pytest.mark.parametrize("frame", [3, 12, 30])
def test_what_was_committed_as_the_agent_was_killed_is_not_taken_from_memory_again(tmp_path: Path, frame: int) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path, max_bytes=LARGE, defer_s=3600)
    for number in range(10):
        spool.append(result(number))
    for number in range(10, 15):
        spool.defer(result(number))
    (deferred,) = tmp_path.glob("*-deferred-*")
    memory = deferred.read_bytes()
    spool.flush()
    content, log = path.read_bytes(), bytearray(path.with_name("spool.db-wal").read_bytes())
    spool.close()
    log[32 + frame * 4120 + 124] ^= 1
    path.write_bytes(content)
    path.with_name("spool.db-wal").write_bytes(log)
    deferred.write_bytes(memory)  # the kill came between the commit and the removal of this file
    spool = Spool(path, max_bytes=LARGE, defer_s=3600)
    spool.append(result(15))
    assert numbers(spool) == list(range(16))
    assert len(reports(spool)) == 1
    spool.close()


def test_a_result_that_changed_on_the_card_does_not_keep_what_is_deferred_from_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE, defer_s=3600)
    for number in range(5):
        spool.append(result(number))
    spool._db.execute("UPDATE results SET payload = CAST('?' AS BLOB) WHERE seq IN (1, 5)")
    assert [row.seq for row in spool.oldest(1)] == [], "the first is found, the other not yet"
    spool.defer(result(5))
    spool.flush()
    assert [row.seq for row in spool.oldest(9)] == [2, 3, 4, 6, 7]
    spool.close()
