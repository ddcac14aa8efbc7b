"""What an agent has loaded when it begins to wait: every module is memory that a Pi never gets back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NEVER = {
    "agent.modem.bringup": "for a link that agent.yaml lets the agent bring up",
    "argparse": "the child that reads the command line has it",
    "asyncio": "the agent has threads",
    "calendar": "agent.plan counts days by itself",
    "concurrent.futures": "the agent has threads of its own",
    "difflib": "for a mistake in the configuration only",
    "email": "paho's proxies and importlib.metadata would bring it",
    "http.client": "paho's proxies would bring it",
    "huawei_lte_api": "an extra, for one kind of modem",
    "importlib.metadata": "base.version knows the version",
    "influxdb_client": "the collector's",
    "iperf3": "lives in the killable child",
    "lzma": "for a backlog only",
    "multiprocessing": "children are programs of their own",
    "requests": "huawei_lte_api's",
    "shutil": "argparse's",
    "statistics": "base.averages",
    "unittest": "nobody's",
    "yaml": "the child that reads the configuration has it",
    "xml": "huawei_lte_api's",
    "zoneinfo": "for a plan that names a time zone only",
}
CONFIG = {
    "probe_id": "p1",
    "site": {"id": "s1"},
    "broker": {"host": "127.0.0.1", "port": 9},
    "links": [{"name": "viettel", "interface": "nosuch0", "routes": "leave"}],
    "jobs": [
        {"name": "throughput-short", "measurement": "throughput", "runs_per_day": 16},
        {"name": "latency", "measurement": "latency", "every_s": 900},
        {"name": "radio", "measurement": "radio", "every_s": 60},
    ],
}
SCRIPT = """
import json, os, sys
before = set(sys.modules)  # what this environment brings by itself
from agent import cli, service
def work(self):
    print(json.dumps(sorted(set(sys.modules) - before)), flush=True)
    os._exit(0)
service.Service._work = work
cli.main(["run", "--config", sys.argv[1]])
"""


def test_an_agent_that_waits_has_loaded_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(json.dumps(CONFIG | {"data_dir": str(tmp_path / "data")}))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(config)], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(done.stdout))
    assert {"agent.service", "agent.upkeep", "paho.mqtt.client"} <= loaded, "the list is that of a running agent"
    assert {name: why for name, why in NEVER.items() if name in loaded} == {}
