"""The load of the responder's network: the busier direction of the busiest interface, over the last span."""

from __future__ import annotations

import pytest

from responder.load import NetworkLoad, carried_bytes

LINK_MBPS = 700.0  # 70 % of 1 Gbit/s


class Counters:
    def __init__(self) -> None:
        self.now: dict[str, tuple[int, int]] = {"eth0": (0, 0), "eth1": (0, 0)}

    def __call__(self) -> dict[str, tuple[int, int]]:
        return dict(self.now)


def test_the_busier_direction_of_the_busiest_interface_counts() -> None:
    counters = Counters()
    load = NetworkLoad(LINK_MBPS, counters)
    load.tick(10.0)
    assert load.percent is None
    counters.now = {"eth0": (1_000_000, 125_000_000), "eth1": (60_000_000, 0)}
    load.tick(12.0)
    assert load.percent == pytest.approx(50.0), "125 MB in 2 s are 500 Mbit/s"
    counters.now = {"eth0": (1_000_000, 125_000_000), "eth1": (60_000_000, 0), "eth2": (10**12, 0)}
    load.tick(13.0)
    assert load.percent == 0.0, "an interface that has just come has carried nothing that is known"


def test_looks_that_follow_each_other_at_once_or_after_a_long_time_tell_nothing() -> None:
    counters = Counters()
    load = NetworkLoad(LINK_MBPS, counters)
    load.tick(0.0)
    counters.now["eth0"] = (125_000_000, 0)
    load.tick(0.1)
    assert load.percent is None
    load.tick(100.0)
    assert load.percent is None, "what went on within 100 s is not what goes on now"


def test_counters_that_begin_anew_are_no_load() -> None:
    counters = Counters()
    counters.now["eth0"] = (10**9, 10**9)
    load = NetworkLoad(LINK_MBPS, counters)
    load.tick(0.0)
    counters.now["eth0"] = (0, 0)
    load.tick(1.0)
    assert load.percent == 0.0


def test_the_loopback_is_no_network() -> None:
    assert "lo" not in carried_bytes()
