"""The writer's mark under every order of commits, answers and deaths: it never passes a row that is not written."""

from __future__ import annotations

import re
import tempfile
import time
from collections import deque
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from collector_helpers import result
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from base.durable import StorageError
from collector import points, writer
from collector.influx import Busy, Misconfigured, Rejected, SinkError
from collector.instants import microseconds
from collector.journal import Batch, Entry, Journal
from collector.writer import Writer
from wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

    from collector.quarantine import Parked

KEY = re.compile(r"((?:\\.|[^ \\])*) .* (-?\d+)")
BAD_SITE = "bad-site"
NO_RESULT = b"{}"


class Answer(Enum):
    """What the database does with a batch."""

    TAKES_IT = auto()
    IS_AWAY = auto()
    REFUSES_US = auto()
    TAKES_IT_AND_ITS_ANSWER_IS_LOST = auto()
    TAKES_A_PART_AND_DIES = auto()
    TAKES_IT_AND_WE_DIE = auto()
    TAKES_A_PART_AND_WE_DIE = auto()


class Killed(BaseException):
    """`kill -9` of the collector."""


class Shelf:
    """A database: points by their key. Lines of a bad site are refused as InfluxDB 1.x does: the others are kept."""

    name = "shelf"

    def __init__(self, while_it_writes: Callable[[], None]) -> None:
        self.points: dict[tuple[str, int], str] = {}
        self.answers: deque[Answer] = deque()
        self.all_or_nothing = False
        self._while_it_writes = while_it_writes

    def write(self, lines: Sequence[str]) -> None:
        answer = self.answers.popleft() if self.answers else Answer.TAKES_IT
        self._while_it_writes()
        if answer is Answer.IS_AWAY:
            raise Busy("away")
        if answer is Answer.REFUSES_US:
            raise Misconfigured("401")
        part = answer in {Answer.TAKES_A_PART_AND_DIES, Answer.TAKES_A_PART_AND_WE_DIE}
        bad = [line for line in lines if BAD_SITE in line]
        if not (bad and self.all_or_nothing):
            for line in lines[: len(lines) // 2 if part else len(lines)]:
                if line not in bad:
                    self.points[key(line)] = line
        if answer in {Answer.TAKES_IT_AND_ITS_ANSWER_IS_LOST, Answer.TAKES_A_PART_AND_DIES}:
            raise Busy("timeout")
        if answer in {Answer.TAKES_IT_AND_WE_DIE, Answer.TAKES_A_PART_AND_WE_DIE}:
            raise Killed
        if bad:
            raise Rejected(f"400: partial write: dropped={len(bad)}")

    def close(self) -> None:
        pass


class Disk(Journal):
    """The writer's connection to the journal; its commits may fail, before or after they are done."""

    troubles: deque[bool]

    def park(self, received_us: int, parked: Sequence[Parked], *, sink: str, cursor: int) -> None:
        trouble = self.troubles.popleft() if self.troubles else None
        if trouble is False:
            raise StorageError("disk full")
        super().park(received_us, parked, sink=sink, cursor=cursor)
        if trouble:
            raise StorageError("input/output error")


def key(line: str) -> tuple[str, int]:
    found = KEY.fullmatch(line)
    assert found, line
    return found[1], int(found[2])


class Mark(RuleBasedStateMachine):
    """A journal that grows, a database with moods, and a writer that is stepped and killed between them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.db"
        self.beside = Journal(self.path, fsync=False)
        self.shelf = Shelf(self._commit_meanwhile)
        self.meanwhile = 0
        self.count = 0
        self.troubles: deque[bool] = deque()
        self.writer = self._new_writer()

    def _new_writer(self) -> Writer:
        journal = Disk(self.path, fsync=False)
        journal.troubles = self.troubles
        return Writer(journal, self.shelf)

    def _kill(self) -> None:
        self.writer._poster.shutdown()
        self.writer._journal.close()
        self.writer = self._new_writer()

    def _commit_meanwhile(self) -> None:
        if self.meanwhile:
            self._commit("site", self.meanwhile, late=False, handed=True)
            self.meanwhile = 0

    def _commit(self, site: str, count: int, *, late: bool, handed: bool) -> None:
        entries, lines = [], []
        for _ in range(count):
            self.count += 1
            seq = 10_000 - self.count if site == "backwards" else 20_000 + self.count
            one = result(seq, site=site, spool=f"s{self.count % 2}")
            payload = NO_RESULT if site == "no-result" else codec.encode(one)
            lines.append("" if site == "no-result" else points.line(one))
            entries.append(Entry("p1", one.spool_id, seq, "throughput", microseconds(one.started_at), payload))
        received_us = 1 if late else time.time_ns() // 1000
        self.beside.append(Batch(received_us=received_us, results=entries))
        if handed:
            self.writer.handover.put(self.beside.new_ids, lines)

    @rule(
        site=st.sampled_from(["site", "backwards", BAD_SITE, "no-result"]),
        count=st.integers(1, 12),
        late=st.booleans(),
        handed=st.booleans(),
    )
    def results_come_in(self, site: str, count: int, late: bool, handed: bool) -> None:  # noqa: FBT001  # drawn
        self._commit(site, count, late=late, handed=handed)

    @rule(
        answers=st.lists(st.sampled_from([*Answer, *[Answer.TAKES_IT] * len(Answer)]), max_size=3),
        troubles=st.sampled_from([[], [], [], [], [True], [False]]),
        meanwhile=st.integers(0, 6),
        status=st.sampled_from(["", "", "", "probe,probe=p1 online=true 1", f"probe,site={BAD_SITE} online=true 1"]),
        all_or_nothing=st.booleans(),
    )
    def the_writer_does_a_step(
        self,
        answers: list[Answer],
        troubles: list[bool],
        meanwhile: int,
        status: str,
        all_or_nothing: bool,  # noqa: FBT001  # drawn
    ) -> None:
        self.shelf.answers, self.shelf.all_or_nothing, self.meanwhile = deque(answers), all_or_nothing, meanwhile
        self.troubles.extend(troubles)
        if status:
            self.writer.add_status(status)
        try:
            with suppress(SinkError, StorageError):
                self.writer._step()
        except Killed:
            self._kill()
        self.shelf.answers.clear()
        self.troubles.clear()
        self.meanwhile = 0

    def _check(self, first: int, last: int) -> None:
        """Whether what can be written is, and what cannot be is parked."""
        query = "SELECT payload FROM quarantine WHERE stage = 'sink'"
        parked = {payload for (payload,) in self.beside.connection.execute(query)}
        for row in self.beside.read(first, 10_000, until=last):
            if row.payload == NO_RESULT or BAD_SITE.encode() in row.payload:
                assert row.payload in parked, f"row {row.id} is passed by the mark and nobody knows why"
            else:
                line = points.line(codec.decode_result(row.payload))
                assert self.shelf.points.get(key(line)) == line, f"row {row.id} is passed by the mark and not written"
                assert row.payload not in parked, f"row {row.id} is parked for nothing"

    @invariant()
    def the_mark_has_passed_nothing_that_is_not_written(self) -> None:
        self._check(0, self.beside.cursor("shelf"))

    @invariant()
    def what_the_writer_leapt_to_is_written(self) -> None:
        if self.writer._ahead is not None:
            self._check(*self.writer._ahead)

    def teardown(self) -> None:
        try:
            self._recover()
        finally:
            self.writer._poster.shutdown()
            self.writer._journal.close()
            self.beside.close()
            self.folder.cleanup()

    def _recover(self) -> None:
        rows = self.beside.read(0, 10_000)
        for _ in range(len(rows) + 10):
            self.writer._step()
        assert self.beside.cursor("shelf") == (rows[-1].id if rows else 0), "level with the journal"
        self._check(0, 10_000)
        made = [codec.decode_result(row.payload) for row in rows if row.payload != NO_RESULT]
        wanted = {key(points.line(one)) for one in made if one.site != BAD_SITE}
        assert len(wanted) == sum(one.site != BAD_SITE for one in made), "a key for each"
        assert {at for at in self.shelf.points if not at[0].startswith("probe,")} == wanted, "each once, nothing else"


def test_the_mark_never_passes_a_row_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 4)
    run_state_machine_as_test(Mark, settings=settings(max_examples=80, stateful_step_count=30, deadline=None))
