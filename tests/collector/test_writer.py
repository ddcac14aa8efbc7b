from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest
from collector_helpers import result, wait_until

from collector import points, writer
from collector.handover import Handover
from collector.influx import Busy, Misconfigured, Rejected
from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal
from collector.writer import Writer, write_sorted
from wire import codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Memory:
    """A sink that keeps lines and refuses as told; the behaviours are those of the real doors' tests."""

    name = "memory"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.batches: list[int] = []
        self.rejects: set[str] = set()
        self.trouble: Exception | None = None
        self.closed = False
        self.called = threading.Event()

    def write(self, lines: Sequence[str]) -> None:
        self.called.set()
        if self.trouble is not None:
            raise self.trouble
        self.batches.append(len(lines))
        if any(line in self.rejects for line in lines):
            raise Rejected("400: no")
        self.lines += lines

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GATHER_S", 0.0)
    monkeypatch.setattr(writer, "_IDLE_S", 0.02)
    monkeypatch.setattr(writer, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(writer, "_LONGEST_PAUSE_S", 0.05)


def store(
    journal: Journal, *numbers: int, received_us: int | None = None, handover: Handover | None = None
) -> list[str]:
    """Append results, and hand them over as the journal's thread does; return their lines."""
    intake = Intake(lined=handover is not None)
    for number in numbers:
        payload = codec.encode(result(number))
        intake.take(Arrival("probefleet/v1/p1/result", payload, len(payload)))
    journal.append(Batch(received_us=received_us or time.time_ns() // 1000, results=intake.results))
    if handover is not None:
        handover.put(journal.new_ids, [entry.line for entry in intake.results])
    return [points.line(result(number)) for number in numbers]


@pytest.fixture
def running(journal: Journal) -> Iterator[tuple[Writer, Memory]]:
    sink = Memory()
    started = Writer(Journal(journal.path), sink)
    yield started, sink
    started.stop()
    assert sink.closed


def test_what_is_journalled_is_written_in_order_and_the_cursor_follows(
    journal: Journal, running: tuple[Writer, Memory]
) -> None:
    lines = store(journal, *range(1, 51))
    running[0].start()
    wait_until(lambda: journal.cursor("memory") == 50)
    lines += store(journal, 60, 55)
    running[0].wake()
    wait_until(lambda: journal.cursor("memory") == 52)
    assert running[1].lines == lines


def test_while_the_database_is_away_nothing_moves_and_then_all_is_written_once(
    journal: Journal, running: tuple[Writer, Memory], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sink = running[1]
    lines = store(journal, *range(1, 11))
    for trouble in (Busy("down"), Misconfigured("no such bucket"), Busy("slow", retry_after_s=0.01)):
        sink.trouble = trouble
        sink.called.clear()
        if not running[0].alive:
            running[0].start()
        assert sink.called.wait(10)
        assert journal.cursor("memory") == 0
        lines += store(journal, 100 + len(lines))
    sink.trouble = None
    wait_until(lambda: journal.cursor("memory") == 13)
    assert sink.lines == lines
    assert caplog.text.count("down") == 1, "said once, not at every try"
    assert "writing again" in caplog.text


def test_a_rejected_point_is_parked_and_its_batch_mates_are_written(
    journal: Journal, running: tuple[Writer, Memory]
) -> None:
    lines = store(journal, *range(1, 101))
    running[1].rejects = {lines[17], lines[63]}
    running[0].start()
    wait_until(lambda: journal.cursor("memory") == 100)
    assert running[1].lines == [line for line in lines if line not in running[1].rejects]
    rows = journal.connection.execute("SELECT stage, reason, detail, topic FROM quarantine").fetchall()
    assert rows == [("sink", "rejected", "400: no", "memory")] * 2
    assert len(running[1].batches) < 30, "found by halving"


def test_a_new_writer_goes_on_where_the_last_one_stopped(journal: Journal) -> None:
    for numbers in ((1, 2, 3), (4, 5)):
        lines = store(journal, *numbers)
        sink = Memory()
        one = Writer(Journal(journal.path), sink)
        one.start()
        wait_until(lambda numbers=numbers: journal.cursor("memory") == numbers[-1])
        one.stop()
        assert sink.lines == lines


def test_a_status_is_written_beside_the_results_and_lost_with_the_database(
    journal: Journal, running: tuple[Writer, Memory]
) -> None:
    running[0].start()
    running[0].add_status("probe,probe=p1 online=true 1")
    wait_until(lambda: running[1].lines)
    running[1].trouble = Busy("down")
    for number in range(5000):
        running[0].add_status(f"probe,probe=p1 online=true {number}")
    running[1].trouble = None
    store(journal, 1)
    wait_until(lambda: journal.cursor("memory") == 1)
    assert len(running[1].lines) <= 5002


@pytest.mark.parametrize("wish_s", [0.0, None, 0.001])
def test_a_database_that_wishes_for_no_pause_gets_the_writers_own(
    running: tuple[Writer, Memory], wish_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(writer, "_LONGEST_PAUSE_S", 10.0)
    running[0].start()
    pause_s, pauses = 0.0, []
    for _ in range(20):
        pause_s = running[0]._pause_s(Busy("overloaded", wish_s), pause_s)
        pauses.append(pause_s)
    assert min(pauses) >= 0.25
    assert max(pauses) > 2, "longer and longer"
    assert running[0]._pause_s(Busy("overloaded", 60.0), 0.0) == 60.0


def test_refused_status_points_are_said_now_and_then_and_hold_nothing_up(
    journal: Journal, running: tuple[Writer, Memory], caplog: pytest.LogCaptureFixture
) -> None:
    sink = running[1]
    sink.rejects = {"gap,probe=p1 open=9i 1", "gap,probe=p1 open=9i 2"}
    running[0].start()
    lines = store(journal, 1)
    for second in (1, 2):
        running[0].add_status(f"gap,probe=p1 open=9i {second}")
        running[0].add_status(f"gap,probe=p2 open=9i {second}")
        wait_until(lambda second=second: f"gap,probe=p2 open=9i {second}" in sink.lines)
    wait_until(lambda: set(lines) <= set(sink.lines))
    assert caplog.text.count("status points refused") == 1
    assert "400: no: gap,probe=p1 open=9i 1" in caplog.text


def test_what_the_database_rejects_alone_is_named_alone() -> None:
    sink = Memory()
    sink.rejects = {"b", "e"}
    assert write_sorted(sink, [(name, name) for name in "abcdefg"]) == [("b", "400: no"), ("e", "400: no")]
    assert sink.lines == ["a", "c", "d", "f", "g"]
    assert write_sorted(sink, []) == []


def test_after_an_outage_the_newest_go_first_and_everything_follows(
    journal: Journal, running: tuple[Writer, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 10)
    sink = running[1]
    old = store(journal, *range(1, 101), received_us=1)
    news: list[str] = []
    write = sink.write
    with Journal(journal.path) as beside:

        def while_it_writes(lines: Sequence[str]) -> None:
            if 30 < len(sink.lines) < 70:
                news.extend(store(beside, 1000 + len(news)))
            write(lines)

        sink.write = while_it_writes  # type: ignore[method-assign]
        running[0].start()
        wait_until(lambda: news and journal.cursor("memory") == 100 + len(news))
    assert sorted(sink.lines) == sorted(old + news), "each once"
    assert len(news) > 3
    assert [line for line in sink.lines if line in old] == old
    places = [sink.lines.index(line) for line in news]
    assert max(places) < len(sink.lines) - 20, "the last news did not wait for the last of the backlog"


def test_a_writer_that_dies_ahead_of_its_cursor_leaves_nothing_out(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 10)
    wanted = store(journal, *range(1, 96), received_us=1)
    written: set[str] = set()
    for life in range(30):
        sink = Memory()
        one = Writer(Journal(journal.path), sink)
        for _ in range(4):  # steps of a thread that is then killed
            one._step()
            wanted += store(journal, 1000 + len(wanted), received_us=1 if life % 3 else None)
        one._journal.close()
        written |= set(sink.lines)
        assert journal.cursor("memory") <= len(wanted)
        behind = {points.line(codec.decode_result(row.payload)) for row in journal.read(0, journal.cursor("memory"))}
        assert behind <= written, "nothing before the cursor is missing"
    assert journal.cursor("memory") > 95


def test_lines_built_while_the_database_works_are_those_of_their_rows(
    journal: Journal, running: tuple[Writer, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 10)
    built: list[int] = []
    line = points.line
    monkeypatch.setattr(points, "line", lambda one: (built.append(one.seq), line(one))[1])
    lines = store(journal, *range(1, 96))
    built.clear()
    running[1].rejects = {lines[33]}
    running[0].start()
    wait_until(lambda: journal.cursor("memory") == 95)
    assert running[1].lines == [one for one in lines if one != lines[33]]
    assert sorted(built) == list(range(1, 96)), "each built once"


def test_what_is_handed_over_is_neither_read_nor_built_again(
    journal: Journal, running: tuple[Writer, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 10)
    handover = running[0].handover
    lines = store(journal, 1, 2)
    lines += store(journal, *range(3, 40), handover=handover)
    store(journal, 39, 40, handover=handover)  # 39 once more: their ids are not known
    lines += [points.line(result(40)), *store(journal, 41, 42, handover=handover)]
    store(journal, 42, 41, handover=handover)
    journal.connection.execute("UPDATE sqlite_sequence SET seq = seq + 7 WHERE name = 'results'")  # ids may have gaps
    lines += store(journal, 43, 44, handover=handover)
    running[1].rejects = {lines[30]}
    read: list[int] = []
    lines_of = writer.lines_of
    monkeypatch.setattr(writer, "lines_of", lambda rows: (read.extend(row.id for row in rows), lines_of(rows))[1])
    running[0].start()
    wait_until(lambda: journal.cursor("memory") == journal.waiting(0)[1])
    assert running[1].lines == [line for line in lines if line != lines[30]], "each once, in order"
    assert journal.connection.execute("SELECT payload FROM quarantine").fetchall() == [(codec.encode(result(31)),)]
    assert sorted(read) == [row.id for row in journal.read(0, 100) if row.id < 3 or b'"seq":40,' in row.payload]


def test_news_do_not_cost_the_lines_that_were_built_of_the_backlog(
    journal: Journal, running: tuple[Writer, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 10)
    built: list[int] = []
    line = points.line
    old = store(journal, *range(1, 101), received_us=1)
    news: list[str] = []
    sink = running[1]
    write = sink.write
    with Journal(journal.path) as beside:

        def while_it_writes(lines: Sequence[str]) -> None:
            if lines[0] in old and len(sink.lines) < 100:
                news.extend(store(beside, 1000 + len(news)))
            write(lines)

        sink.write = while_it_writes  # type: ignore[method-assign]
        monkeypatch.setattr(points, "line", lambda one: (built.append(one.seq), line(one))[1])
        running[0].start()
        wait_until(lambda: news and journal.cursor("memory") == 100 + len(news))
    assert len(news) > 5
    assert sorted(number for number in built if number < 1000) == list(range(1, 101)), "each built once"


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_handed_over_and_whenever_every_row_of_the_journal_is_written_and_nothing_else(
    seed: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_RESULTS", 5)
    dice = random.Random(seed)
    sink = Memory()
    one = Writer(Journal(journal.path), sink)
    one.handover = Handover(dice.choice([0, 4, 15, 100]))
    for _ in range(60):
        if dice.random() < 0.5:
            numbers = [dice.randrange(1, 300) for _ in range(dice.randrange(1, 9))]  # some come again, one fills a gap
            late = 1 if dice.random() < 0.2 else None
            store(journal, *numbers, received_us=late, handover=one.handover if one.handover.wanted else None)
        sink.trouble = Busy("down") if dice.random() < 0.3 else None
        with contextlib.suppress(Busy):
            one._step()
    sink.trouble = None
    for _ in range(200):
        one._step()
    assert journal.cursor("memory") == journal.waiting(0)[1]
    one._poster.shutdown()
    one._journal.close()
    wanted = [points.line(codec.decode_result(row.payload)) for row in journal.read(0, 1000)]
    assert set(sink.lines) == set(wanted)
    assert len(wanted) > 50
