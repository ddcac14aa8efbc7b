"""The script that one would write in an afternoon: MQTT in, 500 lines, one HTTP request. It promises nothing.

`python -m lab.collecting.naive`: what is in memory when it ends is lost, a database that is away loses batches, and
nobody is told what arrived. It is here to be measured beside the collector, and does its little work well: one
thread, a connection that stays open, the same tags and the main figures of each outcome as fields.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import urllib3

from base.broker import BrokerSettings, make_client
from wire import topics

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage

BATCH_LINES: Final = 500
_FLUSH_S: Final = 1.0


class Script:
    """Collects lines, writes them by the batch."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/write?db=probefleet"
        self._pool = urllib3.PoolManager(maxsize=1)
        self._lines: list[str] = []
        self._flushed_s = time.monotonic()

    def on_message(self, _client: object, _data: object, message: MQTTMessage) -> None:
        """Take one message with one result."""
        self._lines.append(line(json.loads(message.payload)))
        if len(self._lines) >= BATCH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if self._lines:
            self._pool.request("POST", self._url, body="\n".join(self._lines).encode())
            self._lines.clear()
        self._flushed_s = time.monotonic()

    def flush_if_old(self) -> None:
        """Write what has waited long enough."""
        if time.monotonic() - self._flushed_s > _FLUSH_S:
            self.flush()


def line(result: dict[str, Any]) -> str:
    """Write a result as line protocol."""
    outcome = result["outcome"]
    kind = outcome["kind"]
    fields = {"seq": result["seq"], "elapsed_s": result["elapsed_s"]}
    operator = result.get("used", {}).get("operator")
    if kind == "radio":
        reading = outcome["reading"]
        operator = operator or reading["operator"]
        fields |= {"samples": outcome.get("samples", 1)} | numbers(reading)
        fields |= {f"lowest_{key}": value for key, value in numbers(outcome.get("lowest", {})).items()}
        fields |= {f"highest_{key}": value for key, value in numbers(outcome.get("highest", {})).items()}
    elif kind == "latency":
        fields |= numbers(outcome["udp"])
        fields |= {f"icmp_{key}": value for key, value in numbers(outcome["icmp"]).items()}
    elif kind == "throughput":
        fields |= {f"download_{key}": value for key, value in numbers(outcome["download"]).items()}
        fields |= {f"upload_{key}": value for key, value in numbers(outcome["upload"]).items()}
        fields |= numbers(outcome["radio_after"])
    else:
        fields |= numbers(outcome)
    tags = {"job": result.get("job", {}).get("name"), "link": result["link"], "operator": operator}
    tags |= {"probe": result["probe_id"], "site": result["site"]}
    series = ",".join([kind, *(f"{key}={value}" for key, value in tags.items() if value)])
    text = ",".join([f"{key}={value}" for key, value in fields.items()])
    at_ns = int(datetime.fromisoformat(result["started_at"]).timestamp() * 1e6) * 1000 + result["seq"] % 1000
    return f"{series} {text} {at_ns}"


def numbers(part: dict[str, Any]) -> dict[str, float]:
    """Leave out what is not a number."""
    return {key: value for key, value in part.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def main() -> None:
    """Collect until killed."""
    parser = argparse.ArgumentParser(prog="python -m lab.collecting.naive", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="of the broker on this machine")
    parser.add_argument("--url", required=True, help="of InfluxDB 1.x, whose database `probefleet` is there")
    options = parser.parse_args()
    script = Script(options.url)
    broker = BrokerSettings(host="127.0.0.1", port=options.port, tls=None)
    client = make_client(broker, client_id="naive", clean_session=True)
    client.on_message = script.on_message
    client.connect("127.0.0.1", options.port)
    client.subscribe(topics.every_probe(topics.RESULT), qos=1)
    while True:
        client.loop(timeout=_FLUSH_S)
        script.flush_if_old()


if __name__ == "__main__":
    main()
