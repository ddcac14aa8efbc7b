"""UDP capacity: the search for a rate, what the receiver counted, and what a flood must not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.measurements import capacity
from agent.measurements.base import MeasurementFailed
from agent.measurements.capacity import CapacityOptions, read
from agent.measurements.iperf_report import End, Interval, Report, Sum
from wire.reasons import Reason

if TYPE_CHECKING:
    from conftest import Site

GATEWAY = "10.2.0.1"
"""The server's own address on the link: a UDP server that listens on all of them answers from that one."""
PAYLOAD_SHARE = 1200 / 1242
"""Of a frame with Ethernet, IPv4 and UDP headers: 14 + 20 + 8 bytes."""
RECEIVED = Sum(bytes=14_475_600, seconds=3.0, lost_percent=34.567, jitter_ms=0.22753)


def report(**changes: object) -> Report:
    seconds = (39.4e6, 38.6e6, 38.6e6)
    intervals = [Interval(sum=Sum(bytes=int(bits / 8), seconds=1.0)) for bits in seconds]
    sliver = Interval(sum=Sum(bytes=1200, seconds=0.0002))
    return msgspec.structs.replace(
        Report(
            intervals=(*intervals, sliver), end=End(sum_received=RECEIVED, sum_sent=Sum(bytes=22_500_000, seconds=3.0))
        ),
        **changes,
    )


def test_the_receivers_counters_are_the_figures_and_the_best_whole_second_stands_beside_them() -> None:
    found = read(report(), CapacityOptions(), 60.0, tries=1)
    assert found.received_mbps == pytest.approx(38.6, abs=0.01), "the sender's own figure is 60"
    assert found.best_second_mbps == pytest.approx(39.4)
    assert (found.loss_percent, found.jitter_ms, found.full, found.asked_mbps) == (34.57, 0.228, True, 60.0)


def test_an_uploads_best_second_is_not_known() -> None:
    assert read(report(), CapacityOptions(direction="upload"), 60.0, tries=1).best_second_mbps is None


def test_a_link_that_brings_all_that_is_sent_can_do_more() -> None:
    assert not read(report(), CapacityOptions(), 39.0, tries=1).full


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quota_reached": True}, Reason.QUOTA_REACHED),
        ({"end": End(sum_received=Sum())}, Reason.TIMEOUT),
        ({"end": End()}, Reason.TIMEOUT),
    ],
    ids=["plan", "nothing arrived", "no totals"],
)
def test_what_is_no_figure_is_a_failure(changes: dict[str, Any], expected: Reason) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        read(report(**changes), CapacityOptions(), 60.0, tries=1)
    assert failure.value.reason is expected


def test_a_datagram_needs_no_fragments() -> None:
    """The wrapper's own default of 65507 bytes does."""
    assert capacity.PAYLOAD_BYTES + 8 + 40 <= 1280


def test_a_lease_is_as_long_as_a_run_can_take() -> None:
    assert CapacityOptions(rate_mbps=50).transfers == 1
    assert CapacityOptions().transfers == 2
    assert CapacityOptions(rate_mbps=50).longest_s < CapacityOptions().longest_s < 60


@pytest.mark.parametrize(
    "changes", [{"duration_s": 6}, {"rate_mbps": 0}, {"direction": "both"}, {"streams": 4}], ids=str
)
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(changes, CapacityOptions)


@pytest.mark.root
@pytest.mark.alone
@pytest.mark.parametrize(("direction", "shaper_mbps"), [("download", 40), ("upload", 15)])
def test_more_is_sent_than_the_link_carries_and_what_arrives_is_its_capacity(
    site: Site, direction: str, shaper_mbps: float
) -> None:
    site.serve(5201)
    answer = site.measure(
        measurement="capacity",
        host=GATEWAY,
        ports=[5201],
        options={"direction": direction, "rate_mbps": 2 * shaper_mbps},
    )
    found = answer["capacity"]
    assert found["full"]
    # A sender that shares its machine with the shaper pauses when the socket's buffer is full, and loses time by it.
    tolerance = 0.05 if direction == "download" else 0.15
    assert found["received_mbps"] == pytest.approx(shaper_mbps * PAYLOAD_SHARE, rel=tolerance)
    assert found["interface_bytes"] > found["payload_bytes"]


@pytest.mark.root
@pytest.mark.alone
def test_a_rate_is_searched_for_from_the_last_speed_on(site: Site) -> None:
    site.serve(5201, 5202)
    options = {"duration_s": 2}
    found = site.measure(measurement="capacity", host=GATEWAY, options=options, last_mbps=8)["capacity"]
    assert (found["tries"], found["asked_mbps"], found["full"]) == (2, 48.0, True)
    assert found["received_mbps"] > 20


@pytest.mark.root
def test_a_flood_ends_before_the_plan_is_passed(site: Site) -> None:
    site.serve(5201)
    before = site.carried_bytes() + site.carried_bytes(way="tx")
    answer = site.measure(
        measurement="capacity", host=GATEWAY, options={"duration_s": 5, "rate_mbps": 80}, left_bytes=8_000_000
    )
    assert answer["failed"]["reason"] == Reason.QUOTA_REACHED
    assert site.carried_bytes() + site.carried_bytes(way="tx") - before <= 8_000_000
