"""The timetable on a real spool: planned runs, books that survive, and what is said once instead of every minute."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import jobs, path
from agent.budget import Budget
from agent.meter import FASTEST_BYTES_PER_S, Meter
from agent.plan import plan_day, plan_month
from agent.runner import Runner
from agent.settings import Link, Plan, RadioJob, Settings, Site, ThroughputJob
from agent.spool import Run, Spool
from agent.time_repair import Timekeeper
from agent.timesync import Boot
from agent.timetable import Timetable
from base.broker import BrokerSettings
from base.durable import StorageError
from wire.codec import decode_result
from wire.events import Missed, PlanState
from wire.measured import Failed, Throughput, Transfer
from wire.reasons import Invalid, Reason, Unmade
from wire.results import Clock, Outcome, Result, ResultId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.bench import Bench
    from agent.settings import Job

MIDNIGHT = datetime(2026, 6, 9, 17, 0, tzinfo=UTC)  # 10 June at UTC+7, a Wednesday
RUN_BYTES = 40_000_000
RUN_S = 6.0
"""One transfer of the light preset, its start included."""


@dataclass
class Hands:
    """A clock whose hands the test holds, wall and monotonic together."""

    wall: datetime = MIDNIGHT
    steady_s: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.steady_s

    def quality(self) -> Clock:
        return Clock(synchronised=True)

    def advance(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady_s += seconds


@dataclass
class Modem:
    """The interface of a link: its counters, and the boots of its machine."""

    boot: int = 1
    index: int = 3
    carried: int = 0
    bits: int = 64
    clock: Hands = field(default_factory=Hands)

    def meter(self, _interface: str, _namespace: str | None) -> Meter:
        return Meter(
            boot_id=str(self.boot),
            interface_index=self.index,
            uptime_s=self.clock.steady_s,
            received_bytes=self.carried % 2**self.bits,
            sent_bytes=0,
        )

    def counters(self) -> dict[str, path.Counters]:
        return {"wwan0": path.Counters(self.carried, 0)}


class World:
    """One probe with one link, whose tests would move `run_bytes` in `RUN_S` and are stopped at what is left."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan, *, every_s: int | None = None
    ) -> None:
        self.clock, self.modem = Hands(), Modem()
        self.modem.clock = self.clock
        rhythm = {"every_s": every_s} if every_s is not None else {"runs_per_day": 8}
        self.settings = Settings(
            probe_id="p1",
            site=Site(id="s1"),
            broker=BrokerSettings(host="b"),
            links=(Link(name="viettel", interface="wwan0", modem=None, plan=plan),),
            jobs=(ThroughputJob(name="light", **rhythm), RadioJob(name="radio", every_s=86_400)),
            data_dir=folder,
        )
        self.link = self.settings.links[0]
        self.uploads: list[bool] = []
        self.run_bytes = RUN_BYTES
        monkeypatch.setattr(path, "meter", self.modem.meter)
        monkeypatch.setattr(path, "counters", self.modem.counters)
        monkeypatch.setattr(path, "boot_id", lambda: str(self.modem.boot))
        monkeypatch.setattr(jobs, "run", self._test)
        self.spool = Spool(folder / "spool.db", max_bytes=10**9)
        self.start()

    def start(self) -> None:
        """Begin like an agent that was just started."""
        self.runner = Runner(self.settings, self.spool, self.clock, None, None)  # type: ignore[arg-type]  # not reached
        self.runner.recover()
        self.timetable = Timetable(self.settings, self.spool, self.runner, self.clock)

    def _test(self, bench: Bench, job: Job) -> Outcome:
        if not isinstance(job, ThroughputJob):
            return Failed(reason=Reason.NO_MODEM)
        length_s = job.options.omit_s + job.options.duration_s
        wants = int(self.run_bytes * length_s / RUN_S)
        moved = wants if bench.left_bytes is None else min(wants, bench.left_bytes)
        self.clock.advance(2 * moved / FASTEST_BYTES_PER_S)  # in less time a wrap is taken for a reset
        self.modem.carried += moved
        self.uploads.append(not bench.upload_saved)
        elapsed_s = length_s * moved / wants
        transfer = Transfer(steady_mbps=40.0, mbps=40.0, payload_bytes=int(moved / 1.05), elapsed_s=elapsed_s)
        if moved == wants:
            return Throughput(download=transfer)
        transfer = msgspec.structs.replace(transfer, cut_short=Reason.QUOTA_REACHED)
        return Throughput(download=transfer, invalid=(Invalid.QUOTA_REACHED,))

    def live(self, hours: float) -> None:
        """Go on like the service does: look once a minute, make what is due."""
        until = self.clock.wall + timedelta(hours=hours)
        while self.clock.wall < until:
            now_s, due = self.timetable.next_run()
            if due is not None and due.at_s <= now_s:
                if not self.timetable.passes(due):
                    job = self.settings.job(due.job)
                    self.runner.run(job, self.link, slot=due.slot, due=self.clock.wall, visit=due.visit)
                self.clock.advance(24)
            else:
                self.clock.advance(300 if due is None else min(300.0, max(1.0, due.at_s - now_s)))

    def results(self) -> list[Result]:
        return [decode_result(row.payload) for row in self.spool.oldest(10_000)]

    def failures(self, reason: Reason) -> list[Result]:
        return [r for r in self.results() if isinstance(r.outcome, Failed) and r.outcome.reason is reason]

    def tests(self) -> list[Result]:
        return [result for result in self.results() if isinstance(result.outcome, Throughput)]


@pytest.fixture
def made() -> Iterator[list[World]]:
    worlds: list[World] = []
    yield worlds
    for world in worlds:
        world.spool.close()


def test_a_planned_job_runs_once_in_every_slot_also_when_the_agent_is_started_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan())
    made.append(world)
    for _ in range(6):
        world.live(4)
        world.start()
    visits = world.spool.visits("viettel")
    assert len({(visit.day, visit.slot) for visit in visits}) == len(visits)
    assert 6 <= len(visits) <= 8, "a start lets go of what passed in its minute, and repeats nothing"
    assert all(visit.run_bytes == RUN_BYTES for visit in visits)
    assert [result.job.due is not None for result in world.tests() if result.job] == [True] * len(visits)


def test_a_month_within_its_quota_and_what_is_left_out_is_told_once_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=2000, reset_day=10))
    made.append(world)
    world.live(24 * 5)
    assert 0 < world.modem.carried <= 5 / 30 * 2000e6 + RUN_BYTES
    assert not any(world.uploads)
    told = world.failures(Reason.BUDGET_SHORT)
    assert len(told) == 5
    assert isinstance(told[0].outcome, Failed)
    assert "left out today: tests may move" in told[0].outcome.detail
    assert told[0].job is not None
    states = [result.outcome for result in world.results() if isinstance(result.outcome, PlanState)]
    assert len(states) == 24 * 5
    assert states[-1].spent_month_bytes == world.modem.carried
    told_at = [r.started_at for r in world.results() if isinstance(r.outcome, PlanState)]
    nexts = [state.next_run_at for state in states]
    assert all(at is None or at >= then for at, then in zip(nexts, told_at, strict=True))
    assert all(nexts), "when the next run is: where the day has none left, tomorrow's first"
    assert world.spool.counts().made == world.spool.counts().spooled


def test_a_quota_that_is_used_up_is_told_once_a_day_and_not_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=200), every_s=300)
    made.append(world)
    world.live(48)
    assert len(world.failures(Reason.QUOTA_REACHED)) == 2
    assert world.modem.carried <= 2 * 200e6
    assert len(world.tests()) == 8


def test_a_link_that_is_suddenly_many_times_faster_is_stopped_in_the_test_at_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=1000, overhead_percent=0))
    made.append(world)
    world.live(12)
    before = world.modem.carried
    assert 0 < before < 900_000_000
    world.run_bytes = 20 * RUN_BYTES
    world.live(11)
    assert world.modem.carried == 900_000_000, "up to what the schedule may spend, and not beyond"


def test_a_job_that_the_quota_of_a_day_always_cuts_short_gives_way_to_a_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=200))
    made.append(world)
    light = world.settings.job("light")
    assert isinstance(light, ThroughputJob)
    longer = msgspec.structs.replace(light.options, duration_s=2 * light.options.duration_s)
    jobs_ = (light, ThroughputJob(name="longer", runs_per_day=2, options=longer))
    world.settings = msgspec.structs.replace(world.settings, jobs=jobs_)
    world.run_bytes = 109_000_000
    world.start()
    for _ in range(8):
        world.live(24)
    visits = world.spool.visits("viettel")
    assert [visit.job for visit in visits if visit.cut_short] == ["longer"], "it was thought to cost what 40 Mbps cost"
    assert sum(visit.job == "light" and visit.run_bytes == world.run_bytes for visit in visits) >= 6


def test_what_others_move_over_the_link_counts_and_survives_a_restart_and_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=20_000))
    made.append(world)
    world.live(0.2)
    counted = world.runner.budget.spent(world.link).month_bytes
    world.modem.carried += 123_000_000
    tests_before = len(world.uploads)
    world.live(0.2)
    counted += RUN_BYTES * (len(world.uploads) - tests_before)
    world.start()
    assert world.runner.budget.spent(world.link).month_bytes == counted + 123_000_000
    world.modem.boot, world.modem.carried = 2, 5_000_000
    world.start()
    world.timetable.next_run()
    assert world.spool.spent("viettel", date(2026, 6, 10), date(2026, 6, 1)).month_bytes == counted + 128_000_000


def test_a_test_by_hand_may_spend_the_reserve_that_the_schedule_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=1000, overhead_percent=0))
    made.append(world)
    world.runner.budget.observe(world.link)
    world.modem.carried = 905_000_000
    light = world.settings.job("light")
    planned = world.runner.run(light, world.link, slot=1, due=None)
    assert isinstance(planned.outcome, Failed)
    assert planned.outcome.reason is Reason.QUOTA_REACHED
    by_hand = world.runner.run(light, world.link, slot=1, due=None, by_hand=True)
    assert isinstance(by_hand.outcome, Throughput)
    assert not world.uploads[-1] or world.modem.carried <= 980_000_000


def test_a_run_that_ended_with_the_power_is_charged_what_such_runs_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=20_000))
    made.append(world)
    world.timetable.next_run()
    world.spool.begin(Run("light", "viettel", 5), world.clock.now())
    world.modem.boot, world.modem.carried = 2, 0
    world.start()
    assert world.runner.budget.spent(world.link).day_bytes > 30_000_000
    world.spool.begin(Run("light", "viettel", 6), world.clock.now())
    spent = world.runner.budget.spent(world.link)
    world.timetable.next_run()
    world.start()  # the agent only was restarted: the counters know
    assert world.runner.budget.spent(world.link) == spent


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("stored", [0, 1, 2])
@pytest.mark.parametrize("next_boot", [2, 3])
def test_a_test_that_ended_with_the_power_is_charged_once_whatever_else_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World], stored: int, next_boot: int
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=20_000))
    made.append(world)
    world.timetable.next_run()
    for job in ("a-look", "light", "radio"):  # the results of the others waited in memory
        world.spool.begin(Run(job, "viettel", 5), world.clock.now())
    append, results = world.spool.append, world.spool.counts().spooled

    def killed(*result: Result, **of_run: object) -> ResultId:
        if world.spool.counts().spooled == results + stored:
            raise Killed
        return append(*result, **of_run)  # type: ignore[arg-type]  # handed on as it is

    monkeypatch.setattr(world.spool, "append", killed)
    world.modem.boot, world.modem.carried = 2, 1000
    with pytest.raises(Killed):
        world.start()
    monkeypatch.setattr(world.spool, "append", append)
    world.modem.boot, world.modem.carried = next_boot, 1000
    world.start()
    world.runner.budget.observe(world.link)
    counted = 1000 * (2 if next_boot == 3 and stored else 1)
    cost = Budget.wish(light_job(world)).usual_bytes(upload=True)
    assert world.runner.budget.spent(world.link).day_bytes == round(cost) + counted
    assert world.spool.under_way() == []
    assert world.spool.counts().spooled == results + 3


def light_job(world: World) -> ThroughputJob:
    light = world.settings.job("light")
    assert isinstance(light, ThroughputJob)
    return light


def test_bytes_booked_before_the_clock_was_right_count_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=1000))
    made.append(world)
    world.timetable.next_run()
    world.modem.carried += 70_000_000
    world.timetable.next_run()
    world.clock.wall += timedelta(days=9)  # no clock on board: the network has told the time only now
    world.timetable.next_run()
    assert world.runner.budget.spent(world.link).day_bytes >= 70_000_000


def test_what_the_disk_took_no_note_of_when_the_clock_was_set_counts_today_as_soon_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=1000))
    made.append(world)
    world.timetable.next_run()
    world.modem.carried += 70_000_000
    world.timetable.next_run()
    world.clock.wall += timedelta(days=9)
    world.spool._db.execute("PRAGMA query_only=1")
    for _ in range(2):
        with pytest.raises(StorageError):
            world.timetable.next_run()
    world.spool._db.execute("PRAGMA query_only=0")
    for _ in range(2):
        world.timetable.next_run()
        assert world.runner.budget.spent(world.link).day_bytes == 70_000_000


@pytest.mark.parametrize("step_s", [61, -61])
def test_a_clock_that_is_set_by_a_minute_charges_today_with_no_other_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World], step_s: int
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=20_000), every_s=1800)
    made.append(world)
    world.live(24 * 3 + 10)
    world.timetable.next_run()
    day, month, _ = world.runner.budget.spent(world.link)
    world.clock.wall += timedelta(seconds=step_s)
    world.timetable.next_run()
    after = world.runner.budget.spent(world.link)
    assert max(after.day_bytes - day, after.month_bytes - month) <= 2 * RUN_BYTES, "those about midnight, at most"


def test_the_first_look_counts_what_was_carried_since_a_boot_in_this_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=1000))
    made.append(world)
    world.modem.carried = 33_000_000
    world.clock.steady_s = 3600.0
    budget = Budget(world.settings, world.spool, world.clock)
    budget.observe(world.link)
    assert budget.spent(world.link).month_bytes == 33_000_000
    world.clock.steady_s = 20 * 86_400.0
    other = Budget(world.settings, world.spool, world.clock)
    other.observe(world.link)
    assert other.spent(world.link).month_bytes == 0, "nobody can say in which month"


_events = st.lists(
    st.one_of(
        st.tuples(st.just("live"), st.floats(0.5, 30)),
        st.tuples(st.just("others"), st.floats(1, 1500)),
        st.tuples(st.just("reboot"), st.just(0.0)),
        st.tuples(st.just("replug"), st.just(0.0)),
        st.tuples(st.just("restart"), st.just(0.0)),
        st.tuples(st.just("speed"), st.floats(0.2, 20)),
        st.tuples(st.just("clock"), st.floats(-90_000, 90_000)),
        st.tuples(st.just("off"), st.floats(1, 9 * 24)),
    ),
    min_size=2,
    max_size=14,
)


def happen(world: World, kind: str, size: float) -> None:
    """Let something befall the probe, or its link, that moves no bytes."""
    match kind:
        case "reboot":
            world.modem.boot, world.modem.carried, world.clock.steady_s = world.modem.boot + 1, 0, 40.0
            world.start()
        case "replug":
            world.modem.index, world.modem.carried = world.modem.index + 1, 0
        case "restart":
            world.start()
        case "speed":
            world.run_bytes = int(size * RUN_BYTES)
        case "clock":
            world.clock.wall += timedelta(seconds=size)
        case _:
            world.clock.advance(size * 3600)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=_events,
    quota_mb=st.integers(300, 5000),
    counter=st.tuples(st.sampled_from([32, 64]), st.integers(0, 4294)),
    every_s=st.sampled_from([None, 1800, 1800]),
)
def test_no_test_passes_the_quota_whatever_counters_clocks_and_power_do(
    monkeypatch: pytest.MonkeyPatch,
    events: list[tuple[str, float]],
    quota_mb: int,
    counter: tuple[int, int],
    every_s: int | None,
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        plan = Plan(quota_month_mb=quota_mb)
        world = World(Path(folder), monkeypatch, plan, every_s=every_s)
        world.modem.bits, world.modem.carried = counter[0], counter[1] * 1_000_000
        world.clock.steady_s = 40 * 86_400.0  # so what the counters show is of another month
        world.start()
        world.timetable.next_run()
        truth: dict[date, int] = {}
        passed: list[float] = []
        limit = quota_mb * 1e6 * 0.9 / 1.03
        test = world._test

        def watched(bench: Bench, job: Job) -> Outcome:
            month = plan_month(plan, plan_day(plan, world.clock.wall))[0]
            before = world.modem.carried
            outcome = test(bench, job)
            moved = world.modem.carried - before
            truth[month] = truth.get(month, 0) + moved
            if moved and truth[month] > limit:
                passed.append(truth[month] - limit)  # an exception in a run would become a result
            return outcome

        monkeypatch.setattr(jobs, "run", watched)
        for kind, size in events:
            month = plan_month(plan, plan_day(plan, world.clock.wall))[0]
            if kind == "live":
                world.live(size)
            elif kind == "others":
                world.clock.advance(size * 1e6 / 30e6)
                world.modem.carried += int(size * 1e6)
                truth[month] = truth.get(month, 0) + int(size * 1e6)
                world.timetable.next_run()
            else:
                happen(world, kind, size)
        world.spool.close()
        assert passed == []


def missed(world: World, job: str = "light") -> list[Missed]:
    found = [r.outcome for r in world.results() if isinstance(r.outcome, Missed) and r.job and r.job.name == job]
    return [outcome for outcome in found if isinstance(outcome, Missed)]


def test_runs_that_an_agent_without_power_did_not_make_are_told_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(), every_s=1800)
    made.append(world)
    world.live(4)
    assert missed(world) == []
    off_from = world.clock.wall
    world.clock.advance(3 * 86_400)
    world.start()
    world.live(1)
    (told,) = missed(world)
    assert told.reason is Unmade.AGENT_OFF
    assert 142 <= told.count <= 145
    assert abs((told.first - off_from).total_seconds()) <= 1800
    world.start()
    world.live(1)
    assert len(missed(world)) == 1, "told once"


@pytest.mark.parametrize("days", [1, 3])
def test_planned_runs_of_days_without_power_are_told_by_day_and_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World], days: int
) -> None:
    world = World(tmp_path, monkeypatch, Plan())
    made.append(world)
    world.live(24)
    assert missed(world) == []
    world.clock.advance(days * 86_400)
    world.start()
    world.live(26)
    assert sum(one.count for one in missed(world)) in range(8 * days, 8 * days + 2)
    assert {one.reason for one in missed(world)} == {Unmade.AGENT_OFF}


def test_a_turn_that_another_run_took_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(), every_s=300)
    made.append(world)
    world.live(1)
    world.clock.advance(1000)  # something else took the thread's time
    world.live(1)
    (told,) = missed(world)
    assert told.reason is Unmade.TURN_MISSED
    assert told.count in {2, 3}


def test_turns_passed_for_want_of_quota_are_told_hourly_and_all_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_day_mb=200), every_s=300)
    made.append(world)
    world.live(24)
    assert {one.reason for one in missed(world)} == {Unmade.PLAN_SPENT}
    assert len(missed(world)) <= 25
    runs = len(world.tests()) + len(world.failures(Reason.QUOTA_REACHED))
    assert runs + sum(one.count for one in missed(world)) in range(288 - 13, 289), "the last hour is yet to be told"


def test_when_the_clock_is_set_the_time_before_the_true_start_and_after_it_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(), every_s=1800)
    made.append(world)
    world.live(4)
    world.clock.wall += timedelta(days=2)
    world.live(1)
    off, wrong = missed(world)
    assert (off.reason, wrong.reason) == (Unmade.AGENT_OFF, Unmade.CLOCK_SET)
    assert wrong.count in {7, 8, 9}, "so long it ran with a wrong clock"
    world.clock.wall -= timedelta(days=2)
    world.live(1)
    world.clock.wall += timedelta(days=4000)
    world.live(1)
    assert sum(one.count for one in missed(world)) < 115, "of 4000 days only those hours that it ran"


def test_while_the_clock_is_doubted_nobody_is_called_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(), every_s=1800)
    made.append(world)
    world.live(2)
    world.clock.wall += timedelta(days=30)  # a clock that nobody vouches for
    world.start()
    keeper = Timekeeper(world.clock, world.spool, world.settings.clock, boot=lambda: Boot("b", world.clock.steady_s))
    doubts = [True]
    monkeypatch.setattr(keeper, "doubted", lambda: doubts[0])
    world.runner.timekeeper = keeper
    world.live(2)
    assert missed(world) == []
    world.clock.wall -= timedelta(days=30)
    doubts[0] = False
    world.live(2)
    assert sum(one.count for one in missed(world)) <= 5


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["live", "off", "busy", "restart"]), st.floats(0.01, 20)), min_size=1, max_size=12
    ),
    every_s=st.sampled_from([600, 1800, 7200]),
    quota_mb=st.sampled_from([None, 300]),
)
def test_every_turn_is_run_or_missed_and_none_is_both(
    monkeypatch: pytest.MonkeyPatch, events: list[tuple[str, float]], every_s: int, quota_mb: int | None
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        world = World(Path(folder), monkeypatch, Plan(quota_day_mb=quota_mb), every_s=every_s)
        world.timetable.next_run()
        begin = world.timetable.roll_call._called["light", "viettel"]
        for kind, hours in events:
            if kind == "live":
                world.live(hours)
            elif kind == "busy":
                world.clock.advance(hours * 600)
            else:
                world.clock.advance(hours * 3600 if kind == "off" else 0)
                world.start()
        world.live(1.1)
        world.timetable._passed.clear()
        world.timetable.next_run()
        called = world.timetable.roll_call._called["light", "viettel"]
        turns: list[int] = []
        for result in world.results():
            if result.job is None or result.job.name != "light":
                continue
            if isinstance(result.outcome, Missed):
                first = int(result.outcome.first.timestamp() // every_s)
                turns += range(first, first + result.outcome.count)
            elif result.job.due is not None:
                turns.append(int(result.job.due.timestamp() // every_s))
        world.spool.close()
        assert sorted(turn for turn in turns if turn <= called) == list(range(begin + 1, called + 1))


def test_runs_that_the_last_sim_could_not_pay_for_are_not_missed_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[World]
) -> None:
    world = World(tmp_path, monkeypatch, Plan(quota_month_mb=3000))
    made.append(world)
    assert not world.runner.budget.sim_seen(world.link, "a")
    world.live(12)
    world.modem.carried += 3_000_000_000
    world.live(24 * 4)
    before, tests_before = missed(world), len(world.tests())
    assert world.runner.budget.sim_seen(world.link, "b")
    world.live(1)
    world.start()
    world.runner.budget.sim_seen(world.link, "b")
    world.live(24)
    assert missed(world) == before
    assert len(world.tests()) >= tests_before + 4
