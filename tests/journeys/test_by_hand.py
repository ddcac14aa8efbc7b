"""What a technician runs by hand on a probe: `links`, and `once`, whose result counts like every other."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from service_servers import NameServer, Silence, WebServer

from lab.story import PATIENCE_S, expect_nothing_lost_and_nothing_twice, until
from wire.reasons import Invalid

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


def services_by_hand(story: Story) -> None:
    """Names, pages, pings, and the way to a server that does not answer; the servers are where all others are."""
    (probe,) = story.fleet.probes.values()
    core = story.fleet.network.address
    document = yaml.safe_load(probe.agent.config.read_text())
    document["links"][0]["resolvers"] = [core]
    document["trace"] = {"max_hops": 6, "max_s": 2}
    pages = {"urls": [f"https://{core}/page", "http://www.test/empty"], "ca_file": str(story.fleet.tls.ca_file)}
    pings = {"count": 3, "tcp_port": 80, "http_url": "http://www.test/empty", "mtu": True}
    document["jobs"] += [
        {"name": "names", "measurement": "dns", "every_s": 900, "options": {"names": ["www.test", "nothing.test"]}},
        {"name": "pages", "measurement": "web", "every_s": 900, "options": pages},
        {"name": "pings", "measurement": "ping", "every_s": 900, "options": pings},
        {
            "name": "nobody",
            "measurement": "web",
            "every_s": 900,
            "options": {"urls": [f"http://{core}:81/"], "timeout_s": 1},
        },
    ]
    probe.agent.config.write_text(yaml.safe_dump(document))
    with contextlib.ExitStack() as stack:
        with story.fleet.network.at_the_core():
            names = NameServer(core, answer=core)
            stack.callback(names.close)
            for server in (WebServer(core, 80), WebServer(core, 443, tls=story.fleet.tls)):
                stack.callback(server.close)
            stack.enter_context(Silence(core, 81))

        looked_up = agent(story, "once", "names")
        assert looked_up.returncode == 0, looked_up.stderr
        assert looked_up.stdout.startswith("viettel: 1 of 2 names, ")
        assert looked_up.stdout.endswith(" ms in the mean; nothing.test: no_such_name\n")

        fetched = agent(story, "once", "pages", "--json")
        assert fetched.returncode == 0, fetched.stderr
        outcome = json.loads(fetched.stdout)["outcome"]
        assert [page["status"] for page in outcome["pages"]] == [200, 200]
        assert outcome["pages"][0]["tls_ms"] > 0
        assert outcome["interface_bytes"] > 50_000

        pinged = agent(story, "once", "pings")
        assert pinged.returncode == 0, pinged.stderr
        assert re.search(r"ICMP [0-9.]+ ms.*; TCP [0-9.]+ ms.*; HTTP [0-9.]+ ms.*; MTU 1500", pinged.stdout)

        failed = agent(story, "once", "nobody", "--json")
        assert failed.returncode == 1
        outcome = json.loads(failed.stdout)["outcome"]
        assert outcome["reason"] == "timeout"
        assert outcome["trace"][-1]["address"] == core
        assert outcome["interface_bytes"] > 200
        assert names.names() == ["www.test", "nothing.test", "www.test", "www.test"]


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
    outcome = json.loads(tested.stdout)["outcome"]
    assert outcome["download"]["mbps"] > 1
    assert outcome["technologies_during"] == ["lte"], "the modem was asked while the test ran"
    assert {*outcome.get("invalid", [])} <= {Invalid.GAP_IN_TRANSFER}, "a busy machine may stall a transfer, no more"
    looked = agent(story, "once", "radio")
    assert looked.stdout.startswith("viettel: Viettel, lte, RSRP")

    services_by_hand(story)

    unknown = agent(story, "once", "lihgt")
    assert unknown.returncode == 2
    assert "jobs: light, ping, radio, names, pages, pings, nobody" in unknown.stderr

    probe.modems["viettel"].unplug()
    failed = agent(story, "once", "radio")
    assert failed.returncode == 1
    assert "failed: no_modem" in failed.stdout
    assert agent(story, "links").returncode == 1
    expect_nothing_lost_and_nothing_twice(story.fleet)
