"""The dashboard's every query against a real InfluxDB that holds what the collector writes."""

from __future__ import annotations

import json
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from collector import points
from collector.instants import microseconds
from lab.servers import Influxd
from responder.lender import COUNTS
from wire.codec import decode_result
from wire.events import Dropped, Missed, PlanState
from wire.measured import Capacity, Dns, Failed, Hop, Latency, Ping, Radio, Throughput, Web
from wire.reasons import Invalid, Reason
from wire.status import ResponderStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wire.results import Result

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "config/grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards/site.json").read_text(encoding="utf-8"))
DATASOURCE = yaml.safe_load((GRAFANA / "provisioning/datasources/probefleet.yaml").read_text(encoding="utf-8"))
PROVIDER = yaml.safe_load((GRAFANA / "provisioning/dashboards/probefleet.yaml").read_text(encoding="utf-8"))

BEGIN = datetime(2026, 6, 15, 8, tzinfo=UTC)
# What Grafana puts in the place of its variables when several values, or all, are chosen.
CHOSEN = {
    "$timeFilter": "time >= '2026-06-15T00:00:00Z' AND time <= '2026-06-16T00:00:00Z'",
    "$__interval": "10m",
    "$site": "(tan-phong|sin-ho)",
    "$probe": "(lc-tan-phong-1|lc-sin-ho-1)",
    "$link": ".*",
}
TARGETS = [
    pytest.param(target["query"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
VARIABLES = {variable["name"]: variable["query"] for variable in DASHBOARD["templating"]["list"]}


WAY = (Hop(ttl=1, address="10.64.0.1", rtt_ms=23.4), Hop(ttl=2))
OTHERS = (
    *("latency", "latency-jitter", "ping", "ping-partly", "dns", "web", "radio", "dropped", "plan", "plan-next"),
    "missed",
    "capacity",
)


def substituted(query: str) -> str:
    for name in sorted(CHOSEN, key=len, reverse=True):
        query = query.replace(name, CHOSEN[name])
    assert "$" not in re.sub(r"\$(?=/|\)|$)", "", query), f"a variable that nobody defines: {query}"
    return query


def sample_results() -> list[Result]:
    """Two sites; good runs of each kind, a failure for each reason, a result that does not count for each doubt."""
    model = {
        kind: decode_result((ROOT / f"tests/golden/v0.1.0-{kind}.json").read_bytes())
        for kind in ("throughput", "failed", *OTHERS)
    }
    model["throughput"] = decode_result((ROOT / "tests/golden/v0.1.0-throughput-postponed.json").read_bytes())
    good = decode_result((ROOT / "tests/golden/v0.1.0-throughput-loaded.json").read_bytes()).outcome
    assert isinstance(good, Throughput)
    outcomes = [
        *(msgspec.structs.replace(good, invalid=()) for _ in range(6)),
        *(msgspec.structs.replace(good, invalid=(doubt,)) for doubt in Invalid),
        *(Failed(reason=reason, detail=f"because of {reason}", trace=WAY, interface_bytes=900) for reason in Reason),
        *(model[kind].outcome for kind in OTHERS for _ in range(3)),
    ]
    kinds: dict[type, str] = {
        Latency: "latency",
        Ping: "ping",
        Dns: "dns",
        Web: "web",
        Radio: "radio",
        Dropped: "dropped",
        Failed: "failed",
        PlanState: "plan",
        Missed: "missed",
        Capacity: "capacity",
    }
    return [
        msgspec.structs.replace(
            model[kinds.get(type(outcome), "throughput")],
            probe_id=f"lc-{site}-1",
            site=site,
            seq=seq,
            started_at=BEGIN + timedelta(minutes=7 * seq),
            outcome=outcome,
        )
        for site in ("tan-phong", "sin-ho")
        for seq, outcome in enumerate(outcomes, start=1)
    ]


def responder_line(number: int) -> str:
    """Write what a responder said in its minute `number`: every count has grown."""
    status = ResponderStatus(
        responder="hcm-1",
        at=BEGIN + timedelta(minutes=10 * number),
        ports=18,
        link_mbps=700.0,
        lent_mbps=90.0,
        testing=2,
        waiting=1,
        counts=dict.fromkeys(COUNTS, number),
        group="lai-chau",
    )
    return points.responder_line(status, 0)


@pytest.fixture(scope="module")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    lines = [points.line(result) for result in sample_results()]
    at_us = microseconds(BEGIN)
    lines += [
        points.status_line(
            Status(probe_id=f"lc-{site}-1", site=site, online=True, at=BEGIN, agent_version="0.1.0", spooled=3), at_us
        )
        for site in ("tan-phong", "sin-ho")
    ]
    lines += [
        points.gap_line(f"lc-{site}-1", at_us, open_count=2, dropped=1, gone=3) for site in ("tan-phong", "sin-ho")
    ]
    lines += [responder_line(number) for number in range(3)]
    with Influxd(tmp_path_factory.mktemp("influxd")) as server:
        server.query("CREATE DATABASE probefleet")
        url = f"{server.url}/write?db=probefleet&precision=ns"
        request = urllib.request.Request(url, data="\n".join(lines).encode(), method="POST")  # noqa: S310  # http, ours
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310  # http, ours
            assert response.status == 204
        yield server


@pytest.mark.journey
@pytest.mark.parametrize("query", TARGETS)
def test_a_panel_query_returns_data_in_every_column(influxd: Influxd, query: str) -> None:
    rows = influxd.query(substituted(query), "probefleet")
    assert rows
    # A field that does not exist is no error in InfluxQL: its column is there, and empty.
    for column in rows[0]:
        assert any(row[column] not in {None, ""} for row in rows), f"column {column!r} has no value"


@pytest.mark.journey
@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_finds_its_values(influxd: Influxd, name: str) -> None:
    found = {row["value"] for row in influxd.query(substituted(VARIABLES[name]), "probefleet")}
    assert (
        found
        == {
            "site": {"tan-phong", "sin-ho"},
            "probe": {"lc-tan-phong-1", "lc-sin-ho-1"},
            "link": {"viettel"},
        }[name]
    )


@pytest.mark.journey
def test_results_that_do_not_count_are_told_apart_by_reason(influxd: Influxd) -> None:
    panel = next(panel for panel in DASHBOARD["panels"] if panel["type"] == "bargauge")
    found: dict[str, int] = {}
    for target in panel["targets"]:
        row = influxd.query(substituted(target["query"]), "probefleet")[0]
        found |= {column: value for column, value in row.items() if column != "time"}
    assert found == {"valid": 2 * 6} | {doubt.value: 2 for doubt in Invalid}


@pytest.mark.journey
def test_a_probe_that_was_lost_is_shown_offline_though_its_last_will_names_no_site(influxd: Influxd) -> None:
    will = points.status_line(Status(probe_id="lc-sin-ho-1", online=False), microseconds(BEGIN) + 60_000_000)
    request = urllib.request.Request(f"{influxd.url}/write?db=probefleet&precision=ns", data=will.encode())  # noqa: S310
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310  # http, ours
        pass
    panel = next(panel for panel in DASHBOARD["panels"] if "Last seen" in panel["title"])
    rows = influxd.query(substituted(panel["targets"][0]["query"]), "probefleet")
    assert {row["probe"]: row["online"] for row in rows} == {"lc-tan-phong-1": True, "lc-sin-ho-1": False}


def test_download_shows_the_target_of_40_mbps_as_a_line() -> None:
    panel = next(panel for panel in DASHBOARD["panels"] if panel["title"] == "Tốc độ tải xuống / Download")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["custom"]["thresholdsStyle"]["mode"] == "line"
    assert [step["value"] for step in defaults["thresholds"]["steps"]] == [None, 40]
    assert defaults["unit"] == "Mbits"


def test_every_panel_has_a_place_of_its_own_and_a_number_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_operators_read_titles_in_both_languages() -> None:
    titles = [DASHBOARD["title"], *(panel["title"] for panel in DASHBOARD["panels"])]
    assert [title for title in titles if " / " not in title] == []


def test_the_files_of_the_provisioning_name_each_other() -> None:
    (datasource,) = DATASOURCE["datasources"]
    assert (datasource["type"], datasource["jsonData"]["version"]) == ("influxdb", "InfluxQL")
    asked = {json.dumps(panel["datasource"]) for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert asked == {json.dumps({"type": "influxdb", "uid": datasource["uid"]})}
    (provider,) = PROVIDER["providers"]
    guide = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    for file in GRAFANA.rglob("*.*"):
        assert str(file.relative_to(ROOT)) in guide
    assert f"{provider['options']['path']}/" in guide
    secret = re.search(r"\$\{(\w+)}", datasource["secureJsonData"]["password"])
    assert secret is not None
    assert f"{secret[1]}=" in guide
