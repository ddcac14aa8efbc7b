"""Throughput over shaped links in network namespaces: right figures, right interface, and every way a link can fail."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent import validity
from agent.measurements import iperf_report, throughput
from agent.path import Counters
from agent.validity import Evidence
from wire.measured import Transfer
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.root, pytest.mark.alone]

DOWN_MBPS = 40 * 1448 / 1514
"""What the shaper lets through: 40 Mbit/s on layer 2, at 1448 bytes of TCP payload in a frame of 1514."""
UP_MBPS = 15 * 1448 / 1514
SERVER, OWN_ADDRESS = "10.9.0.1", "10.2.0.2"


def within_deadline(answer: dict[str, Any], options: dict[str, Any]) -> bool:
    return bool(answer["elapsed_s"] <= throughput.ThroughputOptions(**options).longest_s)


def no_child_is_left(site: Site) -> bool:
    return not [program for program in site.programs() if "iperf" in program]


# --- right figures over the right interface -------------------------------------------------------------------------


def test_both_directions_are_measured_over_the_link_although_the_default_route_is_elsewhere(site: Site) -> None:
    site.serve(5201, 5202)
    elsewhere_before = site.carried_bytes("eth0", "rx") + site.carried_bytes("eth0", "tx")

    answer = site.measure(options={"duration_s": 2})

    download, upload = answer["download"], answer["upload"]
    assert download["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.03)
    assert download["mbps"] == pytest.approx(DOWN_MBPS, rel=0.03)
    assert upload["steady_mbps"] == pytest.approx(UP_MBPS, rel=0.03)
    assert 1.03 < download["interface_bytes"] / download["payload_bytes"] < 1.2
    assert site.carried_bytes("eth0", "rx") + site.carried_bytes("eth0", "tx") - elsewhere_before < 20_000
    assert download["other_interfaces_bytes"] < 20_000
    assert answer["invalid"] == []
    assert answer["upload_failure"] is None
    assert answer["spent_bytes"] > download["interface_bytes"] + upload["interface_bytes"]
    assert within_deadline(answer, {"duration_s": 2})
    assert no_child_is_left(site)


def test_the_trap_is_real_an_address_alone_lets_the_upload_out_elsewhere_and_it_is_seen(site: Site) -> None:
    site.serve(5201)
    job = {
        "host": SERVER,
        "port": 5201,
        "reverse": False,
        "source": OWN_ADDRESS,
        "device": None,
        "duration_s": 1,
        "omit_s": 0,
        "streams": 1,
        "congestion": "cubic",
        "interval_s": 0.5,
        "connect_timeout_s": 3,
        "receive_timeout_s": 6,
        "deadline_s": 10,
    }
    eth0 = Counters(site.carried_bytes("eth0", "rx"), site.carried_bytes("eth0", "tx"))
    wwan0 = Counters(site.carried_bytes("wwan0", "rx"), site.carried_bytes("wwan0", "tx"))
    child = site.probe.popen(
        [sys.executable, "-m", "agent.measurements.iperf_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        stdout, _ = child.communicate(json.dumps(job).encode(), timeout=20)
    report = iperf_report.read(stdout)
    elsewhere = Counters(site.carried_bytes("eth0", "rx"), site.carried_bytes("eth0", "tx")) - eth0
    here = Counters(site.carried_bytes("wwan0", "rx"), site.carried_bytes("wwan0", "tx")) - wwan0

    received = report.end.sum_received
    assert received is not None
    assert elsewhere.sent_bytes > received.bytes, "this kernel keeps to the address: the trap is none any more"
    doubts = iperf_report.account(
        at_least_bytes=received.bytes,
        counted_bytes=report.counted_bytes,
        retransmits=0,
        drain_s=0.3,
        steady_mbps=received.bytes * 8 / received.seconds / 1e6,
        interface_bytes=here.sent_bytes,
        other_interfaces_bytes=elsewhere.both_bytes,
    )
    assert doubts == (Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED)


def test_traffic_of_others_on_another_interface_makes_the_result_no_sample(site: Site) -> None:
    site.serve(5201, 5999)
    other = site.probe.popen(
        ["iperf3", "-c", "10.1.0.1", "-p", "5999", "-t", "3", "-b", "50M"], stdout=subprocess.DEVNULL
    )
    answer = site.measure()
    assert Invalid.OTHER_INTERFACE_USED in answer["invalid"]
    assert answer["download"]["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.05)
    other.kill()
    other.wait()


@pytest.mark.parametrize("way", ["with the test", "against it"])
def test_traffic_of_others_on_the_link_makes_the_result_no_sample(site: Site, way: str) -> None:
    site.serve(5201, 5999)
    other = site.probe.popen(
        ["iperf3", "-c", SERVER, "-p", "5999", "-t", "12", "-P", "8", "-b", "6M", "--bind-dev", "wwan0"]
        + (["-R"] if way == "with the test" else []),
        stdout=subprocess.DEVNULL,
    )
    answer = site.measure(options={"duration_s": 3, "upload": False})
    other.kill()
    other.wait()
    download = msgspec.convert(answer["download"], Transfer)
    seen = {*answer["invalid"], *validity.doubts(Evidence(transfers=(download,)))}
    assert Invalid.OTHER_TRAFFIC in seen
    assert Invalid.BYTES_NOT_ACCOUNTED not in seen


def test_a_link_stacked_on_another_device_counts_its_bytes_once(site: Site) -> None:
    site.probe.ip("link add link wwan0 name mux0 type macvlan", "address add 10.7.0.2/24 dev mux0", "link set mux0 up")
    site.net.ip("address add 10.7.0.1/24 dev cell")
    site.serve(5201)
    answer = site.measure(interface="mux0", host="10.7.0.1")
    assert answer["invalid"] == []
    assert answer["download"]["other_interfaces_bytes"] < 20_000


def test_a_short_test_ends_half_a_second_after_its_start_and_is_a_sample(site: Site) -> None:
    site.serve(5201, 5202)
    answer = site.measure(options={"preset": "short", "idle_s": 0})
    for direction, expected_mbps in (("download", DOWN_MBPS), ("upload", UP_MBPS)):
        transfer = answer[direction]
        assert transfer["steady_mbps"] == pytest.approx(expected_mbps, rel=0.06)
        assert 0.5 * expected_mbps < transfer["mbps"] < 1.06 * expected_mbps
        assert 1.4 <= transfer["elapsed_s"] <= 1.9
    assert answer["invalid"] == []
    assert answer["upload_failure"] is None


def test_a_link_of_one_megabit_is_measured_and_accounted_for(site: Site) -> None:
    site.shape(site.net, "cell", 1)
    site.serve(5201)
    answer = site.measure(options={"duration_s": 3, "upload": False})
    assert answer["download"]["steady_mbps"] == pytest.approx(1448 / 1514, rel=0.05)
    assert answer["invalid"] == []


def test_sixteen_streams_and_a_long_series_do_not_block(site: Site) -> None:
    site.serve(5201)
    options = {"duration_s": 3, "streams": 16, "interval_s": 0.1, "upload": False}
    answer = site.measure(options=options)  # some 180 kB of JSON; a pipe holds 64
    assert answer["download"]["streams"] == 16
    assert len(answer["download"]["interval_mbps"]) == pytest.approx(40, abs=2)
    assert answer["download"]["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.05)


def test_a_byte_cap_ends_the_transfer_gracefully_and_marks_it(site: Site) -> None:
    site.serve(5201)
    answer = site.measure(options={"duration_s": 20, "max_bytes": 10_000_000, "upload": False})
    download = answer["download"]
    assert download["cut_short"] == Reason.QUOTA_REACHED
    assert Invalid.BYTE_CAP in answer["invalid"]
    assert Invalid.TOO_SHORT in answer["invalid"]
    assert 10_000_000 <= download["interface_bytes"] < 16_000_000
    assert download["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.1)


def test_a_running_transfer_ends_gracefully_before_the_plan_is_passed(site: Site) -> None:
    site.serve(5201)
    before = site.carried_bytes() + site.carried_bytes(way="tx")
    answer = site.measure(options={"duration_s": 20, "upload": True}, left_bytes=12_000_000)
    spent = site.carried_bytes() + site.carried_bytes(way="tx") - before
    assert 8_000_000 < spent <= 12_000_000, "what the queue still held is foreseen"
    assert answer["download"]["cut_short"] == Reason.QUOTA_REACHED
    assert Invalid.QUOTA_REACHED in answer["invalid"]
    assert answer["download"]["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.15)


def test_a_running_upload_ends_gracefully_before_the_plan_is_passed(site: Site) -> None:
    site.serve(5201, 5202, 5203)
    options = {"duration_s": 4, "omit_s": 0}
    alone = site.measure(options={**options, "upload": False}, ports=[5203])
    left_bytes = alone["spent_bytes"] + 5_000_000  # the whole upload takes 7.5 MB; with less than 3 it is not begun
    before = site.carried_bytes() + site.carried_bytes(way="tx")
    answer = site.measure(options={**options, "upload": True}, left_bytes=left_bytes)
    spent = site.carried_bytes() + site.carried_bytes(way="tx") - before
    assert "cut_short" not in answer["download"]
    assert answer["upload"]["cut_short"] == Reason.QUOTA_REACHED
    assert answer["upload"]["interface_bytes"] > 500_000
    assert spent <= left_bytes, "what the queue still held is foreseen"
    assert Invalid.QUOTA_REACHED in answer["invalid"]
    assert answer["upload_failure"] is None
    assert no_child_is_left(site)


def test_a_plan_that_does_not_last_for_the_start_is_not_passed_either(site: Site) -> None:
    """Libiperf, told to finish, would go on to the end of the omitted start: 20 MB here."""
    site.serve(5201)
    before = site.carried_bytes() + site.carried_bytes(way="tx")
    answer = site.measure(options={"duration_s": 4, "omit_s": 4, "upload": True}, left_bytes=5_000_000)
    spent = site.carried_bytes() + site.carried_bytes(way="tx") - before
    assert answer["failed"]["reason"] == Reason.QUOTA_REACHED
    assert "moved before anything was measured" in answer["failed"]["detail"]
    assert answer["pace_bytes_per_s"] * 8e-6 == pytest.approx(DOWN_MBPS, rel=0.2)
    assert 1_000_000 < spent <= 5_000_000
    assert no_child_is_left(site)


def test_no_transfer_is_begun_for_the_last_of_a_plan(site: Site) -> None:
    site.serve(5201)
    before = site.carried_bytes()
    answer = site.measure(options={"duration_s": 1, "omit_s": 0}, left_bytes=2_000_000)
    assert answer["failed"]["reason"] == Reason.QUOTA_REACHED
    assert "pace_bytes_per_s" not in answer
    assert site.carried_bytes() - before < 1000


def test_an_upload_that_the_plan_has_no_room_for_is_not_begun(site: Site) -> None:
    site.serve(5201)
    answer = site.measure(options={"duration_s": 1, "omit_s": 0, "upload": True}, left_bytes=5_500_000)
    assert answer["spent_bytes"] <= 5_500_000
    assert answer["upload"] is None
    assert answer["upload_failure"] == Reason.QUOTA_REACHED


# --- links that fail ------------------------------------------------------------------------------------------------


def test_a_device_that_goes_down_in_the_download_is_a_lost_link(site: Site) -> None:
    site.serve(5201)
    options = {"duration_s": 3, "connect_timeout_s": 1, "upload": False}
    task = site.start(options=options)
    site.wait_for_bytes(3_000_000)
    site.probe.ip("link set wwan0 down")
    answer = task.answer()
    assert answer["failed"]["reason"] == Reason.LINK_LOST
    assert answer["failed"]["begun"]
    assert "wwan0 is down" in answer["failed"]["detail"]
    assert "MB and" in answer["failed"]["detail"], "what was measured until then belongs in the detail"
    assert within_deadline(answer, options)
    assert no_child_is_left(site)


def test_a_network_that_falls_silent_in_the_download_is_a_lost_link(site: Site) -> None:
    site.serve(5201)
    options = {"duration_s": 1, "connect_timeout_s": 0.5, "upload": False}
    task = site.start(options=options, impatient=True)
    site.wait_for_bytes(3_000_000)
    site.net.ip(f"route add blackhole {OWN_ADDRESS}/32")
    answer = task.answer()
    assert answer["failed"]["reason"] == Reason.LINK_LOST
    assert "does not answer any more" in answer["failed"]["detail"]
    assert within_deadline(answer, options)


def test_a_network_that_falls_silent_in_the_upload_ends_it_at_the_deadline(site: Site) -> None:
    """The sender's kernel would go on trying for a quarter of an hour."""
    site.serve(5201, 5202)
    options = {"duration_s": 1, "omit_s": 0, "connect_timeout_s": 0.5}
    task = site.start(options=options, impatient=True)
    site.wait_for_bytes(1_000_000, way="tx")
    site.net.ip(f"route add blackhole {OWN_ADDRESS}/32")
    answer = task.answer()
    assert answer["upload_failure"] == Reason.LINK_LOST
    assert answer["download"]["steady_mbps"] > 0
    assert within_deadline(answer, options)
    assert no_child_is_left(site)


def test_a_link_lost_in_the_upload_leaves_the_download_standing(site: Site) -> None:
    site.serve(5201, 5202)
    options = {"duration_s": 1, "connect_timeout_s": 0.5}
    task = site.start(options=options, impatient=True)
    site.wait_for_bytes(2_000_000, way="tx")
    site.probe.ip("link set wwan0 down")
    answer = task.answer()
    assert answer["download"]["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.05)
    assert answer["upload"] is None
    assert answer["upload_failure"] == Reason.LINK_LOST
    assert within_deadline(answer, options)
    assert no_child_is_left(site)


def test_an_outage_in_the_middle_is_no_error_but_no_sample(site: Site) -> None:
    site.serve(5201)
    task = site.start(options={"duration_s": 3, "upload": False})
    site.wait_for_bytes(6_000_000)
    site.net.ip("link set cell down")
    time.sleep(1.5)  # the outage itself
    site.net.ip("link set cell up")
    answer = task.answer()
    assert "failed" not in answer
    assert Invalid.GAP_IN_TRANSFER in answer["invalid"]


def test_a_frozen_server_is_a_timeout_because_its_host_still_answers(site: Site) -> None:
    (server,) = site.serve(5201)
    options = {"duration_s": 2, "upload": False}
    task = site.start(options=options, impatient=True)
    site.wait_for_bytes(3_000_000)
    server.send_signal(signal.SIGSTOP)
    answer = task.answer()
    assert answer["failed"]["reason"] == Reason.TIMEOUT
    assert "the host answers, its server does not" in answer["failed"]["detail"]
    assert within_deadline(answer, options)
    assert no_child_is_left(site)


def test_a_server_killed_in_the_middle_is_an_interruption(site: Site) -> None:
    (server,) = site.serve(5201)
    task = site.start(options={"duration_s": 10, "upload": False})
    site.wait_for_bytes(3_000_000)
    server.kill()
    answer = task.answer()
    assert answer["failed"]["reason"] == Reason.INTERRUPTED
    assert answer["elapsed_s"] < 8


def test_a_black_hole_is_a_timeout_after_the_connect_timeout(site: Site) -> None:
    site.net.ip(f"route add blackhole {OWN_ADDRESS}/32")
    answer = site.measure(options={"connect_timeout_s": 1})
    assert (answer["failed"]["reason"], answer["failed"]["begun"]) == (Reason.TIMEOUT, False)
    assert answer["elapsed_s"] < 5


def test_a_host_that_is_not_there_is_unreachable(site: Site) -> None:
    answer = site.measure(host="10.2.0.99")
    assert answer["failed"]["reason"] == Reason.UNREACHABLE


def test_a_link_without_any_route_fails_and_does_not_leak(site: Site) -> None:
    site.probe.ip("route delete default via 10.2.0.1 dev wwan0 metric 700")
    before = site.carried_bytes("eth0", "tx")
    answer = site.measure(host="10.9.0.2", options={"connect_timeout_s": 1})  # behind both ways, if there were any
    assert answer["failed"]["reason"] in {Reason.TIMEOUT, Reason.UNREACHABLE}
    assert site.carried_bytes("eth0", "tx") - before < 5_000


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("link set wwan0 down", Reason.LINK_DOWN),
        ("address flush dev wwan0", Reason.NO_ADDRESS),
        ("link delete wwan0", Reason.LINK_DOWN),
    ],
)
def test_a_link_that_cannot_carry_anything_is_not_tried(site: Site, command: str, expected: Reason) -> None:
    site.probe.ip(command)
    answer = site.measure()
    assert answer["failed"]["reason"] == expected
    assert answer["elapsed_s"] < 2


def test_the_next_run_works_after_a_link_was_lost(site: Site) -> None:
    site.serve(5201, 5202)
    options = {"duration_s": 1, "connect_timeout_s": 0.5, "upload": False}
    task = site.start(options=options, impatient=True)
    site.wait_for_bytes(2_000_000)
    site.probe.ip("link set wwan0 down")
    assert task.answer()["failed"]["reason"] == Reason.LINK_LOST
    site.probe.ip("link set wwan0 up", "route add default via 10.2.0.1 dev wwan0 metric 700")
    answer = site.measure(ports=[5202])
    assert answer["download"]["steady_mbps"] == pytest.approx(DOWN_MBPS, rel=0.05)
    assert answer["invalid"] == []


def test_a_probe_killed_with_9_leaves_no_transfer_running(site: Site) -> None:
    site.serve(5201)
    task = site.start(options={"duration_s": 20, "upload": False})
    site.wait_for_bytes(1_000_000)
    assert not no_child_is_left(site)
    task.process.kill()
    with task.process:
        task.process.wait()
    deadline_s = time.monotonic() + 10
    while not no_child_is_left(site):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
