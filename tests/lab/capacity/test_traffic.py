from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent import settings
from agent.publisher import STATUS_EVERY_S
from lab.capacity import traffic
from lab.capacity.command import need
from lab.capacity.costs import Costs
from lab.capacity.traffic import PlayedDay
from lab.wire import day

EXAMPLE = Path(__file__).parents[3] / "config/agent.yaml"
PRICES = Costs(
    collector_us_per_message=10,
    collector_us_per_result=40,
    broker_us_per_message=15,
    influxd_us_per_result=20,
    collector_rss_mb=60,
    results_per_s=10_000,
    journal_bytes_per_result=500,
    influxd_bytes_per_point=50,
    series_per_link=3,
    wire_bytes_per_link_day=432_000,
)


def test_a_played_day_holds_every_result_of_the_schedule() -> None:
    config = settings.load(EXAMPLE)
    (played,) = traffic.play(config, 1, lambda _: None)

    mine = msgspec.structs.replace(config, probe_id=f"{config.probe_id}-0")
    made = sum(event.result is not None for event in day.events(mine))
    assert made - 60 <= played.results.sum() <= made  # what is held at midnight goes with the next day
    assert (played.results == 0).sum() >= int(86_400 / STATUS_EVERY_S)
    assert ((played.at_s >= 0) & (played.at_s <= 86_400 + 3600)).all()


def test_a_fleet_has_its_probes_days_and_their_sum() -> None:
    days = [PlayedDay(np.arange(0.0, 86_400.0, 100.0), np.full(864, 3))]

    load = traffic.draw(days, 50, seed=1)

    assert load.messages_a_day == 50 * 864
    assert load.results_a_day == 3 * 50 * 864
    assert load.points_a_day == 50 * (3 * 864 + 96)
    assert load.messages_per_s == pytest.approx(0.5)
    assert load.messages_per_s <= load.messages_per_s_busiest_minute <= load.messages_per_s_busiest_second <= 50


def test_needs_are_rates_times_prices() -> None:
    days = [PlayedDay(np.arange(0.0, 86_400.0, 10.0), np.full(8640, 2))]

    needed = need(traffic.draw(days, 100, seed=1), 100, PRICES)

    assert needed.collector_core_percent == pytest.approx((10 * 10 + 20 * 40) / 1e4)
    assert needed.influxd_core_percent == pytest.approx((20 + 100 * 96 / 86_400) * 20 / 1e4)
    assert needed.journal_gb_a_month == pytest.approx(20 * 86_400 * 30 * 500 / 1e9)
    assert needed.influxd_gb_a_month == pytest.approx((20 * 86_400 + 100 * 96) * 30 * 50 / 1e9)
    assert needed.network_mbps == pytest.approx(100 * 40 / 1e6)
    assert needed.catch_up_minutes == pytest.approx(2 * 20 * 86_400 / 10_000 / 60)
    assert needed.series == 300
