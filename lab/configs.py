"""The configuration files of a lab fleet, as plain documents: what an installer would have written. Pure but `write`.

The programs read them as they read any other; nothing in them says that this is a lab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from lab.sites import COMMUNE_SCHEME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lab.sites import SitePlan

Document = dict[str, Any]

DATABASE: Final = "probefleet"
RESPONDER_ID: Final = "core"
LEASE_MAX_S: Final = 60
LEASES_PER_HOUR: Final = 3600  # a lab's probe is in a hurry
PORTS_LENT: Final = (
    2  # one test (a download and an upload) at a time: two would share this machine and disturb each other
)
_ECHOES_TAKE_S: Final = 7
_AROUND_A_TEST_S: Final = 6  # the lease, two looks at the radio, winding up, and some air


@dataclass(frozen=True)
class Place:
    """Where the servers are, as the probes see them; how to trust the broker; the TCP congestion control to use."""

    host: str
    broker_port: int
    ca_file: Path
    iperf_port: int
    irtt_port: int
    congestion: str = "cubic"


@dataclass(frozen=True)
class Pace:
    """How often each job runs on each link, and how long a transfer is measured after the first second."""

    throughput_s: int
    latency_s: int
    radio_s: int
    duration_s: int = 5

    @classmethod
    def of(cls, plan: Sequence[SitePlan], *, duration_s: int = 5) -> Pace:
        """As often as one test at a time allows, on the responder and on the probe with most links; each in turn."""
        test_s = _test_takes_s(duration_s)
        links = [len(site.links) for site in plan]
        every_s = max(sum(links) * test_s, max(links) * (test_s + _ECHOES_TAKE_S))
        return cls(throughput_s=every_s, latency_s=every_s, radio_s=10, duration_s=duration_s)

    @property
    def all_tested_s(self) -> float:
        """When every link has been tested at the latest: a whole period, after at most one begun, and a turn's wait."""
        return 3.0 * self.throughput_s + _test_takes_s(self.duration_s)


def agent(site: SitePlan, pace: Pace, place: Place, folder: Path, modems: Mapping[str, Path]) -> Document:
    """agent.yaml of one probe that keeps everything in `folder`; `modems` maps link names to serial ports."""
    return {
        "probe_id": site.probe_id,
        "site": {
            "id": site.site_id,
            "name": site.name,
            "commune": site.commune,
            "commune_scheme": COMMUNE_SCHEME,
        },
        "data_dir": str(folder / "data"),
        "broker": _broker(place, folder),
        "clock": {"require": "nothing"},  # the host keeps the time here, and no kernel says so
        "spool": {"max_mb": 50, "telemetry_every_s": 1},  # who watches a lab does not wait five minutes
        "links": [
            {"name": link.name, "modem": str(modems[link.name]), "interface": link.interface} for link in site.links
        ],
        "jobs": [
            {
                "name": "light",
                "measurement": "throughput",
                "every_s": pace.throughput_s,
                "options": {
                    "duration_s": pace.duration_s,
                    "omit_s": 1,
                    "streams": 4,
                    "upload": True,
                    "congestion": place.congestion,
                },
            },
            {
                "name": "ping",
                "measurement": "latency",
                "every_s": pace.latency_s,
                "options": {"duration_s": 3, "icmp_count": 10},
            },
            {"name": "radio", "measurement": "radio", "every_s": pace.radio_s, "thin": None},
        ],
    }


def collector(place: Place, folder: Path, *, influx_url: str | None) -> Document:
    """collector.yaml; without InfluxDB the journal is all there is."""
    sink = {"kind": "influxdb1", "url": influx_url, "database": DATABASE} if influx_url else {"kind": "none"}
    return {"broker": _broker(place, folder), "journal": {"path": str(folder / "journal.db")}, "sink": sink}


def responder(place: Place, folder: Path) -> Document:
    """responder.yaml: one test at a time."""
    return {
        "responder_id": RESPONDER_ID,
        "broker": _broker(place, folder),
        "advertise_host": place.host,
        "bind_address": place.host,
        "ports": {"first": place.iperf_port, "last": place.iperf_port + PORTS_LENT - 1},
        "max_length_s": LEASE_MAX_S,
        "per_probe": {"in_an_hour": LEASES_PER_HOUR},
        "status_file": str(folder / "status.json"),
        "irtt": {"port": place.irtt_port},
    }


def write(folder: Path, name: str, document: Document, *, user: str, password: str) -> Path:
    """Write `<name>.yaml` and the credentials beside it, which are their owner's alone; return the path."""
    credentials = folder / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(f"{user}:{password}\n", encoding="utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=120), encoding="utf-8")
    return path


def _test_takes_s(duration_s: int) -> int:
    """How long a test keeps the responder's ports."""
    return 2 * (1 + duration_s) + _AROUND_A_TEST_S


def _broker(place: Place, folder: Path) -> Document:
    return {
        "host": place.host,
        "port": place.broker_port,
        "credentials_file": str(folder / "credentials"),
        "tls": {"ca_file": str(place.ca_file)},
        "keepalive_s": 30,
    }
