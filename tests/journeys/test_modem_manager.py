"""Debian's ModemManager reads the simulated modem: the simulator is no mirror of our own parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from lab.vm.image import Unavailable
from lab.vm.journeys import steps_of
from wire.radio import RadioReading

if TYPE_CHECKING:
    from lab.vm.diary import Step

pytestmark = [pytest.mark.vm, pytest.mark.journey, pytest.mark.root, pytest.mark.alone]

Steps = dict[str, "Step"]

SIGNAL_WANDERS_DB = 6.0  # between its look and ours


@pytest.fixture(scope="module")
def steps() -> Steps:
    try:
        return steps_of("modem_manager")
    except Unavailable as lack:
        pytest.skip(f"NOT SHOWN: no virtual machine here: {lack}")


@pytest.fixture
def modem(steps: Steps) -> dict[str, Any]:
    told: dict[str, Any] = steps["registered"].facts["modem"]
    return told


@pytest.fixture
def truth(steps: Steps) -> RadioReading:
    return msgspec.convert(steps["signal"].facts["truth"], RadioReading)


def test_it_takes_the_modem_for_a_quectel_ec25(steps: Steps, modem: dict[str, Any]) -> None:
    generic = modem["generic"]
    assert (generic["plugin"], generic["manufacturer"], generic["model"]) == ("quectel", "Quectel", "EC25")
    assert generic["drivers"] == ["option"]
    assert generic["equipment-identifier"] == steps["registered"].facts["imei"]


def test_it_speaks_at_on_both_at_ports_and_on_no_other(modem: dict[str, Any]) -> None:
    generic = modem["generic"]
    at_ports = [port for port in generic["ports"] if port.endswith("(at)")]
    assert at_ports == ["ttyUSB2 (at)", "ttyUSB3 (at)"]
    assert generic["primary-port"] == "ttyUSB2"


def test_it_reads_the_sim_and_finds_it_unlocked(steps: Steps, modem: dict[str, Any]) -> None:
    facts = steps["registered"].facts
    card = facts["sim"]["properties"]
    assert (card["active"], card["imsi"], card["iccid"]) == ("yes", facts["imsi"], facts["iccid"])
    assert "sim-pin (3)" in modem["generic"]["unlock-retries"]
    assert modem["generic"]["unlock-required"] in {"--", "sim-pin2"}
    assert modem["generic"]["state-failed-reason"] == "--"


def test_it_sees_the_registration_and_the_operator(modem: dict[str, Any], truth: RadioReading) -> None:
    network = modem["3gpp"]
    assert modem["generic"]["state"] == "registered"
    assert (network["registration-state"], network["operator-name"]) == ("home", truth.operator)
    assert network["operator-code"] == f"{truth.mcc}{truth.mnc}"
    assert modem["generic"]["access-technologies"] == ["lte"]


def test_it_reports_the_signal(steps: Steps, modem: dict[str, Any], truth: RadioReading) -> None:
    lte = steps["signal"].facts["signal"]["lte"]
    assert float(lte["rsrp"]) == pytest.approx(truth.rsrp_dbm, abs=SIGNAL_WANDERS_DB)
    assert float(lte["rsrq"]) == pytest.approx(truth.rsrq_db, abs=SIGNAL_WANDERS_DB)
    quality = modem["generic"]["signal-quality"]
    assert quality["recent"] == "yes"
    assert 0 < int(quality["value"]) <= 100


def test_it_reads_the_cell(steps: Steps, truth: RadioReading) -> None:
    told = steps["location"].facts["location"]["location"]["3gpp"]
    assert (told["mcc"], told["mnc"]) == (truth.mcc, truth.mnc)
    assert int(told["cid"], 16) == truth.cell_id
    assert truth.tac in {int(told["tac"], 16), int(told["lac"], 16)}


def test_our_agent_reads_the_radio_through_it_while_it_holds_the_port(steps: Steps) -> None:
    assert "ModemManager" in steps["held"].facts["holders"]
    seen = steps["through the manager"].facts
    reading, truth = (msgspec.convert(seen[name], RadioReading) for name in ("reading", "truth"))
    assert seen["model"] == "EC25"
    assert reading.registration == truth.registration
    assert (reading.mcc, reading.mnc) == (truth.mcc, truth.mnc)
    assert reading.rsrp_dbm is not None
    assert truth.rsrp_dbm is not None
    assert abs(reading.rsrp_dbm - truth.rsrp_dbm) <= SIGNAL_WANDERS_DB


def test_the_ignore_rule_keeps_it_off_and_our_agent_reads_the_port_itself(steps: Steps) -> None:
    kept_off = steps["kept off"].facts
    assert "ID_MM_DEVICE_IGNORE=1" in kept_off["properties"]
    assert kept_off["holders"] == []
    seen = steps["by our own port"].facts
    reading, truth = (msgspec.convert(seen[name], RadioReading) for name in ("reading", "truth"))
    assert (reading.technology, reading.band, reading.cell_id) == (truth.technology, truth.band, truth.cell_id)
