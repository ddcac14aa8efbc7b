"""The spool: durable before it returns, in order, bounded, and never a number twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.ledger import Booking
from agent.plan import Spent
from agent.spool import Run, Spool
from base.durable import StorageError
from wire.codec import decode_result
from wire.delivery import Refusal
from wire.events import Dropped
from wire.measured import Echo as WireEcho
from wire.measured import Failed, Latency, Radio, Throughput, Transfer
from wire.radio import RadioReading
from wire.reasons import Reason
from wire.results import Job, Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)
LARGE = 10**9

OUTCOMES: dict[str, Outcome] = {
    "throughput": Throughput(download=Transfer(steady_mbps=41.5, payload_bytes=26_000_000, elapsed_s=5.0)),
    "latency": Latency(udp=WireEcho(tool="irtt", sent=10, received=10, loss_percent=0)),
    "radio": Radio(reading=RadioReading(rsrp_dbm=-98)),
}


def result(measurement: str = "radio", outcome: Outcome | None = None) -> Result:
    return Result(
        probe_id="p1",
        site="s1",
        link="viettel",
        job=Job(name="j", measurement=measurement),
        started_at=NOW,
        agent_version="0.1.0",
        outcome=outcome or OUTCOMES[measurement],
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    yield spool
    spool.close()


def test_results_wait_in_order_under_their_own_identity(spool: Spool) -> None:
    ids = [spool.append(result()) for _ in range(3)]
    assert [i.seq for i in ids] == [1, 2, 3]
    waiting = [decode_result(row.payload) for row in spool.oldest(10)]
    assert [(r.probe_id, r.spool_id, r.seq) for r in waiting] == [("p1", spool.spool_id, seq) for seq in (1, 2, 3)]


def test_an_ack_for_another_spool_changes_nothing(spool: Spool) -> None:
    spool.append(result())
    assert spool.acknowledge("0123456789abcdef", [(1, 100)]) == 0
    assert spool.acknowledge(spool.spool_id, [(1, 100)]) == 1
    assert spool.counts().waiting == 0


def test_numbers_go_on_after_a_restart_even_when_all_was_acknowledged(tmp_path: Path) -> None:
    first = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    first.append(result())
    first.acknowledge(first.spool_id, [(1, 1)])
    first.close()
    second = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    assert second.spool_id == first.spool_id
    assert second.append(result()).seq == 2
    second.close()


def test_what_the_collector_refuses_is_put_aside_and_not_sent_again(spool: Spool) -> None:
    spool.append(result())
    spool.append(result())
    spool.refuse(spool.spool_id, [Refusal(seq=1, reason="unknown field")])
    assert [row.seq for row in spool.oldest(10)] == [2]
    assert spool.counts().refused == 1


def test_a_full_spool_gives_up_telemetry_first_and_says_what(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=20_000)
    for _ in range(30):
        spool.append(result("throughput"))
        spool.append(result("latency"))
        spool.append(result("radio"))
    kept = [decode_result(row.payload) for row in spool.oldest(1000)]
    kinds = [type(r.outcome).__name__ for r in kept]
    assert kinds.count("Throughput") == 30, "throughput results go last"
    assert kinds.count("Radio") < 30
    assert sum(len(row.payload) for row in spool.oldest(1000)) <= 20_000
    reported = sum(sum(r.outcome.counts.values()) for r in kept if isinstance(r.outcome, Dropped))
    assert reported + len(kept) == spool.counts().spooled, "every result given up is reported"
    spool.close()


def test_a_run_that_began_and_never_ended_shows_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    run = Run("light", "viettel", 7)
    spool.begin(run, NOW)
    spool.close()
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    assert spool.under_way() == [(run, NOW.isoformat())]
    assert spool.last_slots() == {("light", "viettel"): 7}
    spool.append(result(outcome=Failed(reason=Reason.INTERRUPTED)), ends=run)
    assert spool.under_way() == []
    spool.close()


def test_spending_adds_up_by_day_and_month(spool: Spool) -> None:
    for day, size in (("2026-06-14", 5), ("2026-06-15", 10), ("2026-06-15", 20), ("2026-05-31", 40)):
        spool.append(result(), booking=Booking("viettel", day, size))
    assert spool.spent("viettel", date(2026, 6, 15), date(2026, 6, 1)) == Spent(30, 35, (("2026-06-14", 5),))
    assert spool.spent("vinaphone", date(2026, 6, 15), date(2026, 6, 1)) == Spent(0, 0)


def test_a_damaged_spool_is_kept_aside_and_work_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    spool = Spool(path, max_bytes=LARGE)
    assert spool.append(result()).seq == 1
    spool.close()
    assert (tmp_path / "spool.db.damaged-1").stat().st_size == 8208
    assert "is damaged" in caplog.text


def test_a_full_disk_stores_nothing_and_says_so(spool: Spool) -> None:
    spool.append(result())
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageError, match="full; free some space"):  # noqa: PT012  # fills what was free first
        for _ in range(200):
            spool.append(result("throughput"))
    before = spool.counts()
    spool._db.execute("PRAGMA max_page_count=1000000")
    assert spool.append(result()).seq == before.spooled + 1, "a failed append uses up no number"


def test_a_read_only_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="/proc/nowhere"):
        Spool(Path("/proc/nowhere/spool.db"), max_bytes=LARGE)


def test_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "spool.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StorageError, match="written by a newer version"):
        Spool(tmp_path / "spool.db", max_bytes=LARGE)


_APPENDER = """
import sys
from pathlib import Path
from datetime import UTC, date, datetime
from agent.spool import Spool
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result
spool = Spool(Path(sys.argv[1]), max_bytes=10**9)
result = Result(
    probe_id="p1", site="s1", started_at=datetime.now(UTC), agent_version="0", outcome=Failed(reason=Reason.BUSY)
)
while True:
    print(spool.append(result).seq, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_what_append_has_returned_survives_kill_9(tmp_path: Path, lines: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", _APPENDER, str(tmp_path / "spool.db")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        reported = [int(process.stdout.readline()) for _ in range(lines)]
        os.kill(process.pid, signal.SIGKILL)
        reported += [int(line) for line in process.stdout.read().split()]
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    held = [row.seq for row in spool.oldest(100_000)]
    spool.close()
    assert held[: len(reported)] == reported
    assert len(held) - len(reported) in {0, 1}, "at most the one under way when it was killed"


class SpoolMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is lost but what `Dropped` names, no number is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.path = Path(self.folder.name) / "spool.db"
        self.spool = Spool(self.path, max_bytes=4000)
        self.given: list[int] = []
        self.acked: dict[int, Result] = {}

    @rule(measurement=st.sampled_from(sorted(OUTCOMES)))
    def append(self, measurement: str) -> None:
        self.given.append(self.spool.append(result(measurement)).seq)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        last = self.spool.counts().spooled
        low = data.draw(st.integers(1, last))
        high = data.draw(st.integers(low, last))
        for row in self.spool.oldest(10_000):
            if low <= row.seq <= high:
                self.acked[row.seq] = decode_result(row.payload)
        self.spool.acknowledge(self.spool.spool_id, [(low, high)])

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.path, max_bytes=4000)

    @invariant()
    def numbers_rise_and_nothing_vanishes_unsaid(self) -> None:
        assert self.given == sorted(set(self.given))
        rows = self.spool.oldest(10_000)
        assert not {row.seq for row in rows} & set(self.acked)
        assert sum(len(row.payload) for row in rows) <= 4000
        seen = [decode_result(row.payload) for row in rows] + list(self.acked.values())
        dropped = sum(sum(r.outcome.counts.values()) for r in seen if isinstance(r.outcome, Dropped))
        assert dropped + len(seen) == self.spool.counts().spooled

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
