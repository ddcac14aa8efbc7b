"""A point's key: when two results can be one point in InfluxDB, and that an agent makes no such two."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from collector_helpers import READING, START, result
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spool import Spool
from collector import points
from lab.torture import evidence
from wire import codec
from wire.delivery import CONFLICT, Refusal
from wire.events import Dropped, Missed
from wire.measured import Radio
from wire.reasons import Reason, Unmade
from wire.results import Failed, Job

if TYPE_CHECKING:
    from wire.results import Outcome, Result

OUTCOMES: list[Outcome] = [
    result(1).outcome,
    Radio(reading=READING),
    Failed(reason=Reason.BUSY),
    Failed(reason=Reason.TIMEOUT),
    Missed(count=1, first=START, last=START, reason=Unmade.AGENT_OFF),
    Dropped(counts={"radio": 1}, first_seq=1, last_seq=1),
]

near_us = st.integers(-2, 2) | st.integers(-3, 3).map(lambda ms: ms * 1000) | st.integers(-(10**12), 10**12)
made = st.builds(
    lambda probe, spool, seq, us, outcome, job, link, site: result(
        seq,
        probe=probe,
        spool=spool,
        started_at=START + timedelta(microseconds=us),
        outcome=outcome,
        job=Job(name=job, measurement="throughput"),
        link=link,
        site=site,
    ),
    st.sampled_from(["p1", "p2"]),
    st.sampled_from(["s1", "s2"]),
    st.integers(1, 3) | st.sampled_from([999, 1000, 1001, 1002]) | st.integers(1, 10**7),
    near_us,
    st.sampled_from(OUTCOMES),
    st.sampled_from(["light", "full"]),
    st.sampled_from(["viettel", "vina"]),
    st.sampled_from(["tan-phong", "sin-ho"]),
)


def key(one: Result) -> evidence.Key:
    return evidence.key(points.line(one))


@given(made, made)
@settings(max_examples=800)
def test_two_results_are_one_point_only_in_the_same_microsecond_with_numbers_a_thousand_apart(
    one: Result, other: Result
) -> None:
    same_series = key(one).series == key(other).series
    assert same_series == (
        (one.probe_id, one.site, type(one.outcome), getattr(one.outcome, "reason", None), one.link, one.job)
        == (
            other.probe_id,
            other.site,
            type(other.outcome),
            getattr(other.outcome, "reason", None),
            other.link,
            other.job,
        )
    )
    one_point = same_series and one.started_at == other.started_at and one.seq % 1000 == other.seq % 1000
    assert (key(one) == key(other)) == one_point


@given(made, st.integers(1, 10**7), st.integers(2, 1000))
def test_a_thousand_results_in_a_row_of_one_series_and_one_instant_are_a_thousand_points(
    one: Result, first: int, count: int
) -> None:
    def at(seq: int) -> evidence.Key:
        return key(result(seq, started_at=one.started_at, outcome=one.outcome))

    assert len({at(seq) for seq in range(first, first + count)}) == count


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "defer", "defer", "flush", "kill", "send", "conflict"]),
        st.integers(0, len(OUTCOMES) - 2),
        st.sampled_from([0, 0, 0, 1, 1000, 10**6]) | near_us,
    ),
    max_size=40,
)


class Agent:
    """A spool whose agent is killed, whose clock steps, and a collector that takes what comes or says "conflict"."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spool.db"
        self._spool = self._opened()
        self.now = START
        self.count = 0
        self.taken: dict[tuple[str, int], Result] = {}

    def _opened(self) -> Spool:
        return Spool(self._path, max_bytes=10**8, defer_s=3600.0)

    def step(self, what: str, outcome: Outcome) -> None:
        match what:
            case "append":
                self._spool.append(self._made(outcome))
            case "defer":
                self._spool.defer(self._made(outcome))
            case "flush":
                self._spool.flush()
            case "kill":
                self._spool._db.close()
                self._spool = self._opened()
            case "send":
                self.send()
            case "conflict":
                for _, payload in self._spool.oldest(1):
                    refused = codec.decode_result(payload)
                    self._spool.refuse(refused.spool_id, [Refusal(seq=refused.seq, reason=CONFLICT)])

    def _made(self, outcome: Outcome) -> Result:
        self.count += 1
        return result(0, spool="", started_at=self.now, outcome=outcome, elapsed_s=float(self.count))

    def send(self) -> None:
        for _, payload in self._spool.oldest(10_000):
            one = codec.decode_result(payload)
            self.taken[one.spool_id, one.seq] = one
            self._spool.acknowledge(one.spool_id, [(one.seq, one.seq)])

    def close(self) -> None:
        self._spool.flush()
        self.send()
        self._spool.close()


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_what_an_agent_makes_whatever_befalls_it_is_a_point_each(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Path(folder))
        for what, outcome, step_us in steps:
            agent.now += timedelta(microseconds=step_us)
            agent.step(what, OUTCOMES[outcome])
        agent.close()
    assert sorted(one.elapsed_s for one in agent.taken.values()) == list(range(1, agent.count + 1)), "each once"
    seen: dict[evidence.Key, Result] = {}
    for one in agent.taken.values():
        other = seen.setdefault(key(one), one)
        assert other is one or (other.started_at == one.started_at and other.spool_id != one.spool_id), (
            "one point only for numbers of two spools in the same microsecond"
        )
