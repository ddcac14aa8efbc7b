"""The runner: every run becomes exactly one spooled result, whatever happens to it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent import jobs, path, witness
from agent.bench import Look
from agent.lease import Habits, Wish
from agent.ledger import Booking, Visit
from agent.measurements.base import MeasurementFailed
from agent.measurements.throughput_options import ThroughputOptions
from agent.runner import Runner
from agent.settings import IperfServer, Link, Plan, RadioJob, Settings, Site, ThroughputJob
from agent.spool import Run, Spool
from agent.time_repair import Timekeeper
from agent.timesync import Boot
from base.broker import BrokerSettings
from base.durable import StorageError
from wire.codec import decode_result
from wire.leases import Busy, Denied, Granted, LeaseReply
from wire.measured import Failed, Radio, Throughput
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Invalid, Reason
from wire.results import Clock, Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LTE = RadioReading(registration=Registration.HOME, technology=Technology.LTE, operator="Viettel", rsrp_dbm=-97)


@dataclass
class FakeClock:
    """Hands that the test holds."""

    wall: datetime = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)
    steady_s: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        self.steady_s += 1
        return self.steady_s

    def quality(self) -> Clock:
        return Clock(synchronised=True)


@dataclass
class FakeModems:
    """A modem that says what it is told to say."""

    says: list[RadioReading | MeasurementFailed | BaseException] = field(default_factory=lambda: [LTE])
    sim: str | None = "ab"

    def look(self, link: Link) -> Look:
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, RadioReading):
            return Look(said, model="EC25", iccid_sha256=self.sim)
        raise said


@dataclass
class FakeLender:
    """A responder that gives the answers it is given."""

    answers: list[LeaseReply | None] = field(default_factory=lambda: [None])
    asked: int = 0
    habits: Habits = field(default_factory=lambda: Habits(["r1"]))

    @contextmanager
    def ask(self, wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        def answer(_timeout_s: float) -> LeaseReply | None:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

        self.asked += 1
        yield answer


def make_settings(tmp_path: Path, *, plan: Plan | None = None, servers: tuple[IperfServer, ...] = ()) -> Settings:
    return Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="b"),
        links=(Link(name="viettel", interface="lo", plan=plan or Plan()),),
        jobs=(
            ThroughputJob(name="light", every_s=60, options=ThroughputOptions(duration_s=1, omit_s=0, streams=1)),
            RadioJob(name="radio", every_s=60),
        ),
        data_dir=tmp_path,
        servers=servers,
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    yield spool
    spool.close()


def run(
    spool: Spool,
    settings: Settings,
    job: str,
    *,
    modems: FakeModems | None = None,
    lender: FakeLender | None = None,
    clock: FakeClock | None = None,
) -> Result:
    """Make one run; what is returned is what was spooled."""
    runner = Runner(settings, spool, clock or FakeClock(), modems or FakeModems(), lender or FakeLender())
    runner.run(settings.job(job), settings.links[0], slot=1, due=None)
    return decode_result(spool.oldest(1000)[-1].payload)


def reason(result: Result) -> Reason:
    assert isinstance(result.outcome, Failed)
    return result.outcome.reason


def test_a_look_at_the_radio_is_a_result(tmp_path: Path, spool: Spool) -> None:
    result = run(spool, make_settings(tmp_path), "radio")
    assert result.outcome == Radio(reading=LTE)
    assert result.used is not None
    assert (result.used.operator, result.used.modem, result.used.interface) == ("Viettel", "EC25", "lo")
    assert spool.counts()[:2] == (1, 1)


@pytest.mark.parametrize("silent", [Reason.MODEM_SILENT, Reason.NO_MODEM, Reason.LINK_LOST])
def test_a_modem_that_does_not_answer_is_a_failed_radio_result(tmp_path: Path, spool: Spool, silent: Reason) -> None:
    modems = FakeModems([MeasurementFailed(silent, "x")])
    assert reason(run(spool, make_settings(tmp_path), "radio", modems=modems)) is silent


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        (MeasurementFailed(Reason.SIM_ABSENT, "x"), Reason.SIM_ABSENT),
        (MeasurementFailed(Reason.SIM_LOCKED, "x"), Reason.SIM_LOCKED),
        (RadioReading(registration=Registration.DENIED), Reason.NO_REGISTRATION),
        (RadioReading(registration=Registration.SEARCHING), Reason.NO_REGISTRATION),
    ],
)
def test_no_test_is_made_where_the_modem_says_there_is_no_service(
    tmp_path: Path, spool: Spool, says: RadioReading | MeasurementFailed, wanted: Reason
) -> None:
    lender = FakeLender()
    assert reason(run(spool, make_settings(tmp_path), "light", modems=FakeModems([says]), lender=lender)) is wanted
    assert lender.asked == 0


def test_nobody_lends_a_server(tmp_path: Path, spool: Spool) -> None:
    result = run(spool, make_settings(tmp_path), "light")
    assert reason(result) is Reason.NO_LEASE
    assert isinstance(result.outcome, Failed)
    assert result.outcome.radio == LTE, "what was seen before the failure travels with it"


def test_a_responder_that_stays_busy_is_left_after_a_while(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()

    def wait(_event: threading.Event, pause_s: float | None = None) -> bool:
        clock.steady_s += pause_s or 0
        return False

    monkeypatch.setattr(threading.Event, "wait", wait)
    lender = FakeLender([Busy(request_id="x", responder="r1", retry_in_s=20)])
    assert reason(run(spool, make_settings(tmp_path), "light", lender=lender, clock=clock)) is Reason.BUSY
    assert 10 <= lender.asked <= 16, "about every 8 to 10 s for 120 s"


def test_a_denied_lease_is_not_asked_for_again(tmp_path: Path, spool: Spool) -> None:
    lender = FakeLender([Denied(request_id="x", responder="r1", reason="too long")])
    assert reason(run(spool, make_settings(tmp_path), "light", lender=lender)) is Reason.REFUSED
    assert lender.asked == 1


@pytest.fixture
def iperf_server() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = subprocess.Popen(
        ["iperf3", "-s", "-p", str(port), "--forceflush"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with server:
        assert server.stdout is not None
        while b"listening" not in (line := server.stdout.readline()):
            assert line, "iperf3 -s did not start"
        yield port
        server.kill()


def test_a_throughput_run_against_a_plain_server(tmp_path: Path, spool: Spool, iperf_server: int) -> None:
    settings = make_settings(tmp_path, servers=(IperfServer(host="127.0.0.1", port=iperf_server),))
    lender = FakeLender()
    result = run(spool, settings, "light", lender=lender)
    assert isinstance(result.outcome, Throughput), result.outcome
    assert result.outcome.download.steady_mbps > 1
    assert result.outcome.upload is not None
    assert result.outcome.radio_before == result.outcome.radio_after == LTE
    assert result.used is not None
    assert result.used.server is not None
    assert result.used.server.ports == (iperf_server,)
    assert lender.asked == 0
    assert spool.spent("viettel", date(2026, 6, 15), date(2026, 6, 1)).day_bytes > result.outcome.download.payload_bytes


@pytest.mark.alone
def test_a_link_faster_than_foreseen_is_stopped_in_the_test_before_the_quota(
    tmp_path: Path, spool: Spool, iperf_server: int
) -> None:
    plan = Plan(quota_day_mb=1000, overhead_percent=0)  # the loopback would carry several times that in a second
    settings = make_settings(tmp_path, plan=plan, servers=(IperfServer(host="127.0.0.1", port=iperf_server),))
    spool.book(Booking("viettel", "2026-06-14", 0, path.meter("lo", None)))  # what was carried before is of another day
    result = run(spool, settings, "light")
    spent = spool.spent("viettel", date(2026, 6, 15), date(2026, 6, 1)).day_bytes
    told = result.outcome.invalid if isinstance(result.outcome, Throughput) else (reason(result),)
    assert "quota_reached" in told
    assert 0 < spent < 3_000_000_000, "several times that in its seconds, were it not stopped"


def test_what_a_plan_did_not_last_for_tells_what_it_costs_by_its_own_pace(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by what crossed the interface since the run began: that may have been somebody else's."""
    failure = MeasurementFailed(Reason.QUOTA_REACHED, "spent in the start", begun=True)
    failure.pace_bytes_per_s = 5_000_000

    def spent_in_the_start(*_: object) -> Outcome:
        raise failure

    monkeypatch.setattr(jobs, "run", spent_in_the_start)
    settings = make_settings(tmp_path)
    runner = Runner(settings, spool, FakeClock(), FakeModems(), FakeLender())
    for slot, pace_bytes_per_s in ((1, 5_000_000), (2, None)):
        failure.pace_bytes_per_s = pace_bytes_per_s
        visit = Visit("2026-06-15", slot, 7 + slot, upload=True)
        runner.run(settings.job("light"), settings.links[0], slot=slot, due=None, visit=visit)
    found = [(visit.run_bytes, visit.upload, visit.cut_short) for visit in spool.visits("viettel")]
    assert found == [(5_250_000, False, True), (None, True, False)]


def test_a_spent_quota_stops_tests_but_not_looks(tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        path, "meter", lambda _interface, _namespace: None
    )  # what else crosses the loopback is no matter here
    settings = make_settings(tmp_path, plan=Plan(quota_day_mb=100))
    spool.append(run(spool, settings, "radio"), booking=Booking("viettel", "2026-06-15", 100_000_000))
    assert reason(run(spool, settings, "light")) is Reason.QUOTA_REACHED
    assert isinstance(run(spool, settings, "radio").outcome, Radio)
    tomorrow = FakeClock(wall=FakeClock().wall + timedelta(days=1))
    assert reason(run(spool, settings, "light", clock=tomorrow)) is Reason.NO_LEASE


def test_a_sim_that_is_replaced_is_found_when_the_old_one_is_spent_and_by_any_look(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "meter", lambda _interface, _namespace: None)
    settings, modems = make_settings(tmp_path, plan=Plan(quota_month_mb=100)), FakeModems()
    runner = Runner(settings, spool, FakeClock(), modems, FakeLender())
    light, link = settings.job("light"), settings.links[0]
    runner.run(settings.job("radio"), link, slot=1, due=None)
    spool.book(Booking("viettel", "2026-06-15", 100_000_000))
    for sim, wanted in (("ab", Reason.QUOTA_REACHED), (None, Reason.QUOTA_REACHED), ("cd", Reason.NO_LEASE)):
        modems.sim = sim
        assert reason(runner.run(light, link, slot=1, due=None)) is wanted
    assert runner.budget.spent(link).month_bytes == 0
    modems.sim = "ab"
    failed = runner.run(light, link, slot=2, due=None)
    assert reason(failed) is Reason.QUOTA_REACHED, "it began on the other one's quota, and has none of its own"
    modems.sim = "cd"
    runner.run(settings.job("radio"), link, slot=2, due=None)
    assert runner.budget.spent(link).month_bytes == 0
    assert reason(runner.run(light, link, slot=3, due=None)) is Reason.NO_LEASE


def test_the_modem_of_a_spent_sim_is_looked_at_inside_the_links_namespace(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "meter", lambda _interface, _namespace: None)
    monkeypatch.setattr(path, "carried", lambda _interface, _namespace=None: None)
    settings = make_settings(tmp_path, plan=Plan(quota_month_mb=100))
    link = msgspec.structs.replace(settings.links[0], namespace="modem0")
    settings = msgspec.structs.replace(settings, links=(link,))
    spool.book(Booking("viettel", "2026-06-15", 100_000_000))
    here: list[str | None] = []
    looked: list[list[str | None]] = []

    @contextmanager
    def moved(name: str | None) -> Iterator[None]:
        here.append(name)
        yield
        here.pop()

    class Inside(FakeModems):
        def look(self, link: Link) -> Look:
            looked.append([*here])
            return super().look(link)

    monkeypatch.setattr("agent.runner.inside", moved)
    assert reason(run(spool, settings, "light", modems=Inside())) is Reason.QUOTA_REACHED
    assert looked == [["modem0"]]


def test_a_defect_of_the_agent_is_a_result_too(tmp_path: Path, spool: Spool) -> None:
    result = run(spool, make_settings(tmp_path), "radio", modems=FakeModems([ZeroDivisionError("oops")]))
    assert result.outcome == Failed(reason=Reason.AGENT_ERROR, detail="ZeroDivisionError: oops")


def test_a_run_that_is_interrupted_says_so(tmp_path: Path, spool: Spool) -> None:
    settings = make_settings(tmp_path)
    runner: Runner

    class Stopping(FakeModems):
        def look(self, link: Link) -> Look:
            runner.stop()
            raise AssertionError("stop() must end the run")

    runner = Runner(settings, spool, FakeClock(), Stopping(), FakeLender())
    assert reason(runner.run(settings.job("radio"), settings.links[0], slot=1, due=None)) is Reason.INTERRUPTED
    assert reason(runner.run(settings.job("radio"), settings.links[0], slot=2, due=None)) is Reason.INTERRUPTED
    assert spool.counts()[:2] == (2, 2)


def test_a_run_cut_off_by_a_power_cut_is_reported_at_the_next_start(tmp_path: Path, spool: Spool) -> None:
    settings = make_settings(tmp_path)
    began = datetime(2026, 6, 15, 7, 59, tzinfo=UTC)
    spool.begin(Run("light", "viettel", 5), began)
    spool.begin(Run("a-job-of-yesterday", "viettel", 5), began)
    Runner(settings, spool, FakeClock(), FakeModems(), FakeLender()).recover()
    results = [decode_result(row.payload) for row in spool.oldest(10)]
    assert [reason(result) for result in results] == [Reason.INTERRUPTED] * 2
    assert all(result.started_at == began for result in results)
    assert {result.job.measurement for result in results if result.job} == {"throughput", "unknown"}
    assert spool.under_way() == []
    assert spool.counts()[:2] == (2, 2)


def test_no_test_is_made_while_its_result_cannot_be_kept(tmp_path: Path, spool: Spool) -> None:
    settings = make_settings(tmp_path)
    spool._db.execute("PRAGMA query_only=1")
    with pytest.raises(StorageError, match="make it writable"):
        run(spool, settings, "light")
    spool._db.execute("PRAGMA query_only=0")
    assert spool.counts()[:2] == (0, 0)


def test_a_result_waits_in_memory_while_the_disk_is_full_and_is_kept_when_it_is_not(
    tmp_path: Path, spool: Spool
) -> None:
    settings = make_settings(tmp_path)

    class FillsTheDisk(FakeModems):
        def look(self, link: Link) -> Look:
            spool._db.execute("PRAGMA query_only=1")
            return super().look(link)

    runner = Runner(settings, spool, FakeClock(), FillsTheDisk(), FakeLender())
    runner.run(settings.job("radio"), settings.links[0], slot=1, due=None)
    assert runner.storage_error
    assert spool.counts()[:2] == (0, 0)
    spool._db.execute("PRAGMA query_only=0")
    runner._modems = FakeModems([RadioReading(rsrp_dbm=-80)])
    runner.run(settings.job("radio"), settings.links[0], slot=2, due=None)
    assert not runner.storage_error
    assert spool.counts()[:2] == (2, 2)


class Watched(FakeModems):
    """A modem that can be watched, and falls back to 3G as soon as nobody but the watcher looks."""

    @contextmanager
    def watch(self, link: Link) -> Iterator[Callable[[], RadioReading]]:
        looks = iter([LTE, LTE])
        yield lambda: next(looks, RadioReading(technology=Technology.UMTS))


def test_what_a_test_is_watched_for_is_told_with_it(
    tmp_path: Path, spool: Spool, iperf_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "LOOK_EVERY_S", 0.05)
    settings = make_settings(tmp_path, servers=(IperfServer(host="127.0.0.1", port=iperf_server),))
    told: list[str] = []

    @contextmanager
    def quiet() -> Iterator[None]:
        told.append("quiet")
        yield
        told.append("aloud")

    clock = FakeClock()
    keeper = Timekeeper(clock, spool, settings.clock, boot=lambda: Boot("b", clock.steady_s), not_before_s=0.0)
    monkeypatch.setattr(keeper, "offset_s", iter([0.0, 0.0, 90.0, 90.0]).__next__)
    runner = Runner(settings, spool, clock, Watched(), FakeLender())
    runner.timekeeper, runner.quiet = keeper, quiet
    monkeypatch.setattr(runner.budget, "is_spent", lambda _link: True)
    result = runner.run(settings.job("light"), settings.links[0], slot=1, due=None)
    assert isinstance(result.outcome, Throughput), result.outcome
    assert told == ["quiet", "aloud"]
    assert result.outcome.technologies_during == (Technology.LTE, Technology.UMTS)
    assert {Invalid.FELL_BACK, Invalid.CLOCK_STEPPED, Invalid.PLAN_THROTTLED} <= set(result.outcome.invalid)
    assert result.outcome.machine is not None
    assert result.outcome.machine.cpu_percent is not None
    assert result.outcome.download.cpu_share is not None
    assert result.outcome.download.interface_back_bytes is not None


def test_a_lease_that_ran_out_and_a_server_that_is_busy_are_told(
    tmp_path: Path, spool: Spool, iperf_server: int
) -> None:
    granted = Granted(
        request_id="1",
        responder="r1",
        host="127.0.0.1",
        ports=(iperf_server,),
        token="",
        expires_in_s=0.5,
        load_percent=88.0,
    )
    clock = FakeClock()
    clock.monotonic_s = time.monotonic  # type: ignore[method-assign]  # a clock that goes
    result = run(spool, make_settings(tmp_path), "light", lender=FakeLender([granted]), clock=clock)
    assert isinstance(result.outcome, Throughput), result.outcome
    assert {Invalid.LEASE_EXPIRED, Invalid.SERVER_LOADED} <= set(result.outcome.invalid)
    assert result.used is not None
    assert result.used.server is not None
    assert result.used.server.load_percent == 88.0


def test_looks_that_show_nothing_new_are_folded_and_every_look_is_counted(tmp_path: Path, spool: Spool) -> None:
    settings, clock = make_settings(tmp_path), FakeClock()
    gone = MeasurementFailed(Reason.NO_MODEM, "unplugged")
    modems = FakeModems([LTE, LTE, LTE, gone, LTE, LTE])
    runner = Runner(settings, spool, clock, modems, FakeLender())
    for slot in range(1, 7):
        runner.run(settings.job("radio"), settings.links[0], slot=slot, due=None)
        assert runner.ran["radio", "viettel"] == slot
    runner.close()
    outcomes = [decode_result(row.payload).outcome for row in spool.oldest(10)]
    assert [outcome.samples if isinstance(outcome, Radio) else 0 for outcome in outcomes] == [1, 0, 3, 1]
    assert spool.counts()[:2] == (4, 4), "what is folded is not made"
    assert spool.accounts()["radio", "viettel"].slot == 6


def test_a_look_by_hand_is_never_folded(tmp_path: Path, spool: Spool) -> None:
    settings = make_settings(tmp_path)
    runner = Runner(settings, spool, FakeClock(), FakeModems(), FakeLender())
    for _ in range(3):
        runner.run(settings.job("radio"), settings.links[0], slot=-1, due=None, by_hand=True)
    assert spool.counts().spooled == 3
    assert spool.accounts() == {}, "the schedule is not disturbed"


def test_telemetry_is_held_and_a_throughput_result_takes_it_along(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9, defer_s=300)
    settings = make_settings(tmp_path)
    runner = Runner(settings, spool, FakeClock(), FakeModems(), FakeLender())
    runner.run(settings.job("radio"), settings.links[0], slot=1, due=None)
    assert spool.oldest(10) == []
    assert spool.last_slots()["radio", "viettel"] == 1, "its slot is not run again"
    runner.run(settings.job("light"), settings.links[0], slot=1, due=None)
    kinds = [type(decode_result(row.payload).outcome) for row in spool.oldest(10)]
    assert kinds == [Radio, Failed]
    assert spool.counts()[:2] == (2, 2)
    spool.close()
