"""What a technician runs by hand on a probe: `links`, and `once`, whose result counts like every other."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab.story import PATIENCE_S, expect_nothing_lost_and_nothing_twice, until

if TYPE_CHECKING:
    from lab.story import Story

pytestmark = [pytest.mark.journey, pytest.mark.root]


def agent(story: Story, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the one probe's agent, where the probe is."""
    (probe,) = story.fleet.probes.values()
    return subprocess.run(
        [
            *story.fleet.network.prefix(probe.plan.probe_id),
            *(sys.executable, "-P", "-m", "agent.cli", command, "--config", str(probe.agent.config), *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=probe.folder,
    )


def test_links_and_tests_by_hand(story: Story) -> None:
    (probe,) = story.fleet.probes.values()
    until(lambda: "connected to broker" in probe.agent.log_file.read_text(), "the agent is at work")
    refused = agent(story, "once", "radio")
    assert refused.returncode == 1
    assert "in use by another agent" in refused.stderr
    probe.agent.stop()

    links = agent(story, "links", "--json")
    assert links.returncode == 0, links.stderr
    (link,) = json.loads(links.stdout)
    assert (link["link"], link["state"], link["modem"], link["operator"]) == ("viettel", "up", "EC25", "Viettel")
    assert "wwan0" in agent(story, "links").stdout

    tested = agent(story, "once", "light", "--json")
    assert tested.returncode == 0, tested.stderr
    assert "delivered" in tested.stderr
    assert json.loads(tested.stdout)["outcome"]["download"]["mbps"] > 1
    looked = agent(story, "once", "radio")
    assert looked.stdout.startswith("viettel: Viettel, lte, RSRP")

    unknown = agent(story, "once", "lihgt")
    assert unknown.returncode == 2
    assert "jobs: light, ping, radio" in unknown.stderr

    probe.modems["viettel"].unplug()
    failed = agent(story, "once", "radio")
    assert failed.returncode == 1
    assert "failed: no_modem" in failed.stdout
    assert agent(story, "links").returncode == 1
    expect_nothing_lost_and_nothing_twice(story.fleet)
