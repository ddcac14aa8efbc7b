"""Where a fleet's processes run: in namespaces with shaped cells, or all on this machine's loopback."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from lab.cell.topology import CORE_ADDRESS, build_core, build_probe
from lab.netns import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.cell.link import Cell
    from lab.cell.topology import Probe
    from lab.sites import LinkPlan, SitePlan

_FIRST_TABLE: Final = 100
_UNREACHABLE_METRIC: Final = 4278198272
"""Lower in rank than any route; as NetworkManager's own guard routes."""


class Network(Protocol):
    """The surroundings of a fleet. `address`: where the probes find the servers; `congestion`: what TCP may use."""

    address: str
    core_prefix: tuple[str, ...]
    congestion: str

    def prefix(self, probe: str) -> tuple[str, ...]:
        """Give what to put before a command to run it as that probe."""
        ...

    def cells(self, probe: str) -> dict[str, Cell]:
        """Give the probe's cells by link name."""
        ...

    def at_the_core(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread open sockets where the servers are."""
        ...

    def describe(self) -> str:
        """Say in one line what was made."""
        ...


class Loopback:
    """Everything on 127.0.0.1: no root, no shaping."""

    address = "127.0.0.1"
    core_prefix: tuple[str, ...] = ()

    def __init__(self) -> None:
        # Without root only this machine's own algorithm, and few others, may be asked for (tcp(7), TCP_CONGESTION).
        self.congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()

    def prefix(self, probe: str) -> tuple[str, ...]:  # noqa: ARG002  # every probe is here
        """Run it here."""
        return ()

    def cells(self, probe: str) -> dict[str, Cell]:  # noqa: ARG002  # as above
        """Give none."""
        return {}

    def at_the_core(self) -> contextlib.AbstractContextManager[None]:
        """Stay: this is the core."""
        return contextlib.nullcontext()

    def describe(self) -> str:
        """Say what there is not."""
        return "this machine's loopback: no namespaces, no shaping"


class Shaped:
    """A core and a namespace per probe, joined by an unshaped eth0 (but for cell-only probes) and shaped cells.

    Every link has its rule and table, as a network manager sets them up, so that what is bound to its address leaves by
    it or not at all. NetworkError where namespaces cannot be made.
    """

    address = CORE_ADDRESS
    congestion = "cubic"

    def __init__(self, plan: Sequence[SitePlan]) -> None:
        self._plan = plan
        self._probes: dict[str, Probe] = {}
        self._cells: dict[str, dict[str, Cell]] = {}
        self.run = Run()

    def __enter__(self) -> Self:
        try:
            core = build_core(self.run)
            self._core = core
            self.core_prefix = ("ip", "netns", "exec", core.namespace.name)
            for site in self._plan:
                probe = self._probes[site.probe_id] = build_probe(core, site.probe_id, site.uplink)
                self._cells[site.probe_id] = {
                    link.name: _attach(probe, link, _FIRST_TABLE + index) for index, link in enumerate(site.links)
                }
        except BaseException:
            self.run.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run.close()

    def prefix(self, probe: str) -> tuple[str, ...]:
        """Run it in the probe's namespace."""
        return ("ip", "netns", "exec", self._probes[probe].namespace.name)

    def cells(self, probe: str) -> dict[str, Cell]:
        """Give the probe's cells by link name."""
        return self._cells[probe]

    def at_the_core(self) -> contextlib.AbstractContextManager[None]:
        """Go into the core's namespace."""
        return self._core.namespace.inside()

    def describe(self) -> str:
        """Say what was made."""
        links = [link for site in self._plan for link in site.links]
        rates = ", ".join(f"{link.down_mbps:g}/{link.up_mbps:g}" for link in links[:4])
        more = ", ..." if len(links) > 4 else ""  # noqa: PLR2004  # what fits on a line
        return f"a core, {len(self._plan)} probes, {len(links)} cells of {rates}{more} Mbps down/up"


def _attach(probe: Probe, link: LinkPlan, table: int) -> Cell:
    cell = probe.attach_cell(link.interface, down_mbps=link.down_mbps, up_mbps=link.up_mbps, rtt_ms=link.rtt_ms)
    gateway = ipaddress.ip_interface(f"{cell.address}/30").network[1]
    probe.namespace.ip(
        f"rule add from {cell.address} lookup {table}",
        f"route add default via {gateway} dev {link.interface} table {table}",
        f"route add unreachable default metric {_UNREACHABLE_METRIC} table {table}",
    )
    return cell
