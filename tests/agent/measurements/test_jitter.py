"""Jitter by its three definitions, against figures worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.measurements import jitter
from wire.measured import Echo


def test_each_jitter_is_its_own() -> None:
    # |D| = 16, 16, 0: mean 10.667; J = 1, 1.9375, 1.8164 (RFC 3550 6.4.1); variance of 40, 56, 40, 40 about 44: 48
    assert jitter.echo("http", [40, 56, 40, 40]) == Echo(
        tool="http",
        sent=4,
        received=4,
        loss_percent=0,
        rtt_min_ms=40,
        rtt_mean_ms=44,
        rtt_median_ms=40,
        rtt_max_ms=56,
        jitter_ms=10.667,
        jitter_rfc3550_ms=1.816,
        jitter_variance_ms2=48,
    )


def test_losses_are_passed_over_by_the_estimator_and_are_no_neighbours_for_the_mean() -> None:
    echo = jitter.echo("tcp", [40, None, 56, 56])
    assert (echo.sent, echo.received, echo.loss_percent) == (4, 3, 25)
    assert echo.jitter_ms == 0
    assert echo.jitter_rfc3550_ms == pytest.approx(16 / 16 * 15 / 16, abs=1e-3)


@pytest.mark.parametrize("rtts_ms", [[], [None], [40.0], [None, 40.0, None]])
def test_without_two_round_trips_there_is_no_jitter(rtts_ms: list[float | None]) -> None:
    echo = jitter.echo("tcp", rtts_ms)
    assert (echo.jitter_ms, echo.jitter_rfc3550_ms, echo.jitter_variance_ms2) == (None, None, None)


@given(st.lists(st.floats(0.01, 10_000), min_size=2, max_size=60))
def test_the_estimator_never_exceeds_the_largest_step(rtts_ms: list[float]) -> None:
    estimate = jitter.rfc3550_jitter_ms(rtts_ms)
    assert estimate is not None
    assert 0 <= estimate <= max(rtts_ms) - min(rtts_ms) + 1e-3
