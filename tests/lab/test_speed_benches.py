"""The benches of speed and cost do what they say, in small; no speed is asserted, they say it themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.settings import load
from lab import cli
from lab.collecting import bench as collector_bench
from lab.collecting import content, node_red
from lab.collecting.contenders import Naive, Ours
from lab.collecting.watch import StalledError
from lab.idle.bench import GOAL_MB
from wire import codec

REPOSITORY = Path(__file__).parents[2]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments, "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_the_volumes_are_those_of_the_default_schedule() -> None:
    settings = load(REPOSITORY / "config" / "agent.yaml")
    per_day = dict.fromkeys(content.PER_DAY, 0)
    for job in settings.jobs:
        kind = str(job.__struct_config__.tag)
        if kind in per_day:
            per_day[kind] += getattr(job, "runs_per_day", None) or round(86400 / (job.every_s or 86400))
    assert per_day == content.PER_DAY


def test_made_up_results_are_results_and_the_same_each_time() -> None:
    once = list(content.results(7, 3000))
    assert once == list(content.results(7, 3000))
    results = [codec.decode_result(payload) for payload in once]
    assert [one.seq for one in results] == list(range(1, 3001))
    kinds = [one.job.measurement for one in results[: sum(content.PER_DAY.values())] if one.job is not None]
    assert {kind: kinds.count(kind) for kind in content.PER_DAY} == content.PER_DAY


@pytest.mark.parametrize("joined", [True, False])
def test_every_wire_of_the_node_red_flow_leads_to_a_node(*, joined: bool) -> None:
    flow = node_red.flow(1883, 8086, joined=joined)
    names = {node["id"] for node in flow}
    wires = {target for node in flow for output in node.get("wires", []) for target in output}
    assert wires == {"the-point", "the-join", "the-out"}
    assert wires <= names


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
    for name, size in (("ours", 1), ("ours_batched", 50), ("naive", 1)):
        assert found[name]["results_per_message"] == size
        assert found[name]["results_per_s"] > 0
        assert found[name]["rss_mb"] > 10
        assert len(found[name]["rounds"]) == 1


@pytest.mark.journey
def test_a_backlog_is_caught_up_and_live_results_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "collector", "--catch-up", "--days", "0.1", "--probes", "10")
    assert found["backlog"] == found["acked"] == round(10 * 0.1 * sum(content.PER_DAY.values()))
    assert found["stored"] == found["backlog"] + found["live"]


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
