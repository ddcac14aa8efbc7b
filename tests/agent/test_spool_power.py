"""Kills and power cuts at any moment: no number is ever used for two results, and nothing is lost that was promised.

The power cut is SQLite's own promise played through: what a commit with synchronous=FULL has written to the log is on
disk, of all that was written after it any part may be missing (sqlite.org/pragma.html#pragma_synchronous); a tmpfs is
empty. The log is cut anywhere in that part, and in half of the cases filled up with zeros, as file systems do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.deferred import Account, Run
from agent.spool import Spool
from wire.codec import decode_result, encode
from wire.measured import Radio, Throughput, Transfer
from wire.radio import RadioReading
from wire.results import Job, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)
LARGE = 10**9


def throughput(mark: int) -> Result:
    outcome = Throughput(download=Transfer(steady_mbps=41.5, payload_bytes=mark, elapsed_s=5.0))
    job = Job(name="light", measurement="throughput")
    return Result(
        probe_id="p1",
        site="s1",
        link="v",
        job=job,
        started_at=NOW,
        agent_version="0",
        elapsed_s=float(mark),
        outcome=outcome,
    )


def look(mark: int) -> Result:
    return Result(
        probe_id="p1",
        site="s1",
        link="v",
        job=Job(name="radio", measurement="radio"),
        started_at=NOW,
        agent_version="0",
        elapsed_s=float(mark),
        outcome=Radio(reading=RadioReading(rsrp_dbm=-98)),
    )


class Watched(Spool):
    """A spool that notes how much of its log was on disk for certain."""

    on_disk_bytes = 0

    @contextmanager
    def _transaction(self, *, fsync: bool = True) -> Iterator[Any]:
        with super()._transaction(fsync=fsync) as db:
            yield db
        if fsync:
            self.on_disk_bytes = Path(f"{self._path}-wal").stat().st_size


class PowerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.marks = 0
        self.promised: set[int] = set()
        self.held: set[int] = set()
        self.sent: dict[int, bytes] = {}
        self.acked: set[int] = set()
        self.open()

    def open(self) -> None:
        self.here = Path(self.folder.name)
        self.spool = Watched(self.here / "spool.db", max_bytes=LARGE, defer_s=1e6, memory_dir=self.here / "tmpfs")
        self.spool.on_disk_bytes = (self.here / "spool.db-wal").stat().st_size  # opening commits with an fsync

    def move(self, *, log_bytes: int | None = None, zeros: bool = False) -> None:
        """Let the process die: what is left of its files is what the next one finds."""
        log = (self.here / "spool.db-wal").read_bytes()
        files = {self.here / "spool.db": (self.here / "spool.db").read_bytes()}
        kept = log if log_bytes is None else log[:log_bytes] + bytes(len(log) - log_bytes if zeros else 0)
        files[self.here / "spool.db-wal"] = kept
        memory = self.here / "tmpfs"
        if log_bytes is None and memory.is_dir():
            files |= {path: path.read_bytes() for path in memory.iterdir()}
        sure = self.spool.on_disk_bytes if log_bytes is None else log_bytes  # a kill brings nothing to disk
        self.spool._db.close()
        for path in [*self.here.glob("spool.db*"), *memory.glob("*")]:
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)
        self.open()
        self.spool.on_disk_bytes = sure

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    @rule()
    def append(self) -> None:
        mark = self.mark()
        self.spool.append(throughput(mark))
        self.promised |= {mark} | self.held
        self.held = set()

    @rule(slot=st.integers(0, 5))
    def hold(self, slot: int) -> None:
        mark = self.mark()
        self.spool.defer(look(mark), ends=Run("radio", "v", slot, noted=False), account=Account("radio", "v", 60, slot))
        self.held.add(mark)
        assert self.spool.last_slots()["radio", "v"] == slot
        assert self.spool.accounts()["radio", "v"].slot == slot

    @rule()
    def begin(self) -> None:
        self.spool.begin(Run("latency", "v", self.mark()), NOW, fsync=False)

    @rule()
    def flush(self) -> None:
        self.spool.flush()
        self.promised |= self.held
        self.held = set()

    @rule()
    def send(self) -> None:
        for row in self.spool.oldest(10_000):
            assert self.sent.setdefault(row.seq, row.payload) == row.payload, "a number stands for one result"

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        last = max(self.sent)
        first = data.draw(st.integers(1, last))
        self.spool.acknowledge(self.spool.spool_id, [(first, last)])
        self.acked |= {seq for seq in self.sent if first <= seq <= last}

    @precondition(lambda self: self.sent)
    @rule()
    def resend(self) -> None:
        lost = self.spool.resend(self.spool.spool_id, [(1, max(self.sent))])
        throughputs = {
            seq for seq, payload in self.sent.items() if isinstance(decode_result(payload).outcome, Throughput)
        }
        assert not throughputs & {seq for first, last in lost for seq in range(first, last + 1)}

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.promised |= self.held
        self.held = set()
        self.open()

    @rule()
    def kill(self) -> None:
        self.move()

    @rule(share=st.floats(0, 1), zeros=st.booleans())
    def power_cut(self, *, share: float, zeros: bool) -> None:
        size = (self.here / "spool.db-wal").stat().st_size
        sure = self.spool.on_disk_bytes
        self.move(log_bytes=sure + int(share * (size - sure)), zeros=zeros)
        self.held = set()

    @invariant()
    def what_was_promised_is_there(self) -> None:
        rows = self.spool.oldest(10_000)
        there = {row.seq: row.payload for row in rows} | {seq: self.sent[seq] for seq in self.acked}
        marks = [int(decode_result(payload).elapsed_s) for payload in there.values()]
        assert len(marks) == len(set(marks)), "nothing is there twice"
        assert self.promised <= set(marks)
        counts = self.spool.counts()
        assert counts.made >= counts.spooled

    def teardown(self) -> None:
        self.flush()
        self.what_was_promised_is_there()
        self.spool.close()
        self.folder.cleanup()


TestPowerMachine = PowerMachine.TestCase
TestPowerMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


_DEFERRER = """
import sys
from pathlib import Path
from agent.spool import Spool
from wire.codec import decode_result
spool = Spool(Path(sys.argv[1]), max_bytes=10**9, defer_s=1e6, memory_dir=Path(sys.argv[2]))
model = decode_result(sys.argv[3].encode())
mark = 0
while True:
    mark += 1
    spool.defer(type(model)(**{name: getattr(model, name) for name in model.__struct_fields__} | {"elapsed_s": mark}))
    print(mark, flush=True)
    if mark % 7 == 0:
        spool.flush()
"""


@pytest.mark.parametrize("lines", [1, 6, 40])
def test_what_was_deferred_survives_kill_9_and_comes_once(tmp_path: Path, lines: int) -> None:
    file, memory = tmp_path / "spool.db", tmp_path / "memory"
    command = [sys.executable, "-c", _DEFERRER, str(file), str(memory), encode(look(1)).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        told = [int(process.stdout.readline()) for _ in range(lines)]
        os.kill(process.pid, signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split()]
    looker_on = Spool(file, max_bytes=LARGE)
    looker_on.close()
    for _ in range(2):  # the next agent takes it over, and the one after that does not take it again
        spool = Spool(file, max_bytes=LARGE, defer_s=1e6, memory_dir=memory)
        spool.flush()
        marks = [int(decode_result(row.payload).elapsed_s) for row in spool.oldest(100_000)]
        spool.close()
        assert marks[: len(told)] == told
        assert len(marks) - len(told) in {0, 1}


def test_the_archive_keeps_throughput_results_for_so_many_days_and_bytes(tmp_path: Path) -> None:
    from agent.archive import Bounds  # noqa: PLC0415  # beside its use

    size = 300
    with_bounds = Bounds(days=2, max_bytes=40 * size)
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE, archived=with_bounds)
    for mark in range(1, 101):
        spool.append(throughput(mark))
        spool.append(look(mark))
    spool.acknowledge(spool.spool_id, [(1, 200)])
    kept = spool._db.execute("SELECT COUNT(*), SUM(LENGTH(payload)), MAX(seq) FROM archive").fetchone()
    assert 10 < kept[0] < 100
    assert kept[1] <= with_bounds.max_bytes
    assert kept[2] == 199, "the newest stay"
    for day in ("2026-06-01", "2026-06-02"):
        spool._db.execute("UPDATE archive SET day=? WHERE seq % 4 = ?", (day, 1 if day.endswith("1") else 3))
    spool.append(throughput(101))
    spool.acknowledge(spool.spool_id, [(201, 201)])
    assert {day for (day,) in spool._db.execute("SELECT day FROM archive")} > {"2026-06-02"}
    assert "2026-06-01" not in {day for (day,) in spool._db.execute("SELECT day FROM archive")}
    spool.close()


def test_what_is_asked_for_again_is_sent_as_it_was_or_said_to_be_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=LARGE)
    for mark in range(3):
        spool.append(throughput(mark))
        spool.append(look(mark))
    sent = {row.seq: row.payload for row in spool.oldest(10)}
    spool.acknowledge(spool.spool_id, [(1, 6)])
    assert spool.resend(spool.spool_id, [(2, 5), (6, 900)]) == [(2, 2), (4, 4), (6, 6)]
    assert {row.seq: row.payload for row in spool.oldest(10)} == {seq: sent[seq] for seq in (3, 5)}
    assert spool.resend(spool.spool_id, [(3, 3)]) == [], "under way already"
    assert spool.counts().spooled == 6, "sent again is not made again"
    assert spool.resend("another-spool", [(1, 9)]) == [(1, 9)], "of a spool that is no more, nothing will come"
    spool._db.execute("INSERT INTO archive SELECT 8, day, rank, kind, payload, crc FROM archive WHERE seq = 1")
    assert spool.resend(spool.spool_id, [(7, 9)]) == []
    assert [spool.append(throughput(mark)).seq for mark in (7, 8, 9)] == [7, 8, 9], (
        "nothing is queued under their numbers"
    )
    spool.close()
