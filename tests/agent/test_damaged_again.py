"""A card that damages the spool again and again does not fill itself with what is kept of that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agent.spool import Spool
from wire.codec import decode_result
from wire.events import Damaged
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result

if TYPE_CHECKING:
    from pathlib import Path


def test_of_the_damaged_files_the_last_three_stay(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    result = Result(
        probe_id="p1", site="s1", started_at=datetime.now(UTC), agent_version="0", outcome=Failed(reason=Reason.BUSY)
    )
    mine = tmp_path / "spool.db.damaged-by-me"
    mine.write_bytes(b"not the agent's")
    for round_number in range(1, 13):  # two digits: it is the number that counts, not the name's place
        path.write_bytes(b"SQLite format 3\0" + b"%03d" % round_number + b"\xff" * 8192)
        spool = Spool(path, max_bytes=10**9)
        spool.append(result)
        (report,) = [
            outcome for row in spool.oldest(100) if isinstance(outcome := decode_result(row.payload).outcome, Damaged)
        ]
        spool.close()
        kept = sorted(file.name for file in tmp_path.glob("spool.db.damaged-*[0-9]"))
        newest = [f"spool.db.damaged-{number}" for number in range(max(1, round_number - 2), round_number + 1)]
        assert kept == sorted(newest)
        assert report.kept_as == str(tmp_path / newest[-1]), "the one just made is never removed"
        with (tmp_path / newest[-1]).open("rb") as file:
            assert file.read(19).endswith(b"%03d" % round_number)
        (tmp_path / f"{newest[-1]}-wal").touch()  # its log goes with it
        assert len(list(tmp_path.glob("spool.db.damaged-*-wal"))) == len(newest)
    assert mine.exists()
