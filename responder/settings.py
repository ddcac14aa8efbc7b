"""responder.yaml → frozen Settings. Closed, typed, bounded; all mistakes are named at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from base import configfile
from base.broker import BrokerSettings, Port
from responder.leases import Limits
from wire.form import Name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_PATH: Final = Path("/etc/probefleet/responder.yaml")
MAX_PORTS: Final = 1000
DEFAULT_TRANSFERS: Final = 2  # download and upload

Host = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9:.][A-Za-z0-9:._-]*\Z")]
Address = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f:.]+\Z")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A closed section: a key that is not known is a mistake."""


class Ports(_Section, frozen=True, kw_only=True):
    """The TCP ports to lend, both ends included."""

    first: Port
    last: Port

    @property
    def all(self) -> range:
        """Every port of the pool."""
        return range(self.first, self.last + 1)


class Irtt(_Section, frozen=True, kw_only=True):
    """The echo server for latency measurements, on one UDP port."""

    port: Port = 2112


class PerProbe(_Section, frozen=True, kw_only=True):
    """What one probe may have: leases at once, and leases in any hour."""

    at_once: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    in_an_hour: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60


Mbps = Annotated[float, msgspec.Meta(ge=1, le=100_000)]


class Settings(_Section, frozen=True, kw_only=True):
    """The whole of responder.yaml. `bind_address` None: iperf3 and irtt listen on every address.

    `link_mbps`: what tests may take of this machine's network together. `default_mbps`: what a test is taken for whose
    probe does not know. `max_mbps`: a test that runs faster on average is ended by its server; None: none is.
    """

    responder_id: Name
    broker: BrokerSettings
    advertise_host: Host
    ports: Ports
    max_length_s: Annotated[float, msgspec.Meta(ge=10, le=600)] = 120.0
    max_transfers: Annotated[int, msgspec.Meta(ge=1, le=4)] = DEFAULT_TRANSFERS
    link_mbps: Mbps = 700.0
    default_mbps: Mbps = 50.0
    max_mbps: Mbps | None = None
    per_probe: PerProbe = PerProbe()
    authenticate: bool = True
    status_file: Path = Path("/run/probefleet-responder/status.json")
    irtt: Irtt | None = Irtt()
    bind_address: Address | None = None
    group: Name | None = None
    """Responders of one group never let two probes test in one cell together."""

    @property
    def limits(self) -> Limits:
        """What the book goes by."""
        return Limits(
            max_length_s=self.max_length_s,
            max_transfers=self.max_transfers,
            link_mbps=self.link_mbps,
            default_mbps=self.default_mbps,
            max_mbps=self.max_mbps if self.max_mbps is not None else self.link_mbps,
            leases_per_probe=self.per_probe.at_once,
            leases_per_hour=self.per_probe.in_an_hour,
        )


def load(path: Path) -> Settings:
    """Read responder.yaml; raise base.configfile.ConfigError naming every mistake."""
    return configfile.load(path, Settings, _cross_check)


def _cross_check(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what no single type can say; looks at the raw document, which may be wrong in any way."""
    ports = document.get("ports")
    first, last = (ports.get("first"), ports.get("last")) if isinstance(ports, dict) else (None, None)
    if not isinstance(first, int) or not isinstance(last, int):
        return
    if last < first:
        yield "ports.last", f"{last} comes before ports.first {first}"
        return
    if last - first >= MAX_PORTS:
        yield "ports.last", f"{last - first + 1} ports; at most {MAX_PORTS} can be lent by one responder"
    transfers = document.get("max_transfers", DEFAULT_TRANSFERS)
    if isinstance(transfers, int) and last - first + 1 < transfers:
        yield "ports.last", f"a lease takes up to {transfers} ports (max_transfers), the pool has {last - first + 1}"
