"""Anything at all from the broker, through everything that reads it: intake, journal, reports, questions, points."""

from __future__ import annotations

import tempfile
import zlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from collector_helpers import START, failed, radio, result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector import clashes, gaps, points, stats
from collector.acks import Acks
from collector.asking import Asker
from collector.intake import Arrival, Intake
from collector.journal import Batch, Journal
from collector.settings import ResendSettings
from collector.writer import lines_of
from wire import codec, topics
from wire.delivery import Gone
from wire.events import Dropped, Missed
from wire.reasons import Unmade
from wire.status import ResponderStatus, Status

NOW_US = 1_800_000_000_000_000

_GOOD = {
    topics.RESULT: [
        result(1),
        radio(3),
        failed(9),
        result(5, outcome=Dropped(counts={"radio": 2}, first_seq=1, last_seq=4)),
        result(7, outcome=Missed(count=1, first=START, last=START, reason=Unmade.AGENT_OFF)),
    ],
    topics.STATUS: [
        Status(probe_id="p1", online=True, at=datetime.now(UTC), started_at=START, machine="pi", backlog=3)
    ],
    topics.REPLY: [Gone(spool_id="s1", ranges=((1, 3),))],
    topics.RESPONDER: [ResponderStatus(responder="p1", counts={"asked": 1})],
}
_NUMBERS = [b"0", b"-1", b"1e308", b"1e999", b"-0.0", b"9223372036854775807", b"18446744073709551616", b"1" * 60]
_VALUES = [*_NUMBERS, b"null", b"true", b'""', b'"\xff\xfe"', b'"\\u0000,= \\n"', b"[]", b"{}", b"[" * 40 + b"]" * 40]


def bent(payload: bytes, where: int, value: bytes) -> bytes:
    """Put a value in place of one of a message's own, or, as often, under a name that nobody knows."""
    fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    name = "of tomorrow" if where < 0 else list(fields)[where % len(fields)]
    fields[name] = msgspec.Raw(value)
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(raw) for name, raw in fields.items()) + b"}"


leaves = st.sampled_from(sorted(_GOOD))
arrivals = leaves.flatmap(
    lambda leaf: st.tuples(
        st.sampled_from([topics.topic("p1", leaf)] * 6 + [topics.topic("p2", leaf), "", "probefleet/v1", "\x00/#"]),
        st.one_of(
            st.builds(
                bent, st.sampled_from(_GOOD[leaf]).map(codec.encode), st.integers(-30, 30), st.sampled_from(_VALUES)
            ),
            st.sampled_from(_GOOD[leaf]).map(codec.encode),
            st.builds(bent, st.sampled_from(_GOOD[leaf]).map(codec.encode), st.just(-1), st.sampled_from(_VALUES)),
            st.binary(max_size=60),
            st.binary(max_size=60).map(zlib.compress),
        ),
    )
)


_STATUS = codec.encode(_GOOD[topics.STATUS][0])


@example([(topics.topic("p1", topics.STATUS), bent(_STATUS, -1, b"1e999"))])
@example([(topics.topic("p1", topics.STATUS), bent(_STATUS, -1, b'"\xff"'))])
@settings(max_examples=40, deadline=None)
@given(st.lists(arrivals, min_size=4, max_size=12))
def test_whatever_arrives_nothing_that_reads_the_journal_stumbles_over_it(heard: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        questions: list[bytes] = []
        told: list[str] = []
        watch = clashes.Watch()
        with Journal(path, fsync=False) as journal, Journal(path, fsync=False) as own:
            asker = Asker(own, ResendSettings(after_s=0), lambda _, command: not questions.append(command), told.append)
            for topic, payload in heard:  # one by one, as on different days
                intake = Intake(lined=True)
                intake.take(Arrival(topic, payload, len(payload)))
                batch = Batch(
                    received_us=NOW_US,
                    results=intake.results,
                    parked=intake.parked,
                    statuses=intake.statuses,
                    gone=intake.gone,
                )
                unsaid = Acks()
                unsaid.note(intake, journal.append(batch))
                for _, ack in unsaid.take():
                    codec.encode(ack)
                for status in intake.statuses:
                    decoded = codec.decode(status.payload, Status)
                    told.append(points.status_line(decoded, points.status_time_us(decoded, NOW_US)))
                    if (shared := watch.hear(decoded)) is not None:
                        clashes.note(journal, shared, NOW_US)
                told += [points.responder_line(status, NOW_US) for status in intake.responders]
                asker.step(NOW_US + 1_000_000_000)
            rows = journal.read(0, 1000)
            assert stats.table(stats.collect(journal))
            assert gaps.show(gaps.collect(journal))
            assert clashes.text(clashes.collect(journal)) is not None
        written, refused = lines_of(rows)
        assert len(written) + len(refused) == len(rows)
        assert all("\n" not in line for line in [*told, *(line for _, line in written)])
        assert all(codec.decode(command, msgspec.Raw) for command in questions)
