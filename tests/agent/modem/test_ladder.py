"""The ladder's hands on simulated modems: what cures, what goes up, what is only told, and what survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.measurements.base import Finished
from agent.modem.diagnose import Roots, diagnose
from agent.modem.durable_file import read_json
from agent.modem.hands import Hands, RungFailed
from agent.modem.ladder import Ladder, Step
from agent.modem.recovery import Hub, Memory, RecoveryOptions
from agent.modem.session import ModemSession
from agent.modems import SerialModems
from agent.settings import Link
from base.durable import StorageError
from lab.modem import SimulatedModem, cell_of
from wire.events import Diagnosis
from wire.measured import Dns, Failed, Ping, Radio, Web
from wire.radio import RadioReading, Registration
from wire.reasons import Condition, Reason
from wire.results import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wire.results import Outcome

REBOOT = 3
"""The rung."""
SICK = Failed(reason=Reason.NO_REGISTRATION)


@dataclass
class Hours:
    """A clock that a test moves by hours, and sleeping that moves it."""

    passed_s: float = 100_000.0
    synchronised: bool = True

    def now(self) -> datetime:
        return datetime(2026, 6, 15, tzinfo=UTC) + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        return self.passed_s

    def quality(self) -> Clock:
        return Clock(synchronised=self.synchronised)

    def sleep(self, duration_s: float) -> None:
        """Sleep, for a modem that lives in real time only a moment."""
        self.passed_s += duration_s
        time.sleep(0.1)


@dataclass
class Bench:
    """A ladder over one link, with everything it told."""

    link: Link
    folder: Path
    modem: SimulatedModem | None = None
    hours: Hours = field(default_factory=Hours)
    steps: list[Step] = field(default_factory=list)
    tools: list[list[str]] = field(default_factory=list)
    boot: str = "boot1"

    def run(self, command: Sequence[str]) -> Finished:
        self.tools.append(list(command))
        if command[0] == "uhubctl" and self.modem is not None:
            self.modem.power_cycle()
        return Finished(0, b"", b"", 0.0, overran=False)

    @property
    def modems(self) -> SerialModems:
        return SerialModems(sys_root=self.folder / "sys", dev_root=self.folder / "dev", proc_root=self.folder)

    def ladder(self, **changes: Any) -> Ladder:  # noqa: ANN401  # parts of a Ladder
        roots = Roots(self.folder / "sys", self.folder / "dev")
        hands = Hands(self.modems, roots=roots, run=self.run, sleep=self.hours.sleep)
        parts: dict[str, Any] = {
            "hands": hands,
            "diagnose": lambda link: diagnose(link, self.modems, roots=roots),
            "report": self.steps.append,
            "boot_id": self.boot,
            "settle_s": dict.fromkeys(range(1, 7), 10.0),
            "sleep": self.hours.sleep,
            **changes,
        }
        return Ladder(self.folder / "recovery.json", self.hours, **parts)

    def sicken(self, ladder: Ladder, times: int = 3) -> None:
        for _ in range(times):
            ladder.note(self.link, "radio", SICK)

    def climb(self, ladder: Ladder, *, consultations: int) -> list[int]:
        """Consult so often, twenty minutes apart; return the rungs."""
        self.sicken(ladder)
        for _ in range(consultations):
            known, tty = len(self.steps), self.modem and self.modem.tty
            ladder.consult(self.link)
            self.hours.passed_s += 1200
            if self.modem is not None and REBOOT in [step.recovery.rung for step in self.steps[known:]]:
                self.wait_for_another(tty)
        return [step.recovery.rung for step in self.steps]

    def wait_for_another(self, tty: str | None) -> None:
        """Wait until the modem is back from its reboot, for which its hours may have been short on a busy machine."""
        assert self.modem is not None
        give_up_s = time.monotonic() + 30
        while self.modem.tty in {None, tty}:
            assert time.monotonic() < give_up_s, "the modem did not come back"
            time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    modems: list[SimulatedModem] = []

    def make(rungs: tuple[int, ...] = (1, 2, 3), *, dialect: str = "quectel-ec25", **options: Any) -> Bench:  # noqa: ANN401  # of RecoveryOptions
        cell = cell_of("viettel")
        modem = SimulatedModem(
            dialect, cell, link=tmp_path / "modem", boot_s=0.1, register_s=0.05, latency_s=0.0, gap_s=0.0
        )
        modems.append(modem.start())
        recovery = RecoveryOptions(rungs=rungs, **options)
        usb = tmp_path / "sys/bus/usb/devices/1-1.2"
        usb.mkdir(parents=True)
        (usb / "authorized").write_text("1")
        link = Link(name="viettel", interface="lo", modem=str(modem.port), usb_path="1-1.2", recovery=recovery)
        return Bench(link=link, folder=tmp_path, modem=modem)

    yield make
    for modem in modems:
        modem.stop()


def told(bench: Bench, *commands: str) -> None:
    """Say something to the modem behind the agent's back."""
    with ModemSession(str(bench.link.modem)) as session:
        for command in commands:
            session.ask(command, 5.0)


@pytest.mark.parametrize("dialect", ["quectel-ec25", "simcom-sim7600", "huawei-me909"])
def test_a_modem_that_was_deregistered_is_cured_by_registering_it_again(
    bench: Callable[..., Bench], dialect: str
) -> None:
    sick = bench(dialect=dialect)
    told(sick, "AT+COPS=2")
    assert sick.climb(sick.ladder(), consultations=1) == [1]
    step = sick.steps[0].recovery
    assert (step.before.condition, step.cured) == (Condition.NOT_REGISTERED, True)
    assert step.after is not None
    assert step.after.radio is not None
    assert step.after.radio.operator == "Viettel"


def test_a_radio_that_was_left_off_is_cured_by_switching_it_off_and_on(bench: Callable[..., Bench]) -> None:
    sick = bench()
    told(sick, "AT+CFUN=4")
    ladder = sick.ladder()
    assert sick.climb(ladder, consultations=6) == [1, 2], "and nothing more, once it works"
    assert [step.recovery.cured for step in sick.steps] == [False, True]


@pytest.mark.parametrize("dialect", ["quectel-ec25", "simcom-sim7600", "huawei-me909"])
def test_a_hung_baseband_takes_the_whole_way_up_to_the_power_switch(bench: Callable[..., Bench], dialect: str) -> None:
    sick = bench((1, 2, 3, 4, 5), dialect=dialect, hub=Hub(location="1-1", port=2))
    assert sick.modem is not None
    sick.modem.fault("stuck")
    assert sick.climb(sick.ladder(), consultations=8) == [1, 2, 3, 4, 5]
    assert [step.recovery.cured for step in sick.steps] == [False, False, False, False, True]
    assert sick.tools == [["uhubctl", "-l", "1-1", "-p", "2", "-a", "cycle", "-d", "5"]]
    assert (sick.folder / "sys/bus/usb/devices/1-1.2/authorized").read_text() == "1"


@pytest.mark.parametrize(
    ("fault", "condition"),
    [
        ("denied", Condition.DENIED),
        ("sim-pulled", Condition.SIM_ABSENT),
        ("sim-pin", Condition.SIM_LOCKED),
    ],
)
def test_what_no_reset_cures_is_told_once_and_nothing_is_done(
    bench: Callable[..., Bench], fault: str, condition: Condition
) -> None:
    sick = bench((1, 2, 3, 4, 5, 6), hub=Hub(location="1-1", port=2))
    assert sick.modem is not None
    sick.modem.fault(fault)
    ladder = sick.ladder()
    assert sick.climb(ladder, consultations=5) == [0]
    step = sick.steps[0].recovery
    assert (step.action, step.before.condition, step.after) == ("alert", condition, None)
    assert sick.modem.sim.pin_tries == 3
    assert sick.tools == []


def test_a_modem_that_is_silent_is_not_spoken_to(bench: Callable[..., Bench]) -> None:
    sick = bench((1, 2, 3, 4))
    diagnosis = Diagnosis(condition=Condition.SILENT)
    ladder = sick.ladder(diagnose=lambda _: diagnosis)
    assert sick.climb(ladder, consultations=1) == []
    assert sick.climb(ladder, consultations=1) == [4]


def test_nothing_is_done_before_enough_runs_have_failed_in_a_row(bench: Callable[..., Bench]) -> None:
    sick = bench(after_failures=3)
    looks: list[Link] = []
    ladder = sick.ladder(diagnose=lambda link: looks.append(link) or Diagnosis(condition=Condition.HEALTHY))
    for outcome in (SICK, SICK, Radio(reading=RadioReading(registration=Registration.HOME)), SICK, SICK):
        ladder.note(sick.link, "radio", outcome)
        ladder.consult(sick.link)
    assert looks == []
    ladder.note(sick.link, "radio", Radio(reading=RadioReading(registration=Registration.SEARCHING)))
    ladder.consult(sick.link)
    assert looks == [sick.link]


@pytest.mark.parametrize("outcome", [Dns(lookups=()), Web(pages=()), Ping()])
def test_a_service_that_works_again_ends_its_count(bench: Callable[..., Bench], outcome: Outcome) -> None:
    sick = bench(after_failures=3)
    ladder = sick.ladder(diagnose=lambda _: pytest.fail("nobody should look"))
    lost = Failed(reason=Reason.NAME_NOT_RESOLVED)
    for one in (lost, lost, outcome, lost, lost):
        ladder.note(sick.link, "names", one)
        ladder.consult(sick.link)


@pytest.mark.parametrize("reason", [Reason.BUSY, Reason.QUOTA_REACHED, Reason.AGENT_ERROR, Reason.TOOL_MISSING])
def test_failures_that_are_not_the_links_do_not_count(bench: Callable[..., Bench], reason: Reason) -> None:
    sick = bench()
    ladder = sick.ladder(diagnose=lambda _: pytest.fail("nobody should look"))
    for _ in range(10):
        ladder.note(sick.link, "light", Failed(reason=reason))
        ladder.consult(sick.link)


def test_an_agent_that_is_started_again_goes_on_with_the_next_rung(bench: Callable[..., Bench]) -> None:
    sick = bench((1, 2, 3))
    assert sick.modem is not None
    sick.modem.fault("stuck")
    assert sick.climb(sick.ladder(), consultations=1) == [1]
    second = sick.ladder()
    second.recover((sick.link,))
    second.consult(sick.link)
    assert [step.recovery.rung for step in sick.steps] == [1, 2], "trouble is remembered without a new failure"


_KILLED = """
import sys, time
from pathlib import Path
from agent.clock import SystemClock
from agent.modem.ladder import Ladder
from agent.modem.recovery import RecoveryOptions
from agent.settings import Link
from wire.events import Diagnosis
from wire.measured import Failed
from wire.reasons import Condition, Reason

class Slow:
    def act(self, link, rung):
        print(rung, flush=True)
        time.sleep(60)
    def mend(self, link, rung): ...

link = Link(name="viettel", interface="lo", recovery=RecoveryOptions(rungs=(2, 3), after_failures=1))
sick = Diagnosis(condition=Condition.NOT_REGISTERED, detail="searching")
class Up(SystemClock):
    def monotonic_s(self): return 100_000 + super().monotonic_s()
ladder = Ladder(Path(sys.argv[1]), Up(), Slow(), lambda _: sick, print, boot_id="boot1")
ladder.note(link, "radio", Failed(reason=Reason.NO_REGISTRATION))
ladder.consult(link)
"""


def test_a_kill_in_the_middle_of_a_rung_counts_as_a_try_is_mended_and_is_reported(bench: Callable[..., Bench]) -> None:
    sick = bench((2, 3))
    memory_file = sick.folder / "recovery.json"
    command = [sys.executable, "-c", _KILLED, str(memory_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"2\n"
        os.kill(agent.pid, signal.SIGKILL)
    kept = read_json(memory_file, Memory)
    assert kept is not None
    assert len(kept.rung("viettel", 2).tries) == 1

    told(sick, "AT+CFUN=4")  # what the first half of the rung has done
    sick.hours.passed_s += 100_000
    ladder = sick.ladder()
    ladder.recover((sick.link,))
    (step,) = sick.steps
    assert (step.recovery.rung, step.recovery.before.detail) == (2, "searching")
    assert step.recovery.detail == "the agent ended during this rung"
    assert step.recovery.cured, "the second half of the rung was done"
    sick.steps.clear()
    ladder.recover((sick.link,))
    assert sick.steps == [], "once"


def test_a_reboot_is_reported_by_the_agent_that_comes_after_it(bench: Callable[..., Bench]) -> None:
    sick = bench((6,))
    sick_now = {"now": Diagnosis(condition=Condition.ABSENT)}

    class PowerCut(BaseException):
        pass

    def run(command: Sequence[str]) -> Finished:
        sick.tools.append(list(command))
        raise PowerCut

    class Rebooting(Hands):
        pass

    ladder = sick.ladder(diagnose=lambda _: sick_now["now"])
    ladder.recover((sick.link,))
    sick.boot, sick.hours.passed_s = "boot2", 90_000.0
    hands = Rebooting(sick.modems, run=run, sleep=sick.hours.sleep)
    ladder = sick.ladder(diagnose=lambda _: sick_now["now"], hands=hands)
    sick.sicken(ladder)
    ladder.consult(sick.link)
    sick.hours.passed_s += 3700
    with pytest.raises(PowerCut):
        ladder.consult(sick.link)
    assert sick.tools == [["systemctl", "reboot"]]
    sick.boot, sick.hours.passed_s = "boot3", 60.0
    sick_now["now"] = Diagnosis(condition=Condition.HEALTHY)
    sick.ladder(diagnose=lambda _: sick_now["now"]).recover((sick.link,))
    step = sick.steps[-1].recovery
    assert (step.rung, step.detail, step.cured) == (6, "the machine was restarted", True)


def test_where_the_memory_cannot_be_written_nothing_is_done(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = bench((1, 2))
    told(sick, "AT+COPS=2")

    def full(*_: object) -> None:
        raise StorageError("recovery.json: No space left on device; free some space")

    monkeypatch.setattr("agent.modem.ladder.write_json", full)
    assert sick.climb(sick.ladder(), consultations=3) == []
    assert sick.modem is not None
    assert sick.modem.radio_now().registration is Registration.NOT_REGISTERED


def test_a_rung_that_the_user_may_not_do_says_what_it_needs_and_counts(bench: Callable[..., Bench]) -> None:
    sick = bench((4,))
    (sick.folder / "sys/bus/usb/devices/1-1.2/authorized").unlink()
    (sick.folder / "sys/bus/usb/devices/1-1.2/authorized").mkdir()
    ladder = sick.ladder(diagnose=lambda _: Diagnosis(condition=Condition.SILENT))
    sick.climb(ladder, consultations=2)
    step = sick.steps[0].recovery
    assert step.rung == 4
    assert "needs root" in step.detail
    assert not step.cured


def test_a_tool_that_fails_is_told_with_its_complaint(bench: Callable[..., Bench]) -> None:
    sick = bench((5,), hub=Hub(location="1-1", port=2))
    hands = Hands(sick.modems, run=lambda _: Finished(1, b"", b"No compatible devices detected!", 0.0, overran=False))
    with pytest.raises(RungFailed, match="uhubctl -l 1-1 -p 2 -a cycle -d 5: No compatible devices detected!"):
        hands.act(sick.link, 5)


def test_an_operator_chosen_by_hand_stays_chosen(bench: Callable[..., Bench]) -> None:
    sick = bench((1,))
    told(sick, 'AT+COPS=1,2,"45204"', "AT+CGATT=0")
    assert sick.climb(sick.ladder(), consultations=1) == [1]
    assert sick.steps[0].recovery.cured
    with ModemSession(str(sick.link.modem)) as session:
        assert session.ask("AT+COPS?").lines[0].startswith("+COPS: 1,")


def test_bringing_the_link_up_comes_before_any_rung(bench: Callable[..., Bench]) -> None:
    sick = bench((1, 2, 3))
    states = [Diagnosis(condition=Condition.NO_ADDRESS), Diagnosis(condition=Condition.HEALTHY)]
    dialled: list[str] = []
    ladder = sick.ladder(
        diagnose=lambda _: states.pop(0), bring_up=lambda link: dialled.append(link.name) or "dialled again"
    )
    assert sick.climb(ladder, consultations=1) == []
    assert dialled == ["viettel"]


def test_a_dry_run_explains_and_changes_nothing(bench: Callable[..., Bench]) -> None:
    sick = bench((1, 3))
    told(sick, "AT+COPS=2")
    text = sick.ladder().explain(sick.link)
    assert "viettel: not_registered" in text
    assert "would do rung 1: the link is not_registered: re-register" in text
    assert "no" in next(line for line in text.splitlines() if "radio off and on" in line)
    assert not (sick.folder / "recovery.json").exists()
    assert sick.modem is not None
    assert sick.modem.radio_now().registration is Registration.NOT_REGISTERED


def test_the_memory_is_readable_json(bench: Callable[..., Bench]) -> None:
    sick = bench((1,))
    told(sick, "AT+COPS=2")
    sick.climb(sick.ladder(), consultations=1)
    document = msgspec.json.decode((sick.folder / "recovery.json").read_bytes())
    assert list(document["links"]["viettel"]["rungs"]) == ["1"]


def test_a_damaged_memory_is_put_aside_and_no_chain_of_reboots_follows(bench: Callable[..., Bench]) -> None:
    sick = bench((6,))
    sick.hours.passed_s = 7200.0
    (sick.folder / "recovery.json").write_text("{")
    ladder = sick.ladder(diagnose=lambda _: Diagnosis(condition=Condition.ABSENT))
    ladder.recover((sick.link,))
    assert (sick.folder / "recovery.json.damaged").read_text() == "{"
    assert sick.climb(ladder, consultations=10) == []
