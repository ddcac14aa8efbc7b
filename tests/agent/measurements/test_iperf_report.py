"""iperf3's JSON, as recorded: figures, reasons, doubts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.measurements import iperf_report
from agent.measurements.base import MeasurementFailed
from agent.measurements.iperf_report import Interval, Report, Sum, account, doubts, longest_gap_s, reason, transfer
from agent.measurements.throughput_options import ThroughputOptions
from wire.measured import Transfer
from wire.reasons import Invalid, Reason

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "iperf3"
OPTIONS = ThroughputOptions(duration_s=2)


def recorded(name: str) -> Report:
    return iperf_report.read((TRANSCRIPTS / f"{name}.json").read_bytes())


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "streams"), [("download-4-streams", 4), ("download-1-stream", 1)])
def test_a_download_is_counted_here_from_its_first_byte(name: str, streams: int) -> None:
    result = transfer(recorded(name), reverse=True, options=ThroughputOptions(duration_s=2, streams=streams))

    assert result.steady_mbps == pytest.approx(38.256, abs=0.001)
    assert result.mbps == pytest.approx(38.339, abs=0.002)
    assert result.payload_bytes == 14_377_192
    assert result.elapsed_s == pytest.approx(3.0, abs=0.001)
    assert result.mbps == pytest.approx(result.payload_bytes * 8 / result.elapsed_s / 1e6, rel=0.001)
    assert len(result.interval_mbps) == 6, "0.5 s each, the omitted start included, no sliver at the end"
    assert (result.congestion, result.retransmits, result.streams, result.omit_s) == ("cubic", 0, streams, 1)
    assert result.cut_short is None


def test_an_upload_is_what_the_server_received() -> None:
    report = recorded("upload-4-streams")
    result = transfer(report, reverse=False, options=OPTIONS)

    assert result.steady_mbps == pytest.approx(14.346, abs=0.001)
    assert result.payload_bytes == 3_601_176
    assert result.mbps is None, "only the sender saw the start"
    assert report.end.sum_sent is not None
    assert report.end.sum_sent.bytes == 3_557_736, "the sender's own figure is another one"
    assert result.retransmits == 0


def test_an_upload_with_nothing_omitted_has_a_mean_over_all_of_it() -> None:
    result = transfer(
        recorded("upload-nothing-omitted"), reverse=False, options=ThroughputOptions(duration_s=2, omit_s=0)
    )
    assert result.mbps == result.steady_mbps == pytest.approx(14.47, abs=0.001)


def test_with_nothing_omitted_both_means_of_a_download_agree() -> None:
    result = transfer(
        recorded("download-nothing-omitted"), reverse=True, options=ThroughputOptions(duration_s=2, omit_s=0)
    )
    assert result.mbps == pytest.approx(result.steady_mbps, rel=0.001)


def test_a_start_that_iperf3_lost_leaves_the_mean_over_all_of_it_unknown() -> None:
    whole = recorded("download-4-streams")
    lossy = msgspec.structs.replace(whole, intervals=(whole.intervals[0], *whole.intervals[2:]))

    result = transfer(lossy, reverse=True, options=OPTIONS)

    assert result.mbps is None
    assert result.steady_mbps == transfer(whole, reverse=True, options=OPTIONS).steady_mbps
    carried = msgspec.structs.replace(result, interface_bytes=int(whole.counted_bytes * 1.04), other_interfaces_bytes=0)
    assert doubts(lossy, carried, test_s=3.3) == (), "the bytes of the lost interval were on the interface all the same"


def test_a_transfer_that_reached_its_byte_cap_is_kept_and_marked() -> None:
    report = recorded("download-byte-cap")
    result = transfer(report, reverse=True, options=OPTIONS)
    assert result.cut_short is Reason.QUOTA_REACHED
    assert result.steady_mbps == pytest.approx(38.258, abs=0.001)
    carried = msgspec.structs.replace(result, interface_bytes=int(report.counted_bytes * 1.04))
    assert doubts(report, carried, test_s=2.3) == (Invalid.BYTE_CAP,)
    by_plan = msgspec.structs.replace(report, byte_cap_reached=False, quota_reached=True)
    assert doubts(by_plan, carried, test_s=2.3) == (Invalid.QUOTA_REACHED,)


@pytest.mark.parametrize(("asked_s", "expected"), [(1, ()), (2, (Invalid.TOO_SHORT,)), (9, (Invalid.TOO_SHORT,))])
def test_what_is_left_after_slow_start_must_be_long_enough(asked_s: float, expected: tuple[Invalid, ...]) -> None:
    """Three seconds, or what was asked for where that is less."""
    report = recorded("download-byte-cap")
    assert report.end.sum_received is not None
    assert 1 < report.end.sum_received.seconds < 2
    carried = msgspec.structs.replace(
        transfer(report, reverse=True, options=OPTIONS), interface_bytes=int(report.counted_bytes * 1.04)
    )
    assert doubts(report, carried, test_s=2.3, asked_s=asked_s) == (Invalid.BYTE_CAP, *expected)


def test_a_byte_cap_reached_in_the_start_is_a_failure_for_want_of_quota() -> None:
    with pytest.raises(MeasurementFailed) as failure:
        transfer(recorded("byte-cap-in-the-start"), reverse=True, options=OPTIONS)
    assert failure.value.reason is Reason.QUOTA_REACHED


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected", "begun"),
    [
        ("busy", Reason.BUSY, False),
        ("refused", Reason.REFUSED, False),
        ("black-hole", Reason.TIMEOUT, False),
        ("no-route", Reason.TIMEOUT, False),
        ("no-such-device", Reason.LINK_DOWN, False),
        ("wrong-source", Reason.NO_ADDRESS, False),
        ("no-congestion-control", Reason.TOOL_FAILED, False),
        ("download-link-cut", Reason.TIMEOUT, True),
        ("upload-link-cut", Reason.TIMEOUT, True),
        ("server-killed", Reason.INTERRUPTED, True),
        ("server-terminated", Reason.INTERRUPTED, True),
        ("server-frozen", Reason.TIMEOUT, True),
    ],
)
def test_every_recorded_failure_has_its_reason(name: str, expected: Reason, begun: bool) -> None:  # noqa: FBT001  # a table
    report = recorded(name)
    assert report.error is not None
    assert (reason(report), report.begun) == (expected, begun)


def test_data_that_was_seen_has_flowed_though_no_interval_was_told() -> None:
    """A child that libiperf holds up at its deadline can say no more than that."""
    told = {"error": "deadline", "deadline_reached": True}
    assert not iperf_report.read(msgspec.json.encode(told)).begun
    assert iperf_report.read(msgspec.json.encode({**told, "looks": [(0.2, 0, 0), (0.3, 40_000, 50_000)]})).begun


def test_an_error_never_seen_before_is_a_failure_of_the_tool() -> None:
    assert reason(Report(error="flux capacitor empty")) is Reason.TOOL_FAILED


def test_a_library_that_is_not_there_is_a_missing_tool() -> None:
    assert reason(Report(error="libiperf: Couldn't find shared library", unusable=True)) is Reason.TOOL_MISSING


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"intervals":7}', b"\xff", b'{"end":{"sum_received":[]}}'])
def test_an_answer_that_is_no_report_is_a_failure_of_the_tool(payload: bytes) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        iperf_report.read(payload)
    assert failure.value.reason is Reason.TOOL_FAILED


@pytest.mark.parametrize("payload", [b"{}", b'{"end":{"sum_received":{"bytes":0,"seconds":0}}}'])
def test_a_report_without_figures_and_without_error_is_no_zero(payload: bytes) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        transfer(iperf_report.read(payload), reverse=True, options=OPTIONS)
    assert failure.value.reason is Reason.TOOL_FAILED


# --- doubts: gaps ---------------------------------------------------------------------------------------------------


def series(*shares: float) -> Report:
    """Half-second intervals, each with a share of 1 MB."""
    return Report(intervals=tuple(Interval(sum=Sum(bytes=int(share * 1e6), seconds=0.5)) for share in shares))


def test_a_steady_transfer_has_no_gap() -> None:
    assert longest_gap_s(recorded("download-4-streams")) == 0
    assert longest_gap_s(Report()) == 0


def test_an_outage_that_is_no_error_is_found() -> None:
    report = recorded("download-outage")
    assert report.error is None
    assert longest_gap_s(report) == pytest.approx(2.8, abs=0.1)
    result = transfer(report, reverse=True, options=ThroughputOptions(duration_s=4))
    carried = msgspec.structs.replace(result, interface_bytes=int(report.counted_bytes * 1.04))
    assert doubts(report, carried, test_s=5.3) == (Invalid.GAP_IN_TRANSFER,)


@given(start_s=st.floats(0.5, 3.0), gap_s=st.floats(0.2, 2.5))
def test_a_gap_is_found_wherever_it_begins(start_s: float, gap_s: float) -> None:
    shares = []
    for index in range(12):
        begin_s, end_s = index / 2, index / 2 + 0.5
        lost_s = max(0.0, min(end_s, start_s + gap_s) - max(begin_s, start_s))
        share = 1 - lost_s / 0.5
        shares.append(share if share > 1e-3 else 0.0)
    found_s = longest_gap_s(series(*shares))
    if gap_s >= 1.01:
        assert found_s >= 1.0
        assert found_s == pytest.approx(gap_s, abs=0.01)
    if gap_s <= 0.99:
        assert found_s < 1.0


def test_slow_is_no_gap() -> None:
    assert longest_gap_s(series(1, 1, 0.01, 0.01, 0.01, 0.01, 1, 1)) == 0


@pytest.mark.parametrize(
    ("back_bytes", "expected"), [(None, ()), (400_000, ()), (5_000, ()), (2_500, (Invalid.BYTES_NOT_ACCOUNTED,))]
)
def test_acknowledgements_that_took_another_way_are_missed(
    back_bytes: int | None, expected: tuple[Invalid, ...]
) -> None:
    report = recorded("download-4-streams")
    result = transfer(report, reverse=True, options=ThroughputOptions(duration_s=3))
    assert 14_000_000 < result.payload_bytes < 20_000_000
    carried = msgspec.structs.replace(
        result, interface_bytes=int(report.counted_bytes * 1.04), interface_back_bytes=back_bytes
    )
    assert doubts(report, carried, test_s=3.3) == expected


def test_the_headers_of_ipv6_are_longer() -> None:
    full = Report(intervals=tuple(Interval(sum=Sum(bytes=5_000_000, seconds=1.0)) for _ in range(60)))
    result = Transfer(steady_mbps=40.0, payload_bytes=300_000_000, elapsed_s=60.0, interface_bytes=324_000_000)
    assert doubts(full, result, test_s=60.3) == (Invalid.OTHER_TRAFFIC,)
    assert doubts(full, msgspec.structs.replace(result, family="ipv6"), test_s=60.3) == ()


# --- doubts: bytes --------------------------------------------------------------------------------------------------

FINE = {
    "at_least_bytes": 30_000_000,
    "counted_bytes": 30_000_000,
    "retransmits": 0,
    "drain_s": 0.3,
    "steady_mbps": 40.0,
    "interface_bytes": 31_100_000,
    "other_interfaces_bytes": 0,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"interface_bytes": 30_000_000}, ()),  # segmentation offloaded: no headers counted
        ({"interface_bytes": 29_999_999}, (Invalid.BYTES_NOT_ACCOUNTED,)),
        ({"interface_bytes": 0}, (Invalid.BYTES_NOT_ACCOUNTED,)),
        # Measured: a timed download leaves 1.13-1.15 times its bytes on the interface, 4 s of it at 40 Mbit/s.
        ({"at_least_bytes": 20_000_000, "counted_bytes": 20_000_000, "interface_bytes": 23_000_000}, ()),
        ({"interface_bytes": 34_900_000}, ()),
        ({"interface_bytes": 35_100_000}, (Invalid.OTHER_TRAFFIC,)),
        ({"interface_bytes": 40_000_000, "drain_s": 2.0}, ()),  # a queue of 2 s
        ({"interface_bytes": 36_000_000, "retransmits": 1000}, ()),
        ({"other_interfaces_bytes": 1_000_000}, ()),
        ({"other_interfaces_bytes": 1_100_000}, (Invalid.OTHER_INTERFACE_USED,)),
        (
            {"interface_bytes": 900_000, "other_interfaces_bytes": 31_000_000},
            (Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED),
        ),
    ],
    ids=str,
)
def test_the_interfaces_must_bear_the_figures_out(changes: dict[str, float], expected: tuple[Invalid, ...]) -> None:
    assert account(**(FINE | changes)) == expected  # type: ignore[arg-type]  # a table of keywords


@given(payload=st.integers(1, 10**10), elsewhere=st.floats(0.04, 1.0))
def test_a_transfer_that_went_elsewhere_is_never_borne_out(payload: int, elsewhere: float) -> None:
    """Whatever share of it left by another interface: either is missing here or too much is there."""
    other = int(payload * 1.036 * elsewhere) + 250_000
    here = int(payload * 1.036 * (1 - elsewhere))
    found = account(
        at_least_bytes=payload,
        counted_bytes=payload,
        retransmits=0,
        drain_s=0.3,
        steady_mbps=payload * 8 / 5e6,
        interface_bytes=here,
        other_interfaces_bytes=other,
    )
    assert found


# --- what this end's TCP saw ----------------------------------------------------------------------------------------


def watched(report: Report, mbps: float, *, begun_s: float = 0.16, length_s: float = 3.4) -> Report:
    """Add looks, ten a second, of a transfer in which so much arrives; the round trip grows by 1 ms with each look."""
    looks = [(begun_s, 0, 0)]
    looks += [
        (begun_s + n / 10, int(mbps * 1e6 / 8 * n / 10), 50_000 + n * 1000) for n in range(1, int(length_s * 10) + 1)
    ]
    return msgspec.structs.replace(report, looks=tuple(looks))


def test_the_mean_over_all_of_an_upload_is_what_was_acknowledged_in_its_time() -> None:
    """Omitted start 1 s, measured 2 s; what is acknowledged later was still in the queue then."""
    report = watched(recorded("upload-4-streams"), 14.0)
    result = transfer(report, reverse=False, options=OPTIONS)
    assert result.mbps == pytest.approx(14.0, abs=0.001)
    assert result.elapsed_s == pytest.approx(3.0)
    assert result.payload_bytes == pytest.approx(14e6 / 8 * 3, abs=10)
    assert result.steady_mbps == pytest.approx(14.346, abs=0.001), "which stays the receiver's"


def test_an_upload_that_ended_early_has_the_mean_over_its_own_time() -> None:
    report = watched(recorded("upload-4-streams"), 14.0, length_s=1.5)
    result = transfer(report, reverse=False, options=OPTIONS)
    assert (result.mbps, result.elapsed_s) == (pytest.approx(14.0, abs=0.001), pytest.approx(1.5))


def test_tcps_own_round_trip_is_told_in_both_directions() -> None:
    for name, reverse in (("download-4-streams", True), ("upload-4-streams", False)):
        result = transfer(watched(recorded(name), 14.0), reverse=reverse, options=OPTIONS)
        assert (result.tcp_rtt_min_ms, result.tcp_rtt_mean_ms, result.tcp_rtt_max_ms) == (51.0, 67.5, 84.0)


def test_without_looks_there_is_no_round_trip_and_no_zero() -> None:
    result = transfer(recorded("download-4-streams"), reverse=True, options=OPTIONS)
    assert (result.tcp_rtt_min_ms, result.tcp_rtt_mean_ms, result.tcp_rtt_max_ms) == (None, None, None)


def test_our_own_echoes_are_no_foreign_traffic() -> None:
    report = recorded("download-4-streams")
    carried = msgspec.structs.replace(
        transfer(report, reverse=True, options=OPTIONS), interface_bytes=int(report.counted_bytes * 1.04) + 4_500_000
    )
    assert doubts(report, carried, test_s=3.3) == (Invalid.OTHER_TRAFFIC,)
    assert doubts(report, carried, test_s=3.3, beside_bytes=4_500_000) == ()
