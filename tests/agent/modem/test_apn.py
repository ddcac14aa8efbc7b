"""The APN: chosen by the SIM, compared before it is written, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent.modem.apn import Apn, ApnUnknown, choose, context_apn, ensure, known, of_subscriber
from agent.modem.errors import CommandRefused
from agent.modem.session import ModemSession
from lab.modem import DIALECTS, SimulatedModem, cell_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Counting(ModemSession):
    """A session that notes what is written."""

    def __init__(self, port: str) -> None:
        super().__init__(port)
        self.writes: list[str] = []

    def ask(self, command: str, timeout_s: float | None = None) -> Any:  # noqa: ANN401  # an Answer
        if command.startswith("AT+CGDCONT="):
            self.writes.append(command)
        return super().ask(command, timeout_s)


@pytest.fixture
def modem(tmp_path: Path) -> Iterator[Callable[..., SimulatedModem]]:
    made: list[SimulatedModem] = []

    def make(dialect: str = "quectel-ec25", operator: str = "viettel") -> SimulatedModem:
        link = tmp_path / f"modem{len(made)}"
        one = SimulatedModem(dialect, cell_of(operator), link=link, register_s=0.0, latency_s=0.0, gap_s=0.0)
        made.append(one.start())
        return one

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize(
    ("mcc", "mnc", "apn"),
    [
        ("452", "01", "m-wap"),
        ("452", "02", "m3-world"),
        ("452", "04", "v-internet"),
        ("452", "05", "internet"),
        ("452", "09", "m9-wintel"),
    ],
)
def test_the_operators_of_vietnam_have_their_apn(mcc: str, mnc: str, apn: str) -> None:
    chosen = choose("auto", known(mcc, mnc), None)
    assert chosen.name == apn
    assert chosen.source.startswith("operators_vn")


def test_a_network_code_of_three_digits_is_tried_before_one_of_two() -> None:
    assert of_subscriber("310410") == known("310", "410") != ()
    assert of_subscriber("452040")[0].name == "v-internet"
    assert of_subscriber("999999") == ()
    assert of_subscriber("") == ()


def test_an_apn_that_the_modem_has_and_the_operator_uses_stays() -> None:
    assert choose("auto", known("452", "04"), "E-Connect").name == "e-connect"
    assert choose("auto", known("452", "04"), "v-internet.mnc004.mcc452.gprs").name == "v-internet"


def test_the_one_in_the_configuration_counts_and_brings_its_account_along() -> None:
    assert choose("my.own", known("452", "04"), "v-internet") == Apn("my.own")
    assert choose("m-wap", known("452", "01"), None).username == "mms"


@pytest.mark.parametrize("wanted", ['a"b', "a b", "", "-x", "v-internet,1", "x" * 101])
def test_what_is_no_apn_is_refused(wanted: str) -> None:
    with pytest.raises(ApnUnknown, match="is no APN"):
        choose(wanted, (), None)


def test_where_auto_cannot_tell_the_technician_is_asked() -> None:
    with pytest.raises(ApnUnknown, match="not in the APN data; write the link's apn"):
        choose("auto", (), "internet")
    several = (Apn("one", provider="A", source="x"), Apn("two", provider="B", source="x"))
    with pytest.raises(ApnUnknown, match=r"one \(A\), two \(B\)"):
        choose("auto", several, "three")


def test_every_line_of_the_data_has_its_source() -> None:
    everything = [apn for mcc in range(200, 800) for mnc in range(100) for apn in known(f"{mcc}", f"{mnc:02}")]
    assert len(everything) > 1000
    assert all(apn.source and apn.name for apn in everything)


def test_contexts_are_read_in_every_form() -> None:
    lines = ('+CGDCONT: 2,"IP","ims","",0,0', '+CGDCONT:1,"IPV4V6","v-internet","0.0.0.0",0,0,0,0')
    assert context_apn(lines) == ("IPV4V6", "v-internet")
    assert context_apn(()) is None
    assert context_apn(("+CGDCONT: 1", "garbage")) is None


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_it_is_written_once_and_then_found_right(modem: Callable[..., SimulatedModem], dialect: str) -> None:
    port = str(modem(dialect).port)
    with Counting(port) as session:
        first = ensure(session, "auto", write=True)
        assert (first.wanted.name, first.found, first.written) == ("v-internet", "", True)
        assert session.writes == ['AT+CGDCONT=1,"IPV4V6","v-internet"']
        for _ in range(3):
            again = ensure(session, "auto", write=True)
            assert (again.found, again.written) == ("v-internet", False)
        assert len(session.writes) == 1, "what is right is not written again: it is flash"


def test_without_leave_nothing_is_written(modem: Callable[..., SimulatedModem]) -> None:
    with Counting(str(modem(operator="mobifone").port)) as session:
        outcome = ensure(session, "auto", write=False)
        assert (outcome.wanted.name, outcome.written, session.writes) == ("m-wap", False, [])
        assert "write_apn is off" in outcome.told


def test_a_modem_that_takes_no_apn_says_so(modem: Callable[..., SimulatedModem]) -> None:
    one = modem()
    one.fault("cme-error", command="+CGDCONT=", code=3)
    with Counting(str(one.port)) as session, pytest.raises(CommandRefused, match="does not take the APN v-internet"):
        ensure(session, "auto", write=True)


def test_the_imsi_is_in_no_transcript(modem: Callable[..., SimulatedModem]) -> None:
    one = modem()
    with Counting(str(one.port)) as session:
        ensure(session, "auto", write=False)
        assert any("AT+CIMI" in line for line in session.transcript.lines())
        assert not any(one.sim.imsi in line for line in session.transcript.lines())
