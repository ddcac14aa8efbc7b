"""The agent keeps its links up between runs: the steps of the ladder are results, and nothing happens during a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.modem.hands import RungFailed
from agent.modem.recovery import RUNGS, RecoveryOptions
from agent.modems import SerialModems
from agent.runner import Runner
from agent.settings import Link, RadioJob, Settings, Site
from agent.spool import Spool
from agent.upkeep import Upkeep, other_uplinks
from base.broker import BrokerSettings
from wire.codec import decode_result
from wire.events import Diagnosis, Recovery
from wire.measured import Failed
from wire.reasons import Condition, Reason
from wire.results import Clock, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

SICK = Diagnosis(condition=Condition.NOT_REGISTERED, detail="searching")
WELL = Diagnosis(condition=Condition.HEALTHY)
FAILED = Failed(reason=Reason.NO_REGISTRATION)


class Hours:
    """A clock on which every look takes a minute."""

    def __init__(self) -> None:
        self.passed_s = 100_000.0

    def now(self) -> datetime:
        return datetime(2026, 6, 15, tzinfo=UTC) + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        self.passed_s += 60
        return self.passed_s

    def quality(self) -> Clock:
        return Clock(synchronised=True)


class Hands:
    """Hands that cure at the rung they are told to."""

    def __init__(self, cures_at: int) -> None:
        self.cures_at = cures_at
        self.done: list[int] = []
        self.raises: BaseException | None = None

    def act(self, link: Link, rung: int) -> str:
        self.done.append(rung)
        if self.raises is not None:
            raise self.raises
        return "done"

    def mend(self, link: Link, rung: int) -> None:
        raise RungFailed("nothing to mend")

    def look(self, link: Link) -> Diagnosis:
        return WELL if self.cures_at in self.done else SICK


class Probe:
    def __init__(self, folder: Path, spool: Spool, hands: Hands) -> None:
        link = Link(name="viettel", interface="lo", recovery=RecoveryOptions(rungs=(1, 2, 3), after_failures=2))
        self.settings = Settings(
            probe_id="p1",
            site=Site(id="s1"),
            broker=BrokerSettings(host="b"),
            links=(link,),
            jobs=(RadioJob(name="radio", every_s=60),),
            data_dir=folder,
        )
        self.link, self.spool, self.clock, self.hands = link, spool, Hours(), hands
        modems = SerialModems(sys_root=folder, dev_root=folder, proc_root=folder)
        self.runner = Runner(self.settings, spool, self.clock, modems, lender=None)  # type: ignore[arg-type]  # no job of ours asks for a server
        self.upkeep = Upkeep(self.settings, self.clock, modems, self.runner, hands=hands, look=hands.look)
        self.upkeep.ladder._sleep = lambda _: None

    @property
    def results(self) -> list[Result]:
        return [decode_result(waiting.payload) for waiting in self.spool.oldest(100)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    yield spool
    spool.close()


def test_steps_of_the_ladder_are_results_like_all_others(tmp_path: Path, spool: Spool) -> None:
    probe = Probe(tmp_path, spool, Hands(cures_at=2))
    probe.upkeep.begin()
    probe.upkeep.after_run(probe.link, "radio", FAILED)
    assert probe.results == [], "one failure is none"
    for _ in range(4):
        probe.upkeep.after_run(probe.link, "radio", FAILED)
    assert probe.hands.done == [1, 2]
    outcomes = [result.outcome for result in probe.results]
    assert all(isinstance(outcome, Recovery) for outcome in outcomes)
    assert [(o.rung, o.before.condition, o.cured) for o in outcomes if isinstance(o, Recovery)] == [
        (1, Condition.NOT_REGISTERED, False),
        (2, Condition.NOT_REGISTERED, True),
    ]
    first = probe.results[0]
    assert (first.probe_id, first.link, first.job, first.seq) == ("p1", "viettel", None, 1)
    assert first.elapsed_s > 0


def test_a_defect_in_the_upkeep_does_not_stop_the_measuring(
    tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe(tmp_path, spool, Hands(cures_at=9))
    probe.hands.raises = ZeroDivisionError("oops")
    for _ in range(3):
        probe.upkeep.after_run(probe.link, "radio", FAILED)
    assert "a defect of the agent while looking after a link" in caplog.text


def test_an_agent_that_is_told_to_stop_leaves_the_rung_and_reports_it_at_the_next_start(
    tmp_path: Path, spool: Spool
) -> None:
    probe = Probe(tmp_path, spool, Hands(cures_at=9))

    def stop(link: Link, rung: int) -> str:
        probe.runner.stop()
        raise AssertionError("stop() must end the rung")

    probe.hands.act = stop  # type: ignore[method-assign]  # hands that are interrupted
    for _ in range(3):
        probe.upkeep.after_run(probe.link, "radio", FAILED)
    assert probe.results == []
    next_one = Probe(tmp_path, spool, Hands(cures_at=9))
    next_one.upkeep.begin()
    (result,) = next_one.results
    assert isinstance(result.outcome, Recovery)
    assert result.outcome.rung == 1
    assert result.outcome.detail.startswith("the agent ended during this rung; nothing to mend")


def test_between_runs_it_is_quick_where_nothing_is_wrong(tmp_path: Path, spool: Spool) -> None:
    probe = Probe(tmp_path, spool, Hands(cures_at=9))
    probe.upkeep.between_runs()
    assert probe.hands.done == []
    assert probe.results == []


def test_the_loopback_is_no_uplink() -> None:
    assert "lo" not in other_uplinks("wwan0")


def test_every_condition_and_every_rung_is_explained_to_operators() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    assert [condition for condition in Condition if f"`{condition}`" not in page] == []
    assert [rung for rung in RUNGS if f"\n| {rung} | " not in page] == []
