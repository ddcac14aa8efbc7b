"""A USB modem on real kernel drivers: found, dialled, measured, pulled out, plugged in again; in a booted Debian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.modem.discovery import FoundModem
from agent.path import LinkPath
from lab.vm.guest.network import SUBSCRIBER
from lab.vm.image import Unavailable
from lab.vm.journeys import steps_of
from wire.events import Recovery
from wire.measured import Failed, Throughput
from wire.radio import RadioReading
from wire.reasons import Condition, Invalid, Reason
from wire.results import Result

if TYPE_CHECKING:
    from lab.vm.diary import Step

pytestmark = [pytest.mark.vm, pytest.mark.journey, pytest.mark.root, pytest.mark.alone]

Steps = dict[str, "Step"]

AS_A_MODEM_IN_ROUND_NUMBERS_WITHIN = 6.0  # dB: its signal wanders between two looks


@pytest.fixture(scope="module")
def steps() -> Steps:
    try:
        return steps_of("serial_link")
    except Unavailable as lack:
        pytest.skip(f"NOT SHOWN: no virtual machine here: {lack}")


def result_of(step: Step) -> Result:
    return msgspec.convert(step.facts["result"], Result)


def test_the_kernel_takes_it_for_an_ec25_and_udev_names_its_four_ports(steps: Steps) -> None:
    facts = steps["plugged in"].facts
    assert [*facts["by_id"]] == [f"usb-Quectel_EC25-if0{number}-port0" for number in range(4)]
    assert set(facts["drivers"].values()) == {"option1"}


def test_modem_list_names_each_port_by_its_interface(steps: Steps) -> None:
    facts = steps["listed"].facts
    assert facts["status"] == 0, facts["complaint"]
    (modem,) = msgspec.convert(facts["modems"], list[FoundModem])
    assert (modem.vendor_id, modem.product_id, modem.family) == ("2c7c", "0125", "quectel")
    assert [(port.interface, port.role) for port in modem.ports] == [(0, "diag"), (1, "nmea"), (2, "at1"), (3, "at2")]


def test_the_agent_dials_and_proves_address_route_and_resolver(steps: Steps) -> None:
    path = msgspec.convert(steps["brought up"].facts["path"], LinkPath)
    assert (path.interface, path.up, path.source_address) == ("ppp0", True, SUBSCRIBER)
    log = steps["stopped"].facts["log"]
    for told in ("sim ok", "apn done", "network ok", "data done", "address ok", "route ok", "dns ok"):
        assert f"viettel: {told}" in log


def test_a_throughput_test_goes_over_the_serial_link(steps: Steps) -> None:
    result = result_of(steps["measured"])
    assert result.used is not None
    assert (result.used.interface, result.used.source_address) == ("ppp0", SUBSCRIBER)
    outcome = result.outcome
    assert isinstance(outcome, Throughput)
    for transfer in (outcome.download, outcome.upload):
        assert transfer is not None
        assert transfer.steady_mbps > 0
        assert transfer.interface_bytes is not None
        assert transfer.interface_bytes >= transfer.payload_bytes  # PPP's own counters bear iperf3 out
    wrong = {Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_TRAFFIC, Invalid.OTHER_INTERFACE_USED}
    assert not {Invalid.RADIO_UNKNOWN, *wrong} & {*outcome.invalid}


def test_while_one_port_carries_data_the_other_tells_of_the_radio(steps: Steps) -> None:
    outcome = result_of(steps["measured"]).outcome
    truth = msgspec.convert(steps["measured"].facts["truth"], RadioReading)
    assert isinstance(outcome, Throughput)
    for reading in (outcome.radio_before, outcome.radio_after):
        assert reading is not None
        for name in ("registration", "technology", "operator", "mcc", "mnc", "tac", "cell_id", "pci", "earfcn", "band"):
            assert getattr(reading, name) == getattr(truth, name), name
        assert reading.rsrp_dbm == pytest.approx(truth.rsrp_dbm, abs=AS_A_MODEM_IN_ROUND_NUMBERS_WITHIN)


def test_the_cable_pulled_mid_test_is_a_failure_with_its_reason(steps: Steps) -> None:
    assert "pulled out" in steps  # interface and ports are gone
    cut = result_of(steps["reported the cut"]).outcome
    assert isinstance(cut, Failed)
    assert cut.reason is Reason.LINK_LOST
    assert "ppp0 is gone" in cut.detail


def test_without_the_modem_the_next_run_says_that_the_link_is_down(steps: Steps) -> None:
    outcome = result_of(steps["reported no link"]).outcome
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.LINK_DOWN
    assert "is the modem plugged in?" in outcome.detail


def test_the_ladder_raises_the_alarm_for_a_modem_that_is_not_there(steps: Steps) -> None:
    outcome = result_of(steps["raised the alarm"]).outcome
    assert isinstance(outcome, Recovery)
    assert (outcome.rung, outcome.before.condition) == (0, Condition.ABSENT)


def test_plugged_in_again_the_agent_dials_and_measures_again_by_itself(steps: Steps) -> None:
    assert steps["plugged in again"].facts == steps["plugged in"].facts
    again, before = result_of(steps["measured again"]), result_of(steps["measured"])
    assert isinstance(again.outcome, Throughput)
    assert again.spool_id == before.spool_id
    assert again.outcome.radio_before is not None


def test_told_to_stop_the_agent_ends_well_and_hangs_up(steps: Steps) -> None:
    facts = steps["stopped"].facts
    assert facts["status"] == 0, facts["log"][-3000:]
    assert not facts["exists"]


def test_every_result_waits_in_the_spool_while_the_broker_is_away(steps: Steps) -> None:
    seqs = steps["spooled"].facts["seqs"]
    assert seqs == [*range(1, len(seqs) + 1)]
    told = ["measured", "reported the cut", "reported no link", "raised the alarm", "measured again"]
    assert {result_of(steps[name]).seq for name in told} <= {*seqs}
