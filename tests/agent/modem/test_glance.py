"""Looks beside a running test, on simulated modems: one question, every dialect, and the port is free afterwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agent.measurements.base import MeasurementFailed
from agent.modem import manager
from agent.modem.glance import GLANCE_WITHIN_S, Glance
from agent.modem.session import ModemSession
from agent.modems import SerialModems
from agent.settings import Link
from lab.modem import DIALECTS, SimulatedModem, cell_of
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Peer  # type: ignore[import-not-found]  # only a name for the reader

LTE = cell_of("viettel")
UMTS = cell_of("viettel", number=2, technology=Technology.UMTS, band=1, earfcn=10638, bandwidth_mhz=5)


@pytest.fixture
def modem(tmp_path: Path) -> Iterator[Callable[..., SimulatedModem]]:
    made: list[SimulatedModem] = []

    def make(dialect: str = "quectel-ec25") -> SimulatedModem:
        one = SimulatedModem(dialect, LTE, link=tmp_path / "ttyUSB2", register_s=0.0, latency_s=0.0, gap_s=0.0)
        made.append(one.start())
        return one

    yield make
    for one in made:
        one.stop()


def link_of(modem: SimulatedModem) -> Link:
    return Link(name="viettel", interface="wwan0", modem=str(modem.port))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fallback_to_3g_and_the_way_back_are_seen_on_every_dialect(
    modem: Callable[..., SimulatedModem], dialect: str
) -> None:
    simulated = modem(dialect)
    with SerialModems().watch(link_of(simulated)) as look:
        assert look().technology is Technology.LTE
        simulated.move_to(UMTS)
        assert look().technology is Technology.UMTS
        simulated.move_to(LTE)
        assert look().technology is Technology.LTE
    radio = SerialModems().look(link_of(simulated)).reading
    assert radio.technology is Technology.LTE, "the port is free again"


def test_after_the_first_look_one_question_is_enough(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    far = peer(ec25())
    with ModemSession(far.port) as session:
        glance = Glance(session)
        glance()
        asked = len(far.heard)
        assert glance().technology is Technology.LTE
        assert far.heard[asked:] == ['AT+QENG="servingcell"']


def test_when_the_usual_question_tells_nothing_any_more_another_one_does(
    peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    table = {"AT+CEREG?": "+CEREG: 2,0", "AT+CGREG?": '+CGREG: 2,1,"D6E7","844D92A",2'}
    before, after = ec25(), ec25(table=table | {"AT+QCSQ": '+QCSQ: "NOSERVICE"'})
    fallen: list[str] = []

    def answer(command: str) -> bytes | None:
        if fallen and command == 'AT+QENG="servingcell"':
            return b'\r\n+QENG: "servingcell","SEARCH"\r\n\r\nOK\r\n'
        return after(command) if fallen else before(command)

    far = peer(answer)
    with ModemSession(far.port) as session:
        glance = Glance(session)
        assert glance().technology is Technology.LTE
        fallen.append("back to 3G")
        assert glance().technology is Technology.UMTS
        asked = len(far.heard)
        assert glance().technology is Technology.UMTS
        assert far.heard[asked:] == ["AT+CGREG?"]


def test_a_modem_that_hangs_during_the_test_ends_the_watch_soon(modem: Callable[..., SimulatedModem]) -> None:
    simulated = modem()

    def look_twice() -> None:
        with SerialModems().watch(link_of(simulated)) as look:
            look()
            simulated.fault("silence")
            look()

    begun_s = time.monotonic()
    with pytest.raises(MeasurementFailed) as failure:
        look_twice()
    assert failure.value.reason in {Reason.TIMEOUT, Reason.MODEM_SILENT}
    assert time.monotonic() - begun_s < 3 * GLANCE_WITHIN_S


def test_a_modem_without_a_port_is_not_watched() -> None:
    for address in ("http://192.168.8.1", None):
        with (
            pytest.raises(MeasurementFailed) as failure,
            SerialModems().watch(Link(name="viettel", interface="eth1", modem=address)),
        ):
            raise AssertionError("nothing may be asked over the link that is measured")
        assert failure.value.reason is Reason.NO_MODEM


def test_a_modem_of_modem_manager_is_asked_through_it() -> None:
    owned = manager.MmModem(path="/org/freedesktop/ModemManager1/Modem/0", usb_path="1-1.2")
    answer = {
        "modem": {
            "generic": {"access-technologies": ["umts"], "ports": []},
            "3gpp": {"registration-state": "home"},
        }
    }
    assert manager.read_technology(owned, lambda arguments: answer) == RadioReading(
        registration=Registration.HOME, technology=Technology.UMTS
    )
