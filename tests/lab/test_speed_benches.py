"""The benches of speed and cost do what they say, in small; no speed is asserted, they say it themselves."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.publisher import BATCH
from agent.settings import load
from collector import points
from lab import cli
from lab.collecting import bench as collector_bench
from lab.collecting import content, node_red
from lab.collecting.contenders import Naive, Ours
from lab.collecting.live import AT_LEAST
from lab.collecting.watch import StalledError
from lab.idle.bench import GOAL_MB
from lab.wire import day
from wire import codec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wire.results import Result

REPOSITORY = Path(__file__).parents[2]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments, "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


@functools.cache
def example() -> content.Content:
    return content.Content()


def kinds(results: Iterable[Result]) -> Counter[str]:
    return Counter(str(type(one.outcome).__struct_config__.tag) for one in results)


def test_what_probes_send_is_what_a_played_day_holds() -> None:
    made = example()
    settings = load(REPOSITORY / "config" / "agent.yaml")
    (link, *_) = settings.links
    events = day.events(msgspec.structs.replace(settings, links=(link,)))
    played = [event.result for event in events if event.result is not None]

    week = [codec.decode_result(one) for one in made.results(0, made.per_week)]
    each_bytes = [len(codec.encode(msgspec.structs.replace(one, seq=1000, spool_id="0" * 16))) for one in played]

    assert made.per_day == pytest.approx(len(played), rel=0.05)
    mean_bytes = sum(len(codec.encode(one)) for one in week) / len(week)
    assert mean_bytes == pytest.approx(sum(each_bytes) / len(played), rel=0.03)
    assert {kind: round(count / 7) for kind, count in kinds(week).items() if kind != "radio"} == {
        kind: count for kind, count in kinds(played).items() if kind != "radio"
    }
    assert len({points.line(one).split(" ")[0] for one in week}) == len(
        {points.line(one).split(" ")[0] for one in played}
    )


def test_a_fleet_sends_the_days_mix_at_any_time() -> None:
    made = example()
    week = kinds(codec.decode_result(one) for one in made.results(0, made.per_week))
    some = kinds(codec.decode_result(one) for probe in range(200) for one in made.results(probe, 30))
    for kind, count in week.items():
        assert some[kind] / some.total() == pytest.approx(count / week.total(), rel=0.1), kind


def test_results_are_results_and_the_same_each_time() -> None:
    made = example()
    once = list(made.results(7, 5000))
    assert once == list(made.results(7, 5000))
    results = [codec.decode_result(payload) for payload in once]
    assert [one.seq for one in results] == list(range(1, 5001))
    assert len({one.started_at for one in results}) == 5000
    days = (results[-1].started_at - results[0].started_at).total_seconds() / 86_400
    assert days == pytest.approx(5000 / made.per_day, rel=0.02)


@pytest.mark.parametrize("joined", [True, False])
def test_every_wire_of_the_node_red_flow_leads_to_a_node(*, joined: bool) -> None:
    flow = node_red.flow(1883, 8086, joined=joined)
    names = {node["id"] for node in flow}
    wires = {target for node in flow for output in node.get("wires", []) for target in output}
    assert wires == {"the-point", "the-out"} | ({"the-join"} if joined else set())
    assert wires <= names
    (out,) = [node for node in flow if node["id"] == "the-out"]
    assert out["type"] == ("influxdb batch" if joined else "influxdb out")


def test_what_a_contender_loses_is_counted_and_the_collector_may_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stall(*_: object, **__: object) -> float:
        raise StalledError("no more have come", count=70, at_s=12.5)

    monkeypatch.setattr(collector_bench, "wait_until_stored", stall)
    influxd: Any = None
    assert collector_bench._wait(Naive(), influxd, 20, 100) == (50, 12.5)
    with pytest.raises(StalledError):
        collector_bench._wait(Ours(), influxd, 20, 100)
    with pytest.raises(StalledError):
        collector_bench._wait(Naive(), influxd, 70, 100)


@pytest.mark.journey
def test_the_collector_is_measured_beside_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "collector", "--results", "1500", "--rounds", "1", "--probes", "20", "--no-node-red")
    assert found["acked"] is True
    assert found["node_red"] is None
    assert any("Node-RED was not measured" in text for text in found["missed"])
    for name, size in (("ours", 1), ("ours_batched", BATCH), ("naive", 1)):
        assert found[name]["results_per_message"] == size
        assert found[name]["results_per_s"] > 0
        assert found[name]["rss_mb"] > 10
        assert len(found[name]["rounds"]) == 1


@pytest.mark.journey
def test_a_backlog_is_caught_up_and_live_results_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "collector", "--catch-up", "--days", "0.1", "--probes", "10")
    assert found["backlog"] == found["acked"] == round(10 * 0.1 * example().per_day)
    assert found["stored"] == found["backlog"] + found["live"]
    halves = found["live_to_journal"], found["live_to_database"]
    assert found["live"] == sum(half["results"] for half in halves)
    for half in halves:
        assert half["results"] >= AT_LEAST
        assert 0 < half["acked_median_s"] <= half["acked_95_s"] <= half["acked_max_s"]
        assert 0 < half["seen_median_s"] <= half["seen_95_s"] <= half["seen_max_s"]


@pytest.mark.journey
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_an_idle_agent_is_measured_beside_bare_python(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "agent", "--seconds", "2", "--no-peers")
    ours, python, paho = found["programs"]
    assert ours["name"].startswith("probe-agent")
    assert ours["rss_mb"] > paho["rss_mb"] > python["rss_mb"] > 5
    assert all(0 < one["pss_mb"] <= one["rss_mb"] for one in found["programs"])
    assert ours["rss_mb"] <= GOAL_MB, "memory is not noisy, as time is"
    assert ours["start_cpu_s"] > 0
