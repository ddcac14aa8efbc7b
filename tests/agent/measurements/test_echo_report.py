"""What irtt and ping print, as recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.measurements import echo_report
from agent.measurements.base import MeasurementFailed
from wire.measured import Echo
from wire.reasons import Reason

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "echo"


def irtt(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((TRANSCRIPTS / f"{name}.json").read_bytes())
    return found


def test_irtt_without_loss() -> None:
    udp = echo_report.read_irtt((TRANSCRIPTS / "irtt-no-loss.json").read_bytes())
    stats = irtt("irtt-no-loss")["stats"]
    assert (udp.echo.tool, udp.echo.sent, udp.echo.received, udp.echo.loss_percent) == ("irtt", 10, 10, 0)
    assert (udp.loss_up_percent, udp.loss_down_percent) == (0, 0)
    assert udp.echo.rtt_mean_ms == round(stats["rtt"]["mean"] / 1e6, 3)
    assert udp.echo.jitter_ms == round(stats["ipdv_round_trip"]["mean"] / 1e6, 3)
    assert udp.echo.rtt_min_ms is not None
    assert udp.echo.rtt_median_ms is not None
    assert udp.echo.rtt_max_ms is not None
    assert 0 < udp.echo.rtt_min_ms <= udp.echo.rtt_median_ms <= udp.echo.rtt_max_ms < 5


def test_irtt_packets_that_come_late_are_no_loss() -> None:
    udp = echo_report.read_irtt((TRANSCRIPTS / "irtt-late.json").read_bytes())
    assert udp.echo.loss_percent == 0
    assert udp.echo.rtt_max_ms is not None
    assert 200 < udp.echo.rtt_max_ms < 320


def test_irtt_tells_the_loss_of_each_direction_apart() -> None:
    udp = echo_report.read_irtt((TRANSCRIPTS / "irtt-loss.json").read_bytes())
    assert udp.echo.loss_percent == 50
    assert (udp.loss_up_percent, udp.loss_down_percent) == (50, 0)


def test_irtt_with_everything_lost_has_no_times_and_blames_no_direction() -> None:
    document = irtt("irtt-loss")
    document["stats"] |= {"packets_received": 0, "server_packets_received": 0, "rtt": {"n": 0}, "ipdv_round_trip": {}}
    udp = echo_report.read_irtt(json.dumps(document).encode())
    assert udp.echo == Echo(tool="irtt", sent=10, received=0, loss_percent=100)
    assert (udp.loss_up_percent, udp.loss_down_percent) == (None, None)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"{}",
        b'{"stats":{}}',
        b'{"stats":{"packets_sent":"ten"}}',
        b"\xff",
        b'{"stats":{"packets_sent":0,"packets_received":0}}',
    ],
)
def test_an_answer_that_is_not_irtts_is_a_failure_of_the_tool(output: bytes) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        echo_report.read_irtt(output)
    assert failure.value.reason is Reason.TOOL_FAILED


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        ("Error: read udp4 10.77.0.2:43889->10.77.0.1:45903: read: connection refused", Reason.REFUSED),
        ("[OpenTimeout] no reply from server", Reason.TIMEOUT),
        ("Error: write udp4 10.77.0.2:1->10.9.0.1:2: write: network is unreachable", Reason.UNREACHABLE),
        ("Error: bind: cannot assign requested address", Reason.NO_ADDRESS),
        ("Error: something new", Reason.TOOL_FAILED),
        ("", Reason.TOOL_FAILED),
    ],
)
def test_irtts_last_words_have_their_reason(complaint: str, expected: Reason) -> None:
    assert echo_report.irtt_failure(complaint).reason is expected


def ping(name: str) -> Echo | None:
    return echo_report.read_ping((TRANSCRIPTS / f"{name}.txt").read_text())


def test_ping_without_loss() -> None:
    assert ping("ping-no-loss") == Echo(
        tool="ping",
        sent=5,
        received=5,
        loss_percent=0,
        rtt_min_ms=0.032,
        rtt_mean_ms=6.127,
        rtt_median_ms=0.035,
        rtt_max_ms=30.5,
        jitter_ms=7.618,
        jitter_rfc3550_ms=1.569,
        jitter_variance_ms2=148.508,
    )


def test_ping_with_loss() -> None:
    echo = ping("ping-loss")
    assert echo is not None
    assert (echo.sent, echo.received, echo.loss_percent) == (5, 3, 40)
    assert echo.jitter_ms == pytest.approx(0.024)


def test_a_loss_in_the_middle_is_no_jitter() -> None:
    lines = [line for line in (TRANSCRIPTS / "ping-no-loss.txt").read_text().splitlines() if "icmp_seq=2" not in line]
    echo = echo_report.read_ping("\n".join(lines))
    assert echo is not None
    assert echo.jitter_ms == pytest.approx(0.002, abs=0.001), "packets 1 and 3 are no neighbours"


def test_ping_with_everything_lost_has_no_times() -> None:
    assert ping("ping-all-lost") == Echo(tool="ping", sent=5, received=0, loss_percent=100)


def test_what_is_no_ping_is_nothing() -> None:
    assert ping("ping-usage") is None
    assert echo_report.read_ping("") is None
