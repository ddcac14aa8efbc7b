"""The PIN is typed once at most, and never again if it was wrong; PUKs and locks are never answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from agent.modem.errors import PortLost, SimAbsent, SimLocked
from agent.modem.session import ModemSession
from agent.modem.sim_pin import COUNTERS, FailedPins, read_pin, tries_left, unlock
from lab.modem import DIALECTS, Sim, SimLock, SimulatedModem, cell_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The counters of the modem notes, section 8, as each vendor prints them with three tries of the PIN left.
PRINTED = [
    ("quectel", '+QPINC: "SC",3,10'),
    ("huawei", "^CPIN: SIM PIN,3,10,3,10,3"),
    ("ublox", "+UPINCNT: 3,3,10,10"),
    ("simcom", "+SPIC: 3,10,0,10"),
    ("sierra", "+CPINC: 3,3,10,10"),
    ("zte", "+ZPINPUK: 3,10"),
    ("cinterion", "^SPIC: 3"),
    ("telit", "#PCT: 3"),
    ("fibocom", "+XPINCNT: 3, 3, 10, 10"),
]


class Counting(ModemSession):
    """A session that notes what is typed."""

    typed: list[str]

    def ask(self, command: str, timeout_s: float | None = None) -> Any:  # noqa: ANN401  # an Answer
        if command.startswith("AT+CPIN="):
            self.typed.append(command)
        return super().ask(command, timeout_s)


class Locked:
    """A modem whose SIM asks for 1234."""

    def __init__(self, folder: Path, modem: SimulatedModem) -> None:
        self.folder, self.modem = folder, modem
        self.typed: list[str] = []
        self.story: list[str] = []

    def pin_file(self, text: str, mode: int = 0o600) -> Path:
        path = self.folder / "viettel.pin"
        path.write_text(text)
        path.chmod(mode)
        return path

    def unlock(self, pin_file: Path | None) -> str:
        session = Counting(str(self.modem.port))
        session.typed = self.typed
        try:
            with session:
                return unlock(session, pin_file, FailedPins(self.folder / "failed-pins.json"))
        finally:
            self.story += session.transcript.lines()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Callable[..., Locked]]:
    modems: list[SimulatedModem] = []

    def make(dialect: str = "quectel-ec25", **changes: Any) -> Locked:  # noqa: ANN401  # fields of a Sim
        sim = Sim.of("45204", 1)
        sim.pin_enabled, sim.lock = True, SimLock.PIN
        for name, value in changes.items():
            setattr(sim, name, value)
        quick = {"boot_s": 0.1, "register_s": 0.0, "latency_s": 0.0, "gap_s": 0.0}
        modem = SimulatedModem(dialect, cell_of("viettel"), link=tmp_path / "modem", sim=sim, **quick)
        modems.append(modem.start())
        return Locked(tmp_path, modem)

    yield make
    for modem in modems:
        modem.stop()


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_right_pin_is_typed_once_and_opens_the_sim(locked: Callable[..., Locked], dialect: str) -> None:
    sim = locked(dialect)
    assert sim.unlock(sim.pin_file("1234\n")) == "the PIN was typed once and accepted"
    assert sim.modem.sim.lock is SimLock.READY
    assert sim.unlock(None) == "the SIM is ready; no PIN is asked for"
    assert len(sim.typed) == 1


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_wrong_pin_is_typed_once_ever(locked: Callable[..., Locked], dialect: str) -> None:
    sim = locked(dialect)
    for _ in range(4):
        with pytest.raises(SimLocked):
            sim.unlock(sim.pin_file("9999"))
    assert len(sim.typed) == 1
    assert sim.modem.sim.pin_tries == 2


def test_a_wrong_pin_is_not_typed_again_even_when_all_tries_are_back(locked: Callable[..., Locked]) -> None:
    sim = locked()
    with pytest.raises(SimLocked, match="was not accepted"):
        sim.unlock(sim.pin_file("9999"))
    sim.modem.sim.pin_tries = 3
    with pytest.raises(SimLocked, match="was refused before and is not typed again"):
        sim.unlock(sim.pin_file("9999"))
    assert len(sim.typed) == 1
    assert sim.unlock(sim.pin_file("1234")).endswith("accepted"), "a corrected file is tried"


def test_a_probe_that_dies_while_it_types_does_not_type_again(locked: Callable[..., Locked]) -> None:
    sim = locked()
    sim.modem.fault("vanish", command="+CPIN=", times=1, delay_s=0.2)
    with pytest.raises(PortLost):
        sim.unlock(sim.pin_file("9999"))
    sim.modem.stop()
    sim.modem.sim.pin_tries = 3
    sim.modem.start()
    with pytest.raises(SimLocked, match="refused before"):
        sim.unlock(sim.pin_file("9999"))
    assert len(sim.typed) == 1


@pytest.mark.parametrize("left", [1, 2])
def test_with_fewer_than_three_tries_left_nothing_is_typed(locked: Callable[..., Locked], left: int) -> None:
    sim = locked(pin_tries=left)
    with pytest.raises(SimLocked, match=f"only {left} tries are left"):
        sim.unlock(sim.pin_file("1234"))
    assert sim.typed == []


def test_where_the_tries_cannot_be_read_nothing_is_typed(locked: Callable[..., Locked]) -> None:
    sim = locked()
    sim.modem.fault("cme-error", command="+QPINC=", code=3)
    with pytest.raises(SimLocked, match="does not tell how many tries are left"):
        sim.unlock(sim.pin_file("1234"))
    assert sim.typed == []


def test_a_puk_is_never_typed(locked: Callable[..., Locked]) -> None:
    sim = locked(lock=SimLock.PUK, pin_tries=0)
    with pytest.raises(SimLocked, match="its PUK; ask the operator"):
        sim.unlock(sim.pin_file("1234"))
    assert sim.typed == []


@pytest.mark.parametrize("code", [5, 6, 12, 18])
def test_locks_that_are_not_the_pins_are_never_answered(locked: Callable[..., Locked], code: int) -> None:
    """PH-SIM PIN, PH-FSIM PIN, SIM PUK, SIM PUK2 required (TS 27.007 section 9.2)."""
    sim = locked()
    sim.modem.fault("cme-error", command="+CPIN?", code=code)
    with pytest.raises(SimLocked, match="the agent never types one"):
        sim.unlock(sim.pin_file("1234"))
    assert sim.typed == []


def test_a_busy_sim_is_not_typed_at(locked: Callable[..., Locked]) -> None:
    sim = locked()
    sim.modem.fault("cme-error", command="+CPIN?", code=14)
    assert "no PIN is asked for" in sim.unlock(sim.pin_file("1234"))
    assert sim.typed == []


def test_no_sim_is_told_as_such(locked: Callable[..., Locked]) -> None:
    sim = locked()
    sim.modem.fault("sim-pulled")
    with pytest.raises(SimAbsent):
        sim.unlock(sim.pin_file("1234"))


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("1234", 0o644, "chmod 600"),
        ("12", 0o600, "4 to 8 digits"),
        ("123456789", 0o600, "4 to 8 digits"),
        ("12a4", 0o600, "4 to 8 digits"),
        ("1234\n5678", 0o600, "4 to 8 digits"),
    ],
)
def test_a_pin_file_that_is_not_right_is_refused_without_showing_it(
    locked: Callable[..., Locked], text: str, mode: int, complaint: str
) -> None:
    sim = locked()
    with pytest.raises(SimLocked, match=complaint) as refusal:
        sim.unlock(sim.pin_file(text, mode))
    assert text not in str(refusal.value).replace(str(sim.folder), "")
    assert sim.typed == []


def test_a_pin_file_that_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SimLocked, match="No such file"):
        read_pin(tmp_path / "none.pin")


def test_the_pin_is_in_no_transcript_no_log_and_no_file(
    locked: Callable[..., Locked], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sim = locked()
    with pytest.raises(SimLocked) as refusal:
        sim.unlock(sim.pin_file("80851"))
    shown = [*sim.story, *refusal.value.story, str(refusal.value), caplog.text]
    shown.append((sim.folder / "failed-pins.json").read_text())
    assert any("AT+CPIN=****" in line for line in sim.story)
    assert not any("80851" in text for text in shown)
    assert (sim.folder / "failed-pins.json").stat().st_mode & 0o077 == 0


def test_a_failure_counts_for_its_sim_and_for_every_sim_without_a_number(tmp_path: Path) -> None:
    failed = FailedPins(tmp_path / "failed-pins.json")
    failed.add("1111", "8984040000000000001")
    assert failed.holds("1111", "8984040000000000001")
    assert failed.holds("1111", None)
    assert not failed.holds("1111", "8984040000000000002")
    assert not failed.holds("2222", None)
    failed.add("3333", None)
    assert failed.holds("3333", "8984040000000000002")
    failed.remove("3333")
    assert not failed.holds("3333", None)
    assert failed.holds("1111", None)


@pytest.mark.parametrize(("vendor", "line"), PRINTED)
def test_every_vendors_counter_is_read(peer: Callable[..., Any], vendor: str, line: str) -> None:
    commands = {counter.command for counter in COUNTERS[vendor]}

    def answer(command: str) -> bytes:
        return f"\r\n{line}\r\n\r\nOK\r\n".encode() if command in commands else b"\r\nOK\r\n"

    with ModemSession(peer(answer).port, vendor=vendor) as session:
        assert tries_left(vendor, session) == 3


def test_a_vendor_without_a_counter_tells_nothing(peer: Callable[..., Any]) -> None:
    with ModemSession(peer(lambda _: b"\r\nOK\r\n").port) as session:
        assert tries_left("generic", session) is None
