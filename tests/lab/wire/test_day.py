"""The bench's day is the agent's own schedule, and its results have every figure that a result can have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from agent import settings
from lab.wire import day
from lab.wire.results import Maker, flat
from wire.codec import decode_result, encode, pack
from wire.measured import Radio, Throughput

ROOT = Path(__file__).parents[3]
EXAMPLE = settings.load(ROOT / "config/agent.yaml")


def test_a_day_has_every_run_of_the_schedule() -> None:
    events = day.events(EXAMPLE)
    kinds = Counter(event.kind for event in events)
    runs = sum(getattr(job, "runs_per_day", None) or 0 for job in EXAMPLE.jobs)
    assert kinds["throughput"] == runs
    assert kinds["latency"] in {95, 96, 97}
    assert kinds["radio"] + kinds["look"] in range(1438, 1442)
    assert kinds["plan"] == 24
    assert sorted(event.at_s for event in events) == [event.at_s for event in events]
    looks = [event.result.outcome for event in events if event.kind == "radio" and event.result is not None]
    folded = sum(outcome.samples - 1 for outcome in looks if isinstance(outcome, Radio))
    assert kinds["look"] - 10 <= folded <= kinds["look"], "only those after the last record are still to be told"


@pytest.mark.parametrize("measurement", sorted(job.__struct_config__.tag for job in get_args(settings.Job)))
def test_a_result_of_every_measurement_can_be_made_and_read(measurement: str) -> None:
    if measurement not in {"web", "dns", "ping", "capacity", "throughput", "latency", "radio"}:
        pytest.fail("a new measurement: see whether Maker.other makes a good result of it")
    result = Maker("p1", "s1", "viettel").other(1.78e9, "job", measurement)
    assert decode_result(encode(result)) == result


def test_a_throughput_result_is_complete() -> None:
    result = Maker("p1", "s1", "viettel").throughput(1.78e9, "light")
    assert isinstance(result.outcome, Throughput)
    assert result.outcome.valid
    left_out = {"invalid", "upload_failure"}
    for name in set(Throughput.__struct_fields__) - left_out:
        assert getattr(result.outcome, name) is not None, name
    assert 300 < len(flat(result)) < 500


def test_the_digits_of_a_result_are_its_own() -> None:
    maker = Maker("p1", "s1", "viettel")
    payloads = [encode(maker.throughput(1.78e9 + 3600 * hour, "light")) for hour in range(100)]
    assert len(set(payloads)) == 100
    assert 120 < len(pack(payloads)) / 100 < 250
