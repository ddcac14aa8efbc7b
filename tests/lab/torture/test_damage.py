"""What damage to a spool did not touch is saved, and a salvage that saves less is a complaint."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent import salvage
from agent.spool import Spool
from lab.torture import damage, filler, judge
from wire.results import Job, Result

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 60
LAST = {COUNT - 1, COUNT}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Make what a killed agent leaves: a spool's file and its log."""
    spool = Spool(tmp_path / "alive" / filler.SPOOL_FILE, max_bytes=10**9)
    for token in range(1, COUNT + 1):
        spool.append(
            Result(
                probe_id="p1",
                site="torture",
                job=Job(name="light", measurement="throughput"),
                started_at=datetime.now(UTC),
                elapsed_s=float(token),
                agent_version="0",
                outcome=filler.outcome_of(token),
            )
        )
        if token == COUNT // 2:
            spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(tmp_path / "alive", tmp_path / "card", ignore=shutil.ignore_patterns("*-shm"))
    spool.close()
    return tmp_path / "card"


def judged(card: Path, seed: int) -> tuple[bool, int, list[str]]:
    """Damage a copy and open it; return whether that was told, how many results were untouched, and what is wrong."""
    struck = card.with_name(f"struck-{seed}")
    shutil.copytree(card, struck)
    untouched = damage.strike(struck, random.Random(seed))
    spool = Spool(struck / filler.SPOOL_FILE, max_bytes=10**9)
    came = Counter(judge.token(row.payload) for row in spool.oldest(10 * COUNT))
    told = bool(spool._db.execute("SELECT 1 FROM meta WHERE key = ?", (salvage.DAMAGE,)).fetchone())
    spool.close()
    return told, len(untouched), damage.complaints({*range(1, COUNT + 1)} - LAST, untouched, came, told=told)


def test_what_the_damage_did_not_touch_is_saved(card: Path) -> None:
    found = [judged(card, seed) for seed in range(24)]
    assert [complaint for *_, complaints in found for complaint in complaints] == []
    assert sum(told for told, *_ in found) > 12
    assert 0 < min(untouched for _, untouched, _ in found) < max(untouched for _, untouched, _ in found) < COUNT


def test_a_salvage_that_reports_the_damage_and_saves_nothing_is_a_complaint(
    card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(salvage, "_results", lambda *_: ([], COUNT))
    complaints = [judged(card, seed)[2] for seed in range(8)]
    salvaged = [any(card.with_name(f"struck-{seed}").glob("*.damaged-*")) for seed in range(8)]
    assert sum(salvaged) > 3
    assert [bool(one) for one in complaints] == salvaged
    assert all("that the damage did not touch were not saved" in text for one in complaints for text in one)


def test_results_that_are_gone_without_a_word_are_a_complaint() -> None:
    assert damage.complaints({1, 2, 3, 4}, set(), Counter(), told=False) == ["4 results destroyed, and not a word"]
    assert damage.complaints({1, 2, 3, 4}, {1}, Counter([1]), told=False) == []
    assert damage.complaints({1, 2, 3, 4}, {1}, Counter([1]), told=True) == []
