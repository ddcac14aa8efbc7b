"""Presets, the omitted start, byte caps, and how long a run can take at worst."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lease import ON_THE_WAY_S
from agent.measurements.round_trips import ENDS_WITHIN_S, Echoes, idle_within_s
from agent.measurements.throughput_options import CAP_TIMES, ThroughputOptions
from agent.path import LinkPath
from wire.leases import ARRIVE_WITHIN_S
from wire.measured import RoundTrips


def options(**said: object) -> ThroughputOptions:
    return msgspec.convert(said, ThroughputOptions)


def rtt(median_ms: float) -> RoundTrips:
    return RoundTrips(tool="irtt", count=50, median_ms=median_ms, p95_ms=median_ms)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (5, 0.0, False, False)),
        ({"preset": "light"}, (5, 5.0, True, True)),
        ({"preset": "reference"}, (9, 5.0, True, True)),
        ({"preset": "reference", "duration_s": 7, "idle_s": 0, "loaded_latency": False}, (7, 0.0, False, True)),
        ({"preset": "light", "omit_by_rtt": False}, (5, 5.0, True, False)),
        ({"duration_s": 3, "loaded_latency": True}, (3, 0.0, True, False)),
    ],
    ids=str,
)
def test_what_is_said_goes_before_the_preset(said: dict[str, Any], expected: tuple[object, ...]) -> None:
    found = options(**said)
    assert (found.duration_s, found.idle_s, found.loaded_latency, found.omit_by_rtt) == expected
    assert (found.omit_s, found.streams, found.congestion) == (1, 4, "cubic")
    assert msgspec.structs.replace(found, upload=False).duration_s == expected[0], "a copy keeps what was filled in"


@pytest.mark.parametrize("said", [{"preset": "heavy"}, {"idle_s": 9}, {"client_port": 80}, {"duration_s": -1}], ids=str)
def test_what_cannot_be_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        options(**said)


@pytest.mark.parametrize(("median_ms", "omit_s"), [(20, 1), (79.9, 1), (80, 2), (300, 2)])
def test_far_away_more_of_the_start_is_left_out(median_ms: float, omit_s: int) -> None:
    assert options(preset="light").at_rtt(rtt(median_ms)).omit_s == omit_s
    assert options(preset="light", omit_by_rtt=False).at_rtt(rtt(median_ms)).omit_s == 1
    assert options(preset="light", omit_s=4).at_rtt(rtt(median_ms)).omit_s == 4


def test_without_a_round_trip_the_start_is_as_asked_for() -> None:
    assert options(preset="light").at_rtt(None).omit_s == 1


def test_a_byte_cap_is_never_below_three_times_the_usual_volume_of_the_link() -> None:
    """Else fast moments end early and slow ones do not: the mean of the samples is biased."""
    asked = options(preset="light", max_bytes=100_000_000)
    assert asked.cap_bytes(None) == asked.cap_bytes(5.0) == 100_000_000
    fast = asked.cap_bytes(80.0)
    assert fast is not None
    assert fast == CAP_TIMES * asked.usual_bytes(80.0) > 3 * 80e6 / 8 * 6
    assert options(preset="light").cap_bytes(80.0) is None


@given(
    preset=st.sampled_from([None, "light", "reference"]),
    upload=st.booleans(),
    omit_s=st.integers(0, 10),
    connect_timeout_s=st.floats(0.5, 30),
    median_ms=st.floats(1, 500),
)
def test_a_lease_outlasts_the_run_whatever_the_round_trip_says(
    preset: str | None,
    upload: bool,  # noqa: FBT001  # drawn
    omit_s: int,
    connect_timeout_s: float,
    median_ms: float,
) -> None:
    asked = options(preset=preset, upload=upload, omit_s=omit_s, connect_timeout_s=connect_timeout_s)
    made = asked.at_rtt(rtt(median_ms))
    assert made.deadline_s <= asked.deadline_s + 1e-9
    steps_s = idle_within_s(asked.idle_s) + asked.transfers * (made.deadline_s + (ENDS_WITHIN_S if preset else 0))
    assert asked.longest_s >= steps_s


@pytest.mark.parametrize("preset", ["light", "reference"])
def test_on_a_good_link_the_echoes_before_a_test_are_all_sent_before_its_lease_is_somebody_else_s(
    monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    lengths_s: list[float] = []
    monkeypatch.setattr(Echoes, "_measure_idle", lambda _self, length_s, _within_s: lengths_s.append(length_s))
    name_looked_up_s = 0.2
    within_s = ARRIVE_WITHIN_S - ON_THE_WAY_S - name_looked_up_s
    Echoes(LinkPath(interface="lo"), "127.0.0.1", None).idle(options(preset=preset).idle_s, within_s)
    assert lengths_s == [5.0]


def test_both_presets_fit_into_a_lease_of_the_responders_own_limit() -> None:
    assert options(preset="light").longest_s < 60
    assert options(preset="reference").longest_s < 120
