"""A preset and a UDP test by hand, with leases, passwords and the responder's own echo server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lab.story import PATIENCE_S, expect_nothing_lost_and_nothing_twice, until

if TYPE_CHECKING:
    from lab.story import Story

pytestmark = [pytest.mark.journey, pytest.mark.root]

DOWN_MBPS = 62 * 1448 / 1514
UDP_MBPS = 62 * 1200 / 1242


def once(story: Story, job: str) -> dict[str, Any]:
    (probe,) = story.fleet.probes.values()
    command = [sys.executable, "-P", "-m", "agent.cli", "once", "--config", str(probe.agent.config), job, "--json"]
    done = subprocess.run(
        [*story.fleet.network.prefix(probe.plan.probe_id), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=probe.folder,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    outcome: dict[str, Any] = json.loads(done.stdout)["outcome"]
    return outcome


def test_a_preset_tells_the_round_trip_idle_and_under_load_and_udp_what_the_link_can_carry(story: Story) -> None:
    (probe,) = story.fleet.probes.values()
    until(lambda: "connected to broker" in probe.agent.log_file.read_text(), "the agent is at work")
    probe.agent.stop()
    document = yaml.safe_load(probe.agent.config.read_text())
    light = {"preset": "light", "duration_s": 3, "idle_s": 2}
    document["jobs"] += [
        {"name": "preset", "measurement": "throughput", "every_s": 900, "options": light},
        {"name": "udp", "measurement": "capacity", "options": {"rate_mbps": 90}},
    ]
    probe.agent.config.write_text(yaml.safe_dump(document))

    tested = once(story, "preset")
    assert tested["idle"]["tool"] == "irtt", "the lease said where the echo server is"
    assert tested["idle"]["median_ms"] < 80
    for way in ("download", "upload"):
        assert tested[way]["loaded"]["tool"] == "irtt"
        assert tested[way]["loaded"]["median_ms"] >= tested["idle"]["median_ms"]
        assert tested[way]["omit_s"] == 1
        assert tested[way]["mbps"] > 1
        assert tested[way]["family"] == "ipv4"
    assert not {"bytes_not_accounted", "other_traffic", "too_short"} & set(tested.get("invalid", ()))

    carried = once(story, "udp")
    assert carried["kind"] == "capacity"
    assert carried["full"]
    assert carried["received_mbps"] == pytest.approx(UDP_MBPS, rel=0.2)
    assert carried["radio"]["operator"] == "Viettel"

    expect_nothing_lost_and_nothing_twice(story.fleet)
