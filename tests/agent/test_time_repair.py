"""Clock journeys: boots without the time, steps, sync that comes late or never. The test holds every hand of time."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import time_repair
from agent.bench import Look
from agent.budget import Budget
from agent.ledger import Balance, Booking
from agent.runner import Runner
from agent.settings import ClockSettings, Link, Plan, RadioJob, Settings, Site
from agent.spool import Run, Spool
from agent.time_repair import Timekeeper, Trust, trust
from agent.timesync import Boot
from base.broker import BrokerSettings
from base.durable import StorageError
from wire.codec import check, decode_result
from wire.events import Diagnosis, Dropped, Recovery
from wire.measured import Failed, Throughput, Transfer
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Condition, Invalid, Reason
from wire.results import Clock, Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LTE = RadioReading(registration=Registration.HOME, technology=Technology.LTE, operator="Viettel")
DAWN = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
RTC_LESS = [datetime(1970, 1, 1, tzinfo=UTC), datetime(2023, 5, 3, 3, 17, tzinfo=UTC)]
EARLIEST_S = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


@dataclass
class Hands:
    """The true time, what this machine takes it for, and how long it has been up."""

    truth: datetime = DAWN
    wrong_s: float = 0.0
    up_s: float = 40.0
    boots: int = 1
    said: Clock = field(default_factory=lambda: Clock(synchronised=True, source="timesyncd", age_s=60))

    def now(self) -> datetime:
        return self.truth + timedelta(seconds=self.wrong_s)

    def monotonic_s(self) -> float:
        return self.up_s

    def quality(self) -> Clock:
        return self.said

    def boot(self) -> Boot:
        return Boot(f"boot-{self.boots}", self.up_s)

    def pass_s(self, seconds: float) -> None:
        self.truth += timedelta(seconds=seconds)
        self.up_s += seconds

    def wrong(self, wall: datetime) -> None:
        """Take a time that nobody vouches for."""
        self.wrong_s = (wall - self.truth).total_seconds()
        self.said = Clock(synchronised=False, source="timesyncd")

    def synchronise(self) -> None:
        self.wrong_s = 0.0
        self.said = Clock(synchronised=True, source="timesyncd", age_s=0)


class World:
    """A probe with one radio job, whose looks take 2 s; the agent can be killed, and the power cut."""

    def __init__(self, folder: Path, clock: ClockSettings | None = None, *, max_mb: int = 50) -> None:
        self.folder, self.max_mb = folder, max_mb
        self.hands = Hands()
        self.settings = Settings(
            probe_id="p1",
            site=Site(id="s1"),
            broker=BrokerSettings(host="b"),
            links=(Link(name="viettel", interface="none0"),),
            jobs=(RadioJob(name="radio", every_s=60, thin=None),),
            clock=clock or ClockSettings(),
            data_dir=folder,
        )
        self.during: list[object] = []
        self.sent: dict[int, Result] = {}
        self.truths: dict[int, datetime] = {}
        self._start()

    def _start(self) -> None:
        self.spool = Spool(self.folder / "spool.db", max_bytes=self.max_mb * 1_000_000)
        self.runner = Runner(self.settings, self.spool, self.hands, self, None)  # type: ignore[arg-type]  # not asked
        self.keeper = Timekeeper(
            self.hands,
            self.spool,
            self.settings.clock,
            boot=self.hands.boot,
            without_time=True,
            not_before_s=EARLIEST_S,
        )
        self.runner.timekeeper = self.keeper
        self.runner.recover()

    def look(self, link: Link) -> Look:
        """Be the modem, and let happen what the test wants to happen during a run."""
        self.hands.pass_s(1.0)
        if self.during:
            self.during.pop()()  # type: ignore[operator]  # a function
        self.hands.pass_s(1.0)
        return Look(LTE)

    def measure(self, slot: int = 0) -> None:
        waiting = len(self.runner._unspooled)
        self.truths[self.spool.counts().made + waiting + 1] = self.hands.truth
        self.runner.run(self.settings.jobs[0], self.settings.links[0], slot=slot, due=self.hands.now())

    def send(self) -> list[Result]:
        """Do what the agent does between runs, and be the collector: take what is offered, once."""
        self.keeper.check()
        taken = [decode_result(row.payload) for row in self.spool.oldest(100_000)]
        assert not {result.seq for result in taken} & set(self.sent)
        self.sent |= {result.seq: result for result in taken}
        self.spool.acknowledge(self.spool.spool_id, [(result.seq, result.seq) for result in taken])
        return taken

    def restart(self) -> None:
        """Kill the agent and start it again."""
        self.spool.close()
        self._start()

    def power_cut(self, wall: datetime, *, off_s: float = 600.0) -> None:
        self.hands.pass_s(off_s)
        self.hands.boots += 1
        self.hands.up_s = 20.0
        self.hands.wrong(wall)
        self.restart()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.spool.close()


def close(a: datetime, b: datetime, within_s: float = 0.01) -> bool:
    return abs((a - b).total_seconds()) <= within_s


@pytest.mark.parametrize("wall", RTC_LESS)
def test_what_was_measured_before_the_sync_is_sent_after_it_with_the_true_time(world: World, wall: datetime) -> None:
    world.power_cut(wall)
    for slot in range(10):
        world.measure(slot)
        world.hands.pass_s(58.0)
        assert world.send() == []
    assert world.spool.counts()[:3] == (10, 10, 10)
    assert world.spool.count_undated() == 10
    world.hands.synchronise()
    sent = world.send()
    assert [result.seq for result in sent] == list(range(1, 11)), "in their order, under their numbers"
    for result in sent:
        assert close(result.started_at, world.truths[result.seq])
        assert result.clock.synchronised
        assert result.clock.correction_s == pytest.approx((DAWN - wall).total_seconds(), abs=86_400)
        assert result.job is not None
        assert result.job.due is not None
        assert close(result.job.due, result.started_at)
    world.measure(10)
    (result,) = world.send()
    assert result.clock.correction_s is None, "what is measured from now on needs no mending"


def test_results_of_a_clock_that_is_right_are_not_held(world: World) -> None:
    world.measure()
    (result,) = world.send()
    assert close(result.started_at, DAWN)
    assert result.clock == Clock(synchronised=True, source="timesyncd", age_s=60)


def test_a_power_cut_before_the_sync_leaves_results_that_never_can_be_dated_and_they_say_so(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    world.measure(1)
    assert world.send() == []
    world.power_cut(RTC_LESS[1])
    (lost,) = world.send()  # there is nothing to wait for
    assert lost.clock.synchronised is False
    assert lost.clock.correction_s is None
    assert lost.started_at.year == 2023
    world.measure(2)
    assert world.send() == []
    world.hands.synchronise()
    (mended,) = world.send()
    assert close(mended.started_at, world.truths[2])
    assert [lost.seq, mended.seq] == [1, 2]


def test_an_agent_that_is_killed_before_the_sync_goes_on_in_the_same_boot(world: World) -> None:
    world.power_cut(RTC_LESS[0])
    world.measure()
    world.restart()
    assert world.send() == []
    world.hands.pass_s(3600)
    world.hands.synchronise()
    (result,) = world.send()
    assert close(result.started_at, world.truths[1])


@pytest.mark.parametrize("cut", ["power", "agent"])
def test_a_run_that_is_cut_off_before_the_sync_is_dated_if_it_can_be(world: World, cut: str) -> None:
    world.power_cut(RTC_LESS[1])
    truth = world.hands.truth
    world.spool.begin(Run("radio", "viettel", 7), world.hands.now(), world.keeper.began())
    world.hands.pass_s(1)
    world.restart() if cut == "agent" else world.power_cut(RTC_LESS[1])
    world.hands.pass_s(60)
    world.hands.synchronise()
    (result,) = world.send()
    assert isinstance(result.outcome, Failed)
    assert result.outcome.reason is Reason.INTERRUPTED
    assert close(result.started_at, truth) is (cut == "agent")
    assert (result.clock.synchronised, result.clock.correction_s is None) == (cut == "agent", cut == "power")


def test_a_clock_that_is_never_set_holds_nothing_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path, ClockSettings(hold_h=2))
    world.power_cut(RTC_LESS[1])
    world.measure(1)
    world.hands.pass_s(7000)
    assert world.send() == []
    world.measure(2)
    world.hands.pass_s(300)
    (result,) = world.send()
    assert (result.seq, result.clock.synchronised) == (1, False)
    world.hands.pass_s(7200)
    assert [result.seq for result in world.send()] == [2]
    world.spool.close()


def test_throughput_that_never_can_be_dated_is_no_sample(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    outcome = Throughput(download=Transfer(steady_mbps=40.0, payload_bytes=1, elapsed_s=5.0))
    world.runner.keep("viettel", outcome, started_at=world.hands.now(), elapsed_s=0.0)
    world.power_cut(RTC_LESS[1])
    (result,) = world.send()
    assert isinstance(result.outcome, Throughput)
    assert result.outcome.invalid == (Invalid.CLOCK_NOT_GOOD,)


def test_throughput_that_is_dated_later_is_a_sample(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    outcome = Throughput(download=Transfer(steady_mbps=40.0, payload_bytes=1, elapsed_s=5.0))
    truth = world.hands.truth
    world.runner.keep("viettel", outcome, started_at=world.hands.now(), elapsed_s=0.0)
    world.hands.pass_s(500)
    world.hands.synchronise()
    (result,) = world.send()
    assert result.outcome == outcome
    assert close(result.started_at, truth)


def test_a_clock_that_is_set_while_a_run_goes_on_dates_it_at_once(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    world.during.append(world.hands.synchronise)
    world.measure()
    (result,) = world.send()
    assert close(result.started_at, world.truths[1])
    assert result.clock.correction_s == pytest.approx((DAWN - RTC_LESS[1]).total_seconds(), abs=3600)


@pytest.mark.parametrize("step_s", [-7200.0, 7200.0])
def test_a_trusted_clock_that_is_set_back_or_forward_during_a_run_dates_it_anew(world: World, step_s: float) -> None:
    world.hands.wrong_s = -step_s  # wrong all the time, and nobody knew

    def step() -> None:
        world.hands.wrong_s = 0.0

    world.during.append(step)
    world.measure()
    (result,) = world.send()
    assert close(result.started_at, world.truths[1])
    assert result.clock.correction_s == step_s


def test_a_step_between_runs_changes_nothing_that_was_sent(world: World) -> None:
    world.measure(1)
    before = world.send()
    world.hands.wrong_s = -7200.0
    world.measure(2)
    (after,) = world.send()
    assert (before[0].seq, after.seq) == (1, 2)
    assert close(after.started_at, world.truths[2] - timedelta(hours=2)), "a clock that calls itself right is believed"


def test_steps_of_the_ladder_are_held_too_and_old_ones_are_not_moved(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    step = Recovery(rung=1, action="AT+COPS=0", before=Diagnosis(condition=Condition.NOT_REGISTERED))
    truth = world.hands.truth - timedelta(seconds=5)
    world.runner.keep("viettel", step, started_at=world.hands.now() - timedelta(seconds=5), elapsed_s=5.0)
    world.runner.keep("viettel", step, started_at=world.hands.now() - timedelta(days=3), elapsed_s=0.0)
    assert [result.seq for result in world.send()] == [2], "it is older than this boot: nothing can date it"
    world.hands.synchronise()
    (result,) = world.send()
    assert close(result.started_at, truth)


def test_a_kill_in_the_middle_of_the_repair_leaves_everything_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.power_cut(RTC_LESS[0])
    for slot in range(3):
        world.measure(slot)
    held = world.spool.undated()
    world.hands.synchronise()
    released = time_repair.release

    def killed(*arguments: object) -> None:
        released(*arguments)  # type: ignore[arg-type]  # passed on as they came
        raise StorageError("the power goes before the commit")

    monkeypatch.setattr(time_repair, "release", killed)
    with pytest.raises(StorageError):
        world.keeper.check()
    world.restart()
    assert world.spool.undated() == held
    assert world.spool.oldest(10) == []
    monkeypatch.undo()
    assert [result.seq for result in world.send()] == [1, 2, 3]


def test_a_held_result_that_the_card_has_spoilt_holds_up_nobody(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    for slot in range(3):
        world.measure(slot)
    world.spool._db.execute("UPDATE results SET payload=CAST('{}' AS BLOB) WHERE seq=2")
    world.spool._db.execute("UPDATE results SET payload=CAST('[]' AS BLOB), crc=? WHERE seq=3", (check(b"[]"),))
    world.hands.synchronise()
    assert world.keeper.check() == 3
    assert world.spool.count_undated() == 0
    waiting = {row.seq: row.payload for row in world.spool.oldest(10)}
    assert decode_result(waiting[1]).clock.synchronised
    assert 2 not in waiting
    assert waiting[3] == b"[]"


def test_a_spool_that_is_full_of_held_results_holds_its_report_as_well(tmp_path: Path) -> None:
    world = World(tmp_path, max_mb=1)
    world.power_cut(RTC_LESS[1])
    big = Failed(reason=Reason.TIMEOUT, detail="x" * 100_000)
    for _ in range(12):
        world.runner.keep("viettel", big, started_at=world.hands.now(), elapsed_s=0.0)
    assert world.send() == []
    truth = world.hands.truth
    world.hands.pass_s(60)
    world.hands.synchronise()
    sent = world.send()
    reports = [result for result in sent if isinstance(result.outcome, Dropped)]
    assert reports
    assert all(close(report.started_at, truth) for report in reports)
    assert world.spool.count_undated() == 0
    world.spool.close()


def test_what_waits_while_the_disk_is_full_is_dated_like_the_rest(world: World) -> None:
    world.power_cut(RTC_LESS[1])
    world.during.append(lambda: world.spool._db.execute("PRAGMA query_only=1"))
    world.measure(1)
    assert world.runner.storage_error
    world.hands.pass_s(600)
    world.spool._db.execute("PRAGMA query_only=0")
    world.measure(2)
    assert world.send() == []
    world.hands.synchronise()
    assert [close(result.started_at, world.truths[result.seq]) for result in world.send()] == [True, True]


# --- judging --------------------------------------------------------------------------------------------------------

RIGHT, NOBODY = Clock(synchronised=True, source="kernel"), Clock()
KERNEL, DAEMON = Clock(synchronised=False, source="kernel"), Clock(synchronised=False, source="chrony")


@pytest.mark.parametrize(
    ("said", "without_time", "early", "wanted"),
    [
        (RIGHT, True, True, Trust.GOOD),
        (RIGHT, False, False, Trust.GOOD),
        (DAEMON, False, False, Trust.BAD),  # who keeps the clock says that it is not right yet
        (KERNEL, True, False, Trust.BAD),  # a board that boots without the time, and nobody has told it
        (KERNEL, False, False, Trust.UNKNOWN),  # a PC, or a guest whose host keeps the time
        (KERNEL, False, True, Trust.BAD),  # earlier than this program was installed
        (NOBODY, True, False, Trust.UNKNOWN),
        (NOBODY, False, True, Trust.BAD),
    ],
)
def test_a_clock_is_good_or_bad_by_what_is_known(said: Clock, without_time: bool, early: bool, wanted: Trust) -> None:  # noqa: FBT001
    found = trust(said, 1000.0, without_time=without_time, not_before_s=2000.0 if early else 0.0)
    assert found is wanted


@pytest.mark.parametrize(
    ("require", "held"),
    [
        ("nothing", {Trust.GOOD: False, Trust.UNKNOWN: False, Trust.BAD: False}),
        ("known", {Trust.GOOD: False, Trust.UNKNOWN: False, Trust.BAD: True}),
        ("synchronised", {Trust.GOOD: False, Trust.UNKNOWN: True, Trust.BAD: True}),
    ],
)
def test_what_the_configuration_asks_of_the_clock(tmp_path: Path, require: str, held: dict[Trust, bool]) -> None:
    world = World(tmp_path, ClockSettings(require=require))  # type: ignore[arg-type]  # one of the three
    for said, found in ((RIGHT, Trust.GOOD), (NOBODY, Trust.UNKNOWN), (DAEMON, Trust.BAD)):
        world.hands.said = said
        assert world.keeper.doubted() is held[found]
    world.spool.close()


def test_a_boot_with_a_time_before_the_last_run_is_not_believed(world: World) -> None:
    world.measure()
    world.hands.said = Clock()  # nobody can say anything about this clock
    assert not world.keeper.doubted()
    world.hands.wrong_s = -3600.0
    world.restart()
    assert world.keeper.doubted()
    world.hands.wrong_s = 0.0
    assert not world.keeper.doubted(), "somebody has set it by hand"


def test_a_machine_that_stalls_between_two_looks_at_its_clocks_sees_no_step(world: World) -> None:
    boot, stalls = world.keeper._boot, iter([0.0, 3.0, 0.0, 0.0])

    def stall() -> Boot:
        world.hands.pass_s(next(stalls, 0.0))
        return boot()

    before_s = world.keeper.offset_s()
    world.keeper._boot = stall
    assert world.keeper.offset_s() == pytest.approx(before_s, abs=0.001)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    story=st.lists(
        st.one_of(
            st.tuples(st.just("measure"), st.just(0.0)),
            st.tuples(st.just("pass"), st.floats(0, 5000)),
            st.tuples(st.just("sync"), st.just(0.0)),
            st.tuples(st.just("restart"), st.just(0.0)),
            st.tuples(st.just("power"), st.floats(0, 1.7e9)),
            st.tuples(st.just("send"), st.just(0.0)),
        ),
        max_size=25,
    )
)
def test_whatever_clock_and_power_do_every_result_comes_once_and_a_time_that_is_vouched_for_is_true(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, float]]
) -> None:
    world = World(tmp_path_factory.mktemp("probe"), ClockSettings(hold_h=3))
    order: list[int] = []
    for what, amount in story:
        match what:
            case "measure":
                world.measure()
            case "pass":
                world.hands.pass_s(amount)
            case "sync":
                world.hands.synchronise()
            case "restart":
                world.restart()
            case "power":
                world.power_cut(datetime.fromtimestamp(amount, UTC))
            case _:
                order += [result.seq for result in world.send()]
    world.power_cut(RTC_LESS[0])  # lets go what is still held
    order += [result.seq for result in world.send()]
    assert sorted(order) == list(range(1, world.spool.counts().spooled + 1))
    assert order == sorted(order), "what is held lets nothing later pass that is of the same boot"
    for seq, result in world.sent.items():
        if result.clock.synchronised:
            assert close(result.started_at, world.truths[seq])
    world.spool.close()


# --- zones ----------------------------------------------------------------------------------------------------------


@contextmanager
def zone(name: str) -> Iterator[None]:
    """Let this machine be in a time zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


@pytest.mark.parametrize("name", ["Asia/Ho_Chi_Minh", "America/St_Johns", "Europe/Berlin", "UTC"])
def test_time_zones_and_summer_time_touch_neither_storage_nor_plan_days(world: World, name: str) -> None:
    """Plan days are the operator's (UTC+7 here), whatever zone the machine thinks it is in."""
    berlin_skips_an_hour = datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)
    with zone(name):
        world.hands.truth = berlin_skips_an_hour
        world.measure()
        world.hands.wrong(berlin_skips_an_hour - timedelta(days=400))
        world.measure()
        world.hands.synchronise()
        sent = world.send()
        budget = Budget(world.settings, world.spool, world.hands)
        world.hands.truth = datetime(2026, 3, 29, 16, 59, 59, tzinfo=UTC)
        assert budget.day(world.settings.links[0]) == date(2026, 3, 29)
        world.hands.pass_s(2)
        assert budget.day(world.settings.links[0]) == date(2026, 3, 30)
    assert [result.started_at for result in sent] == [
        berlin_skips_an_hour,
        berlin_skips_an_hour + timedelta(seconds=2),
    ]
    assert all(b"Z" in msgspec.json.encode(result.started_at) for result in sent)


def test_a_plan_with_nothing_left_is_known_by_our_books_or_the_operators_word(tmp_path: Path) -> None:
    world = World(tmp_path)
    link = Link(name="viettel", interface="none0", plan=Plan(quota_day_mb=100))
    budget = Budget(world.settings, world.spool, world.hands)
    assert not budget.is_spent(link)
    world.spool.book(Booking("viettel", budget.day(link).isoformat(), 97_000_000))
    assert not budget.is_spent(link), "the operator counts up to 3 % more"
    world.spool.book(Booking("viettel", budget.day(link).isoformat(), 1_000_000))
    assert budget.is_spent(link)
    world.hands.pass_s(86_400)
    assert not budget.is_spent(link)
    world.spool.keep_balance("viettel", Balance((world.hands.now() - timedelta(days=40)).isoformat(), 0, None, ""))
    assert not budget.is_spent(link), "that was said in another plan month"
    world.spool.keep_balance("viettel", Balance(world.hands.now().isoformat(), 5_000_000, None, ""))
    assert not budget.is_spent(link)
    world.spool.keep_balance("viettel", Balance(world.hands.now().isoformat(), 0, None, ""))
    assert budget.is_spent(link)
    world.spool.close()
