"""Whatever is killed, and whenever: every run is one result, everywhere once."""

from __future__ import annotations

import random
import time

import pytest

from lab import sites
from lab.fleet import Fleet
from lab.story import BRISK, Story, expect_nothing_lost_and_nothing_twice, until
from wire.measured import Failed, Radio, Throughput
from wire.reasons import Reason

pytestmark = [pytest.mark.journey, pytest.mark.root]


def test_influxdb_stopped_under_load_and_back_has_everything_once(story: Story) -> None:
    fleet = story.fleet
    assert fleet.influx is not None
    story.wait_for(lambda r: isinstance(r.outcome, Radio))
    fleet.influx.kill()
    story.wait_for(lambda r: True, 6)  # the journal goes on without the database
    fleet.influx.start()
    story.wait_for(lambda r: True)
    expect_nothing_lost_and_nothing_twice(fleet)


def test_the_broker_restarted_under_load(story: Story) -> None:
    story.wait_for(lambda r: True)
    story.fleet.broker.kill()
    until(lambda: any(probe.backlog() >= 4 for probe in story.fleet.probes.values()), "results wait at the probe")
    story.fleet.broker.start()
    story.wait_for(lambda r: True, 6)
    expect_nothing_lost_and_nothing_twice(story.fleet)


@pytest.mark.parametrize("seed", [2026])
def test_kill_9_of_anything_at_random_moments(seed: int) -> None:
    chance = random.Random(seed)
    with Fleet(sites.fleet(2), pace=BRISK) as fleet:
        story = Story(fleet)
        assert fleet.influx is not None
        agents = [probe.agent for probe in fleet.probes.values()]
        victims = [*agents, *agents, fleet.collector, fleet.collector, fleet.responder, fleet.broker, fleet.influx]
        for _ in range(14):
            time.sleep(chance.uniform(0.2, 3.0))
            victim = chance.choice(victims)
            victim.kill()
            time.sleep(chance.choice([0.0, 0.0, 1.5]))
            victim.start()
        story.wait_for(lambda r: isinstance(r.outcome, Throughput), 2)
        expect_nothing_lost_and_nothing_twice(fleet)
        list(fleet.new_results())
        cut_off = [r for r in story.results if isinstance(r.outcome, Failed) and r.outcome.reason is Reason.INTERRUPTED]
        assert cut_off, "an agent killed during a run reports that run"
