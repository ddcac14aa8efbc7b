"""What an agent has loaded when it begins to wait: every module is memory that a Pi never gets back."""

from __future__ import annotations

import json
import subprocess
import sys

NEVER = {
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
    "multiprocessing": "children are programs of their own",
    "requests": "huawei_lte_api's",
    "statistics": "base.averages",
    "unittest": "nobody's",
    "xml": "huawei_lte_api's",
    "zoneinfo": "for a plan that names a time zone only",
}
SCRIPT = """
import json, sys
before = set(sys.modules)  # what this environment brings by itself
from agent import cli
try:
    cli.main(["run", "--config", "/nonexistent/agent.yaml"])
except SystemExit as ended:
    assert ended.code == 2
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_an_agent_that_waits_has_loaded_nothing_that_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"agent.service", "agent.upkeep", "paho.mqtt.client"} <= loaded, "the list is that of a running agent"
    assert {name: why for name, why in NEVER.items() if name in loaded} == {}
