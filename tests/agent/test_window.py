"""How long a run waits for its turn at a responder. No broker; the test holds the clock."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agent.lease import LONGEST_WINDOW_S, ON_THE_WAY_S, WAIT_AT_MOST_S, Habits, Wish
from agent.ledger import Visit
from agent.measurements.base import MeasurementFailed
from agent.measurements.round_trips import Echoes
from agent.runner import Runner
from agent.settings import CapacityJob, Link, Settings, Site, ThroughputJob
from agent.spool import Spool
from base.broker import BrokerSettings
from wire.leases import ARRIVE_WITHIN_S, Busy, Granted, LeaseReply
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Clock, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIDNIGHT = datetime(2026, 6, 9, 17, 0, tzinfo=UTC)  # 10 June at UTC+7: the plan day of a link without a word begins
SLOT = timedelta(hours=3)
LAST = 7


@dataclass
class Hands:
    """A clock whose hands the test holds, wall and monotonic together."""

    wall: datetime
    steady_s: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.steady_s

    def quality(self) -> Clock:
        return Clock(synchronised=True)


@dataclass
class Booked:
    """A responder that is busy for a while: it books the turn if the window takes it, and lends it then."""

    clock: Hands
    busy_s: float
    asked: list[Wish] = field(default_factory=list)
    habits: Habits = field(default_factory=lambda: Habits(["r1"]))

    @contextmanager
    def ask(self, wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        self.asked.append(wish)
        answers = self._answers(wish.window_s)
        yield lambda _timeout_s: next(answers)

    def _answers(self, window_s: float) -> Iterator[LeaseReply]:
        if self.busy_s > window_s:
            self.clock.steady_s += window_s  # as if it had asked again and again
            yield Busy(request_id="1", responder="r1", retry_in_s=self.busy_s)
        if self.busy_s:
            yield self.granted(self.busy_s)
            self.clock.steady_s += self.busy_s
        yield self.granted(0.0)

    @staticmethod
    def granted(starts_in_s: float) -> Granted:
        return Granted(
            request_id="1",
            responder="r1",
            host="127.0.0.1",
            ports=(9, 9),  # nobody listens there: what is looked at here ends before the transfers
            token="secret",
            expires_in_s=starts_in_s + 40,
            starts_in_s=starts_in_s,
        )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    yield spool
    spool.close()


def run(
    spool: Spool, tmp_path: Path, lender: Booked, *, job: str = "light", slot: int = 0, by_hand: bool = False
) -> Result:
    settings = Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="b"),
        links=(Link(name="viettel", interface="lo", modem=None),),
        jobs=(
            ThroughputJob(name="light", runs_per_day=8),
            ThroughputJob(name="often", every_s=120),
            ThroughputJob(name="hourly", every_s=3600),
            CapacityJob(name="weekly"),
        ),
        data_dir=tmp_path,
    )
    visit = Visit("2026-06-10", slot, 3 * slot, upload=True) if job == "light" and not by_hand else None
    runner = Runner(settings, spool, lender.clock, None, lender)  # type: ignore[arg-type]  # there is no modem
    return runner.run(settings.job(job), settings.links[0], slot=slot, due=None, visit=visit, by_hand=by_hand)


def test_a_planned_run_whose_responder_is_busy_for_200_s_is_served_then(tmp_path: Path, spool: Spool) -> None:
    lender = Booked(Hands(MIDNIGHT + timedelta(hours=1)), busy_s=200.0)
    result = run(spool, tmp_path, lender)
    assert isinstance(result.outcome, Failed)
    assert result.outcome.reason is not Reason.BUSY, result.outcome.detail
    assert result.used is not None
    assert result.used.server is not None
    assert result.used.server.waited_s == 200.0
    assert lender.asked[0].window_s == LONGEST_WINDOW_S


@pytest.mark.parametrize("slot", [0, 3, LAST])
@pytest.mark.parametrize("left_s", [150.0, 40.0])
def test_it_never_waits_beyond_the_end_of_its_slot_nor_of_the_day(
    tmp_path: Path, spool: Spool, slot: int, left_s: float
) -> None:
    end = MIDNIGHT + SLOT * (slot + 1)
    lender = Booked(Hands(end - timedelta(seconds=left_s)), busy_s=left_s + 10)
    outcome = run(spool, tmp_path, lender, slot=slot).outcome
    assert lender.asked[0].window_s == left_s
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.BUSY


def test_the_echoes_before_a_test_know_when_its_servers_are_somebody_else_s(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    within_s: list[float] = []

    def idle(_echoes: Echoes, _length_s: float, left_s: float) -> None:
        within_s.append(left_s)
        raise MeasurementFailed(Reason.TIMEOUT, "that is all that is looked at here")

    monkeypatch.setattr(Echoes, "idle", idle)
    run(spool, tmp_path, Booked(Hands(MIDNIGHT), busy_s=200.0))
    assert len(within_s) == 1
    assert 0 < within_s[0] <= ARRIVE_WITHIN_S - ON_THE_WAY_S


@pytest.mark.parametrize(
    ("job", "by_hand", "window_s"),
    [
        ("often", False, WAIT_AT_MOST_S),
        ("hourly", False, LONGEST_WINDOW_S),
        ("weekly", False, LONGEST_WINDOW_S),
        ("light", True, WAIT_AT_MOST_S),
    ],
)
def test_without_a_slot_half_the_period_is_time_enough(
    tmp_path: Path, spool: Spool, job: str, window_s: float, *, by_hand: bool
) -> None:
    lender = Booked(Hands(MIDNIGHT), busy_s=0.0)
    run(spool, tmp_path, lender, job=job, by_hand=by_hand)
    assert lender.asked[0].window_s == window_s
