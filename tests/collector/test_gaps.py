"""What is missing is named, explained where it can be, asked for where it cannot, and given up where it is gone."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from collector_helpers import (
    PATIENCE_S,
    START,
    Collector,
    Probe,
    collector_config,
    failed,
    journalled,
    message,
    radio,
    result,
    run_cli,
    wait_until,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from base.durable import StorageError
from collector import asking, gaps, spans
from collector.asking import Asker, Question
from collector.instants import moment
from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal, ProbeGone, ProbeStatus
from collector.quarantine import Cause
from collector.settings import ResendSettings
from wire import codec, topics
from wire.delivery import Gone, Resend
from wire.events import Dropped, Missed
from wire.reasons import Unmade
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.servers import Mosquitto
    from wire.results import Result

US = 1_000_000
NOW_US = 1_800_000_000 * US
ASK_SOON = ResendSettings(after_s=100, again_s=1000)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db", fsync=False) as journal:
        yield journal


def store(journal: Journal, *results: Result, at_us: int = NOW_US) -> None:
    intake = Intake()
    for one in results:
        intake.take(Arrival(topics.topic(one.probe_id, topics.RESULT), codec.encode(one), 0))
    journal.append(Batch(received_us=at_us, results=intake.results))


def status(journal: Journal, probe: str = "p1", *, online: bool = True) -> None:
    journal.append(
        Batch(
            received_us=NOW_US,
            statuses=[ProbeStatus(probe, codec.encode(Status(probe_id=probe, online=online)))],
        )
    )


def dropped(seq: int, first: int, last: int, count: int) -> Result:
    return result(seq, outcome=Dropped(counts={"radio": count}, first_seq=first, last_seq=last))


def found(journal: Journal, **choice: Any) -> list[tuple[int, int, str]]:  # noqa: ANN401  # any of its options
    return [(hole.first, hole.last, hole.state) for hole in gaps.collect(journal, **choice).holes]


def test_a_hole_is_open_until_somebody_explains_it(journal: Journal) -> None:
    store(journal, *(radio(seq) for seq in (1, 2, 6, 7, 12)))
    assert found(journal) == [(3, 5, "open"), (8, 11, "open")]
    store(journal, dropped(13, 2, 6, 3))
    assert found(journal) == [(3, 5, "dropped"), (8, 11, "open")]
    journal.append(Batch(received_us=NOW_US, gone=[ProbeGone("p1", "s1", ((9, 10),))]))
    assert found(journal) == [(3, 5, "dropped"), (8, 8, "open"), (9, 10, "gone"), (11, 11, "open")]
    store(journal, radio(9), radio(4))
    assert found(journal) == [(3, 3, "dropped"), (5, 5, "dropped"), (8, 8, "open"), (10, 10, "gone"), (11, 11, "open")]


def test_a_report_of_fewer_results_than_are_missing_explains_nothing(journal: Journal) -> None:
    store(journal, radio(1), dropped(9, 2, 8, 3))
    assert found(journal) == [(2, 8, "open")]


def test_a_report_of_results_that_never_had_a_number_explains_none(journal: Journal) -> None:
    store(journal, radio(2), dropped(4, 0, 0, 500))
    assert found(journal) == [(1, 1, "open"), (3, 3, "open")]


def test_a_report_may_be_of_an_older_spool_of_the_same_probe(
    journal: Journal, make_asked: Callable[..., Asked]
) -> None:
    asked = make_asked()
    status(journal)
    store(journal, radio(1), radio(4))
    asked.step(0)
    outcome = Dropped(counts={"radio": 2}, first_seq=2, last_seq=3, spool_id="s1")
    store(journal, result(1, spool="s2", outcome=outcome), result(1, probe="p2", spool="s9", outcome=outcome))
    assert found(journal) == [(2, 3, "dropped")]
    assert asked.step(500) == [], "explained: nobody is asked"


def test_gaps_are_chosen_by_probe_and_by_the_time_they_came_to_light(journal: Journal) -> None:
    store(journal, radio(1), radio(3))
    store(journal, radio(1, probe="p2"), radio(4, probe="p2"), at_us=NOW_US + 3600 * US)
    assert found(journal, probe="p2") == [(2, 3, "open")]
    later = gaps.collect(journal, since=moment(NOW_US + US)).holes
    assert [(hole.probe, hole.count) for hole in later] == [("p2", 2)]


def test_runs_that_were_not_made_are_listed_with_their_reason(journal: Journal) -> None:
    outcome = Missed(count=8, first=START, last=START + timedelta(days=1), reason=Unmade.AGENT_OFF)
    store(journal, result(1, outcome=outcome))
    (one,) = gaps.collect(journal).not_made
    assert (one.probe, one.link, one.job, one.reason, one.count) == ("p1", "viettel", "light", "agent_off", 8)
    assert gaps.collect(journal, since=START + timedelta(days=2)).not_made == []
    assert "agent_off" in gaps.show(gaps.collect(journal))
    assert "8 runs wanted and not made" in gaps.show(gaps.collect(journal))


def test_a_journal_of_an_older_version_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        store(journal, radio(1), radio(3))
    with sqlite3.connect(path) as db:
        db.executescript("DROP TABLE gone; DROP TABLE asked; DROP INDEX results_of_gaps")
    db.close()
    with Journal(path, read_only=True) as journal:
        assert found(journal) == [(2, 2, "open")]


class Asked:
    """A broker that notes commands, and a database that notes points."""

    def __init__(self, journal: Journal, settings: ResendSettings = ASK_SOON) -> None:
        self.commands: list[tuple[str, Resend]] = []
        self.points: list[str] = []
        self.reachable = True
        self.asker = Asker(Journal(journal.path, fsync=False), settings, self._ask, self.points.append)

    def _ask(self, probe: str, payload: bytes) -> bool:
        if self.reachable:
            self.commands.append((probe, codec.decode(payload, Resend)))
        return self.reachable

    def step(self, after_s: float) -> list[tuple[tuple[int, int], ...]]:
        self.commands.clear()
        self.asker.step(NOW_US + round(after_s * US))
        return [command.ranges for _, command in self.commands]


@pytest.fixture
def make_asked(journal: Journal) -> Iterator[Callable[..., Asked]]:
    made: list[Asked] = []

    def make(*arguments: ResendSettings) -> Asked:
        made.append(Asked(journal, *arguments))
        return made[-1]

    yield make
    for one in made:
        one.asker._journal.close()


@pytest.mark.parametrize("begun_before", [True, False], ids=["from the start", "as it comes"])
def test_a_hole_that_stays_is_asked_for_rarely_until_it_is_filled(
    journal: Journal, make_asked: Callable[..., Asked], *, begun_before: bool
) -> None:
    asked = make_asked()
    if not begun_before:
        asked.step(0)
    status(journal)
    store(journal, radio(1), radio(5), radio(8))
    assert asked.step(99) == [], "what is under way has its time"
    assert asked.step(101) == [((2, 4), (6, 7))]
    assert asked.step(1000) == [], "no answer yet: not so soon again"
    assert asked.step(1102) == [((2, 4), (6, 7))]
    store(journal, radio(2), radio(3), radio(4))
    journal.append(Batch(received_us=NOW_US, gone=[ProbeGone("p1", "s1", ((6, 7),))]))
    assert asked.step(5000) == []
    (holes,) = [coverage.known.holes for coverage in asked.asker._spools.values()]
    assert holes == [(6, 7)]
    assert [one.asked for one in gaps.collect(journal).holes] == [2]


def test_an_answer_makes_way_for_the_next_question(
    journal: Journal, make_asked: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MAX_RESEND_RESULTS", 3)
    asked = make_asked()
    status(journal)
    store(journal, radio(9))
    assert asked.step(101) == [((1, 3),)]
    store(journal, radio(1), radio(2), radio(3))
    assert asked.step(150) == []
    assert asked.step(200) == [((4, 6),)]


def test_a_probe_that_is_away_and_a_broker_that_is_away_are_not_asked(
    journal: Journal, make_asked: Callable[..., Asked]
) -> None:
    asked = make_asked()
    store(journal, radio(3))
    assert asked.step(500) == []
    status(journal, online=False)
    assert asked.step(600) == []
    status(journal)
    asked.reachable = False
    assert asked.step(700) == []
    asked.reachable = True
    assert asked.step(800) == [((1, 2),)]


def test_where_asking_is_off_only_a_person_asks(journal: Journal, make_asked: Callable[..., Asked]) -> None:
    asked = make_asked(ResendSettings(ask=False))
    status(journal)
    store(journal, radio(3))
    assert asked.step(10**6) == []
    assert gaps.wish(journal, gaps.collect(journal).holes) == 1
    assert asked.step(1) == [((1, 2),)]
    assert asked.step(2) == [], "once"


def test_a_probe_with_several_spools_is_asked_for_one_at_a_time_and_no_faster_than_it_obeys(
    journal: Journal, make_asked: Callable[..., Asked]
) -> None:
    asked = make_asked()
    status(journal)
    status(journal, "p2")
    store(journal, *(radio(seq, spool=spool) for spool in ("s1", "s2", "s3") for seq in (1, 3)))
    store(journal, radio(3, probe="p2"))
    heard = [(second, *one) for second in range(100, 1100, 5) if asked.step(second) for one in asked.commands]
    assert [(second, probe, command.spool_id) for second, probe, command in heard] == [
        (100, "p1", "s1"),
        (100, "p2", "s1"),
        (190, "p1", "s2"),
        (280, "p1", "s3"),
    ]


def test_a_wish_for_several_spools_of_a_probe_stands_until_each_had_its_turn(
    journal: Journal, make_asked: Callable[..., Asked]
) -> None:
    asked = make_asked()
    status(journal)
    store(journal, *(radio(seq, spool=spool) for spool in ("s1", "s2") for seq in (1, 3)))
    assert asked.step(101)
    assert gaps.wish(journal, gaps.collect(journal).holes) == 2
    heard = [
        (second, one.spool_id) for second in range(105, 1000, 5) if asked.step(second) for _, one in asked.commands
    ]
    assert heard == [(195, "s1"), (285, "s2")]


def test_what_cannot_be_noted_is_asked_once(
    journal: Journal, make_asked: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make_asked()
    status(journal)
    store(journal, radio(3))
    gaps.wish(journal, gaps.collect(journal).holes)
    refusals = iter(["disk full"] * 3)
    note = asked.asker._journal.asked

    def refuse(spool: int, now_us: int) -> None:
        if (text := next(refusals, "")) != "":
            raise StorageError(text)
        note(spool, now_us)

    monkeypatch.setattr(asked.asker._journal, "asked", refuse)
    commands = []
    for second in (500, 600, 700):
        with pytest.raises(StorageError):
            asked.step(second)
        commands += asked.commands
    for second in (800, 900):
        asked.step(second)
        commands += asked.commands
    assert [command.ranges for _, command in commands] == [((1, 2),)]
    [hole] = gaps.collect(journal).holes
    assert (hole.asked, hole.asked_at) == (1, moment(NOW_US + 500 * US))


def test_a_search_that_fails_begins_anew(
    journal: Journal,
    make_asked: Callable[..., Asked],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(asking, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(asking, "_AFTER_FAULT_S", 0.01)
    asked = make_asked(ResendSettings(after_s=0))
    status(journal)
    store(journal, radio(3), at_us=1)
    faults = iter([KeyError("no such spool")])
    look = asked.asker._questions

    def stumble(*arguments: Any) -> list[Question]:  # noqa: ANN401  # whatever it takes
        if (fault := next(faults, None)) is not None:
            raise fault
        return look(*arguments)

    monkeypatch.setattr(asked.asker, "_questions", stumble)
    asked.asker.start()
    try:
        wait_until(lambda: asked.commands, "the probe is asked", timeout_s=10)
    finally:
        asked.asker.stop()
    assert [command.ranges for _, command in asked.commands] == [((1, 2),)]
    assert caplog.text.count("begins anew") == 1


def test_a_point_tells_what_is_missing_and_that_it_is_no_more(
    journal: Journal, make_asked: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "POINTS_EVERY_S", 0)
    asked = make_asked()
    store(journal, radio(1), radio(1, probe="p2"), radio(4, probe="p2"))
    asked.step(0)
    assert [line.rpartition(" ")[0] for line in asked.points] == ["gap,probe=p2 open=2i,dropped=0i,gone=0i,missing=2i"]
    store(journal, radio(2, probe="p2"), radio(3, probe="p2"))
    asked.step(1)
    asked.step(2)
    assert [line.split()[1] for line in asked.points[1:]] == ["open=0i,dropped=0i,gone=0i,missing=0i"]


@settings(deadline=None, max_examples=40)
@given(order=st.permutations(range(1, 13)), lost=st.sets(st.integers(1, 12), max_size=6), split=st.integers(0, 12))
def test_following_what_comes_finds_what_reading_all_finds(order: list[int], lost: set[int], split: int) -> None:
    import tempfile  # noqa: PLC0415  # a fixture would be shared by all examples
    from pathlib import Path  # noqa: PLC0415  # the same

    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.db", fsync=False) as journal:
        come = [seq for seq in order if seq not in lost]
        asked = Asked(journal)
        store(journal, *(radio(seq) for seq in come[:split]))
        asked.asker.step(NOW_US)
        for seq in come[split:]:
            store(journal, radio(seq))
        asked.asker.step(NOW_US)
        followed = [hole for one in asked.asker._spools.values() for hole in one.known.holes]
        asked.asker._journal.close()
        assert spans.joined(followed) == [(hole.first, hole.last) for hole in gaps.collect(journal).holes]


def test_an_answer_is_bound_to_its_topic_and_to_what_has_come(journal: Journal) -> None:
    intake = Intake()
    store(journal, radio(5))
    for payload in (codec.encode(Gone(spool_id="s1", ranges=((2, 900), (7, 9)))), b"garbage", b"{}"):
        intake.take(Arrival(topics.topic("p1", topics.REPLY), payload, len(payload)))
    assert [one.reason for one in intake.parked] == [Cause.UNDECODABLE] * 2
    journal.append(Batch(received_us=NOW_US, gone=[*intake.gone, ProbeGone("p2", "s1", ((1, 1),))]))
    rows = journal.connection.execute("SELECT first, last FROM gone").fetchall()
    assert rows == [(2, 5)], "nothing of another probe, nothing that has not come yet"


@pytest.mark.journey
def test_a_collector_asks_by_itself_and_by_hand_and_notes_the_answer(tmp_path: Path, broker: Mosquitto) -> None:
    config = collector_config(tmp_path, broker, {"kind": "none"})
    document = json.loads(config.read_text()) | {"resend": {"ask": False}}
    config.write_text(json.dumps(document))
    with Probe(broker, "p3", tmp_path) as probe, Collector(config, tmp_path / "journal.db") as collector:
        commands: list[Resend] = []
        probe.client.message_callback_add(
            topics.topic("p3", topics.COMMAND), lambda _c, _d, m: commands.append(codec.decode(m.payload, Resend))
        )
        probe.client.subscribe(topics.topic("p3", topics.COMMAND), 1)
        probe.send(codec.encode(Status(probe_id="p3", online=True)), topics.STATUS)
        probe.send(message(failed(1, probe="p3"), failed(4, probe="p3")))
        wait_until(lambda: journalled(collector.journal).get("p3"), "both are stored")
        done = run_cli("gaps", "--config", str(config), "--json", "--ask")
        assert [(hole["first"], hole["last"]) for hole in json.loads(done.stdout)["holes"]] == [(2, 3)]
        assert "of 1 spools" in done.stderr
        wait_until(lambda: commands, "the probe is asked", timeout_s=PATIENCE_S + asking.LOOK_EVERY_S)
        assert commands[0].ranges == ((2, 3),)
        probe.send(codec.encode(Gone(spool_id="s1", ranges=((2, 2),))), topics.REPLY)
        probe.send(message(failed(3, probe="p3")))

        def holes() -> list[tuple[int, str]]:
            text = run_cli("gaps", "--config", str(config), "--json").stdout
            return [(hole["first"], hole["state"]) for hole in json.loads(text)["holes"]]

        begun_s = time.monotonic()
        while holes() != [(2, "gone")]:
            assert time.monotonic() - begun_s < PATIENCE_S
        assert "1 gone for good" in run_cli("gaps", "--config", str(config)).stdout
