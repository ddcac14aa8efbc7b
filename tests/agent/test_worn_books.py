"""What a worn card has changed in the books lets no quota be exceeded, and what cannot be read is said once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest

from agent import worn
from agent.deferred import Run
from agent.ledger import Booking
from agent.plan import Spent
from agent.spool import Spool
from wire.codec import decode_result
from wire.events import Damaged
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINK, SIM = "viettel", "0123456789abcdef" * 4
TODAY, YESTERDAY, MONTH_BEGAN = date(2026, 6, 15), date(2026, 6, 14), date(2026, 6, 1)
RUBBISH = ["'rubbish'", "x'FF'", "-5", "0.5", "9223372036854775807", "''"]


@pytest.fixture(autouse=True)
def unsaid() -> None:
    worn.say.cache_clear()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**8)
    spool.change_sim(LINK, SIM, TODAY.isoformat())
    for day, count in ((date(2026, 5, 3), 50), (YESTERDAY, 400), (TODAY, 300)):
        spool.book(Booking(LINK, day.isoformat(), count))
    yield spool
    spool.close()


def change(spool: Spool, statement: str) -> None:
    with spool._transaction() as db:
        assert db.execute(statement).rowcount == 1


def spent(spool: Spool, day: date = TODAY) -> Spent:
    """Say what counts on a day and in its month."""
    return spool.spent(LINK, day, MONTH_BEGAN)._replace(before=())


def test_sound_books_are_as_they_were_written(spool: Spool) -> None:
    assert spent(spool) == Spent(300, 700)
    assert spent(spool, YESTERDAY) == Spent(700, 700), "with what a clock that ran ahead booked"


@pytest.mark.parametrize("value", RUBBISH)
@pytest.mark.parametrize("day", [TODAY, YESTERDAY])
def test_bytes_that_are_none_count_as_those_of_the_day_that_had_most(spool: Spool, day: date, value: str) -> None:
    change(spool, f"UPDATE spent SET bytes = {value} WHERE day = '{day}'")  # noqa: S608  # the test's own words
    found = spent(spool)
    assert found == (Spent(400, 800) if day == TODAY else Spent(300, 600))
    spool.book(Booking(LINK, TODAY.isoformat(), 7))
    assert spent(spool) == Spent(found.day_bytes + 7, found.month_bytes + 7), "adding to it does not make it small"


def test_where_no_day_is_known_everything_counts_as_spent(spool: Spool) -> None:
    with spool._transaction() as db:
        db.execute("UPDATE spent SET bytes = 'rubbish'")
    assert spent(spool).day_bytes > 10**13


@pytest.mark.parametrize(
    "value", ["'2026-06-p4'", "'r026-06-14'", "''", "x'FF'", "CAST(x'32C3FF' AS TEXT)", "'20260614'"]
)
def test_what_has_no_day_any_more_counts_today(spool: Spool, value: str) -> None:
    change(spool, f"UPDATE spent SET day = {value} WHERE day = '{YESTERDAY}'")  # noqa: S608  # the test's own words
    assert spent(spool) == Spent(700, 700)
    spool.book(Booking(LINK, TODAY.isoformat(), 7))
    assert spent(spool) == Spent(707, 707)
    assert spent(spool, date(2026, 6, 16)) == Spent(0, 707), "and not on every day to come"


@pytest.mark.parametrize("noted", ["f" + SIM[1:], SIM[:40] + "zz" + SIM[42:], "", "rubbish", SIM[:-1] + "\ufffd"])
def test_a_sim_whose_note_has_changed_keeps_its_books(spool: Spool, noted: str) -> None:
    with spool._transaction() as db:
        db.execute("UPDATE sims SET sim = ?", (noted,))
    assert not spool.change_sim(LINK, SIM, TODAY.isoformat())
    assert spent(spool) == Spent(300, 700)
    assert spool.change_sim(LINK, SIM[::-1], TODAY.isoformat()), "another SIM is another one"
    assert spent(spool) == Spent(0, 0)
    assert spool.change_sim(LINK, SIM, TODAY.isoformat())
    assert spent(spool) == Spent(300, 700)


def test_books_that_change_with_their_sim_are_mended_first(spool: Spool) -> None:
    change(spool, f"UPDATE spent SET bytes = 'rubbish' WHERE day = '{TODAY}'")  # noqa: S608  # the test's own words
    assert spool.change_sim(LINK, SIM[::-1], TODAY.isoformat())
    assert spool.change_sim(LINK, SIM, TODAY.isoformat())
    assert spent(spool) == Spent(400, 800)


def test_what_is_unreadable_is_said_once(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    spool.begin(Run("light", LINK, 5), datetime(2026, 6, 15, 8, 0, tzinfo=UTC))
    spool.begin(Run("dark", LINK, 5), datetime(2026, 6, 15, 7, 0, tzinfo=UTC))
    change(spool, "UPDATE runs SET started_at = 'r' || started_at WHERE job = 'light'")
    for _ in range(20):
        assert spool.last_began() == datetime(2026, 6, 15, 7, 0, tzinfo=UTC)
    assert caplog.text.count("the card has changed what was noted of when a run began") == 1


@pytest.mark.parametrize("value", [b'{"kind":"damaged","saved":1,"unreada$le":0}', b"\xff", "{", 7, None])
def test_a_report_of_damage_that_was_damaged_is_a_fresh_one(spool: Spool, value: object) -> None:
    with spool._transaction() as db:
        db.execute("INSERT INTO meta VALUES ('damage', ?)", (value,))
    made = Result(
        probe_id="p1", site="s1", started_at=datetime.now(UTC), agent_version="0", outcome=Failed(reason=Reason.BUSY)
    )
    spool.append(made)
    spool.append(made)
    told = [decode_result(row.payload).outcome for row in spool.oldest(10)]
    assert [type(one) for one in told] == [Failed, Damaged, Failed]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '9o' WHERE key = 'last_seq'",
        "UPDATE meta SET value = NULL WHERE key = 'last_seq'",
        "UPDATE meta SET value = 2 WHERE key = 'last_seq'",
        "UPDATE meta SET value = 1e300 WHERE key = 'last_seq'",
        "UPDATE meta SET key = 'lasd_seq' WHERE key = 'last_seq'",
        "UPDATE meta SET value = 'f' || value WHERE key = 'spool_id'",
        "UPDATE lives SET before = 3",
        "UPDATE lives SET before = 'x'",
        "UPDATE lives SET before = 9223372036854775807",
        "UPDATE lives SET spool_id = 'f' || spool_id",
    ],
)
def test_numbers_that_cannot_be_right_are_found_at_the_start(tmp_path: Path, statement: str) -> None:
    """What waits keeps its identity, is sent once and let go; what is made anew takes nobody's number."""
    path = tmp_path / "spool.db"
    spool = Spool(path, max_bytes=10**8)
    made = Result(
        probe_id="p1", site="s1", started_at=datetime.now(UTC), agent_version="0", outcome=Failed(reason=Reason.BUSY)
    )
    given = [spool.append(made) for _ in range(9)]
    spool.acknowledge(spool.spool_id, [(1, 4)])
    spool.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()
    spool = Spool(path, max_bytes=10**8)
    anew = spool.append(made)
    waiting = [decode_result(row.payload) for row in spool.oldest(100)]
    old = [(one.spool_id, one.seq) for one in waiting if one.spool_id == given[0].spool_id]
    assert set(old) >= {(one.spool_id, one.seq) for one in given[4:]}
    assert len(old) == len(set(old))
    assert anew.spool_id != given[0].spool_id
    assert any(isinstance(one.outcome, Damaged) for one in waiting)
    for one in waiting:
        assert spool.acknowledge(one.spool_id, [(one.seq, one.seq)]) == 1
    assert spool.counts().waiting == 0
    spool.close()
