"""Node-RED with the flow that its users draw for this: MQTT in, JSON, a function, InfluxDB out; and a tuned one.

The programs come from npm, into a cache folder of their own outside the project, at the first use. By themselves the
nodes make a database request of each message. The tuned flow has a join of 500 before the database.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.collecting.naive import BATCH_LINES
from wire import topics

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES: Final = ("node-red@4.1.15", "node-red-contrib-influxdb@0.7.0")
"""node-red 5 needs a newer Node.js than Debian's."""
_INSTALL_S: Final = 600
_FUNCTION: Final = """\
const result = msg.payload, outcome = result.outcome, kind = outcome.kind;
const numbers = (part, prefix = "") => Object.fromEntries(Object.entries(part || {})
    .filter(([, value]) => typeof value === "number").map(([key, value]) => [prefix + key, value]));
const tags = {probe: result.probe_id, site: result.site, link: result.link};
let operator = result.used && result.used.operator;
if (result.job) tags.job = result.job.name;
const fields = {seq: result.seq, elapsed_s: result.elapsed_s};
if (kind === "radio") {
    operator = operator || outcome.reading.operator;
    Object.assign(fields, {samples: outcome.samples || 1}, numbers(outcome.reading),
        numbers(outcome.lowest, "lowest_"), numbers(outcome.highest, "highest_"));
} else if (kind === "latency") {
    Object.assign(fields, numbers(outcome.udp), numbers(outcome.icmp, "icmp_"));
} else if (kind === "throughput") {
    Object.assign(fields, numbers(outcome.download, "download_"), numbers(outcome.upload, "upload_"),
        numbers(outcome.radio_after));
} else {
    Object.assign(fields, numbers(outcome));
}
if (operator) tags.operator = operator;
const timestamp = Date.parse(result.started_at) + "000000";
"""
_ALONE: Final = """\
return {measurement: kind, payload: [{...fields, time: timestamp}, tags]};
"""
"""What `influxdb out` takes: a point's fields and its tags."""
_IN_A_BATCH: Final = """\
return {payload: {measurement: kind, fields, tags, timestamp}};
"""
"""What `influxdb batch` takes many of."""


class NodeRedError(Exception):
    """Node-RED cannot be had here; the text says why."""


def install(say: Callable[[str], None]) -> Path:
    """Return the folder that holds the programs, filling it from npm if need be; raise NodeRedError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "probefleet" / "_".join(PACKAGES)
    if (folder / "complete").exists():
        return folder
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise NodeRedError("node and npm are not installed; run: apt-get install npm")
    say(f"fetching {' and '.join(PACKAGES)} from npm into {folder} ...")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text("{}")
    try:
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--omit=dev", "--loglevel=error", *PACKAGES],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NodeRedError(f"npm did not finish within {_INSTALL_S} s") from error
    if done.returncode:
        raise NodeRedError(f"npm: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    (folder / "complete").touch()
    return folder


def prepare(programs: Path, folder: Path, *, broker_port: int, influxd_port: int, joined: bool) -> list[str]:
    """Write the flow and the settings into `folder`; return the command that runs them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node_modules").symlink_to(programs / "node_modules")
    (folder / "package.json").write_text("{}")
    (folder / "settings.js").write_text(
        "module.exports = {httpAdminRoot: false, httpNodeRoot: false, flowFile: 'flow.json', credentialSecret: false,"
        " disableEditor: true, logging: {console: {level: 'warn', metrics: false, audit: false}},"
        " telemetry: {enabled: false, updateNotification: false}};"
    )
    (folder / "flow.json").write_text(json.dumps(flow(broker_port, influxd_port, joined=joined)))
    return ["node", str(programs / "node_modules/node-red/red.js"), "--userDir", str(folder)]


def flow(broker_port: int, influxd_port: int, *, joined: bool) -> list[dict[str, Any]]:
    """Draw the flow, with a join of BATCH_LINES before `influxdb batch`, or straight to `influxdb out`."""

    def node(name: str, kind: str, wire: str = "", **properties: object) -> dict[str, Any]:
        return {"id": name, "type": kind, "z": "the-tab", "wires": [[wire]] if wire else [], **properties}

    topic = topics.every_probe(topics.RESULT)
    point = {"outputs": 1, "libs": [], "initialize": "", "finalize": ""}
    store = {"influxdb": "the-database", "precision": ""}
    join = {"mode": "custom", "build": "array", "property": "payload", "propertyType": "msg", "timeout": "1"}
    tuned = [
        node("the-point", "function", "the-join", func=_FUNCTION + _IN_A_BATCH, **point),
        node("the-join", "join", "the-out", count=str(BATCH_LINES), **join),
        node("the-out", "influxdb batch", **store),
    ]
    plain = [
        node("the-point", "function", "the-out", func=_FUNCTION + _ALONE, **point),
        node("the-out", "influxdb out", measurement="", **store),
    ]
    return [
        {"id": "the-tab", "type": "tab", "label": "results"},
        {
            "id": "the-broker",
            "type": "mqtt-broker",
            "broker": "127.0.0.1",
            "port": str(broker_port),
            "clientid": "node-red",
            "autoConnect": True,
            "usetls": False,
            "protocolVersion": "4",
            "keepalive": "60",
            "cleansession": True,
        },
        {
            "id": "the-database",
            "type": "influxdb",
            "hostname": "127.0.0.1",
            "port": str(influxd_port),
            "protocol": "http",
            "database": "probefleet",
            "usetls": False,
            "influxdbVersion": "1.x",
        },
        node("the-in", "mqtt in", "the-point", topic=topic, qos="1", datatype="json", broker="the-broker", inputs=0),
        *(tuned if joined else plain),
    ]
