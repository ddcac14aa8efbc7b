"""The judge of what the collector says of the probes is not satisfied with what is untrue."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from lab.torture import known
from wire import codec
from wire.status import Status

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 6, 15, 8, tzinfo=UTC)


def stand(folder: Path, *statuses: Status) -> Any:  # noqa: ANN401  # as much of a stand as is asked
    journal = folder / "journal.db"
    with closing(sqlite3.connect(journal)) as db:
        db.execute("CREATE TABLE probes (probe_id TEXT PRIMARY KEY, received_us INTEGER, status BLOB)")
        db.executemany("INSERT INTO probes VALUES (?, 0, ?)", [(one.probe_id, codec.encode(one)) for one in statuses])
        db.commit()
    return SimpleNamespace(journal_file=journal, writers=[SimpleNamespace(probe_id="p1")])


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "TRUE_WITHIN_S", 0.2)


def test_a_probe_that_is_online_with_nothing_waiting_is_as_it_should_be(tmp_path: Path) -> None:
    assert known.mistaken(stand(tmp_path, Status(probe_id="p1", online=True, at=NOW))) == []


@pytest.mark.parametrize(
    "status",
    [
        Status(probe_id="p1", online=False, at=NOW),
        Status(probe_id="p1", online=True, at=NOW, backlog=3),
        Status(probe_id="another", online=True, at=NOW),
    ],
    ids=["offline", "a backlog", "unknown"],
)
def test_what_is_untrue_is_a_complaint(status: Status, tmp_path: Path) -> None:
    (said,) = known.mistaken(stand(tmp_path, status))
    assert "p1" in said


def test_an_older_status_after_a_newer_one_is_a_complaint(tmp_path: Path) -> None:
    watch = known.Watch(stand(tmp_path))
    newer = Status(probe_id="p1", online=True, at=NOW)
    older = Status(probe_id="p1", online=True, at=NOW - timedelta(seconds=5), backlog=7)
    will = Status(probe_id="p1", online=False)
    for status in (older, newer, will, newer):
        watch.see({"p1": status})
    assert watch.went_back == {}
    watch.see({"p1": older})
    watch.see({"p1": newer})
    assert "went back" in watch.went_back["p1"]
