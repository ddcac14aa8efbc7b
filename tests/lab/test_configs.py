from __future__ import annotations

import stat
from pathlib import Path

import pytest

import agent.settings
import collector.settings
import responder.settings
from base.broker import read_credentials
from lab import configs, sites
from lab.configs import Pace, Place

PLACE = Place(host="198.18.0.1", broker_port=8883, ca_file=Path("/ca.pem"), iperf_port=5201, irtt_port=2112)


@pytest.mark.parametrize("site", sites.fleet(4), ids=lambda site: site.site_id)
def test_the_agent_takes_its_file(tmp_path: Path, site: sites.SitePlan) -> None:
    modems = {link.name: tmp_path / link.name for link in site.links}
    document = configs.agent(site, Pace.of([site]), PLACE, tmp_path, modems)
    settings = agent.settings.load(configs.write(tmp_path, "agent", document, user=site.probe_id, password="secret"))
    assert settings.probe_id == site.probe_id
    assert settings.site.name == site.name
    assert settings.site.commune == site.commune
    assert [(link.name, link.interface) for link in settings.links] == [(x.name, x.interface) for x in site.links]
    assert read_credentials(tmp_path / "credentials") == (site.probe_id, "secret")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8086", None])
def test_the_collector_takes_its_file(tmp_path: Path, url: str | None) -> None:
    document = configs.collector(PLACE, tmp_path, influx_url=url)
    settings = collector.settings.load(configs.write(tmp_path, "collector", document, user="collector", password="x"))
    assert settings.sink.kind == ("influxdb1" if url else "none")


def test_the_responder_takes_its_file_and_lends_for_one_test_at_a_time(tmp_path: Path) -> None:
    document = configs.responder(PLACE, tmp_path)
    settings = responder.settings.load(configs.write(tmp_path, "responder", document, user="responder", password="x"))
    light = agent.settings.ThroughputOptions()
    assert len(settings.ports.all) == light.transfers
    assert settings.max_length_s >= light.longest_s


def test_credentials_are_their_owners_alone(tmp_path: Path) -> None:
    configs.write(tmp_path, "agent", {}, user="a", password="b")
    assert stat.S_IMODE((tmp_path / "credentials").stat().st_mode) == 0o600


@pytest.mark.parametrize("count", [1, 2, 3, sites.MOST_SITES])
def test_the_responder_and_the_busiest_probe_keep_up(count: int) -> None:
    plan = sites.fleet(count)
    pace = Pace.of(plan)
    test_s, echo_s = 2 * (1 + pace.duration_s) + 2, 6
    assert sum(len(site.links) for site in plan) * test_s < pace.throughput_s
    assert max(len(site.links) for site in plan) * (test_s + echo_s) < pace.throughput_s <= pace.latency_s
