"""The core, the probes around it, and the links between them.

    with Run() as run:
        core = build_core(run)                                   # servers listen on core.address
        probe = build_probe(core, "lc-tan-phong-1")              # eth0 to the core, unshaped, default route
        cell = probe.attach_cell("wwan0", down_mbps=62, up_mbps=21, rtt_ms=40)
        probe.namespace.run(["ping", "-I", "wwan0", "-c", "3", core.address])

Addresses are from 198.18.0.0/15, which RFC 2544 keeps for benchmarks: nobody's real network is shadowed.
"""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from lab.cell.link import TUN_QUEUE_PACKETS, Cell
from lab.netns import Namespace, Run, veth

if TYPE_CHECKING:
    from collections.abc import Iterator

CORE_ADDRESS: Final = "198.18.0.1"
_MANAGEMENT: Final = ipaddress.IPv4Network("198.18.128.0/17")
_CELLS: Final = ipaddress.IPv4Network("198.19.0.0/16")

# As NetworkManager ranks Ethernet and mobile broadband: an unbound socket takes eth0.
ETH_METRIC: Final = 100
WWAN_METRIC: Final = 700


@dataclass(frozen=True)
class Core:
    """The server side: one namespace, one address that every probe reaches by every way it has."""

    run: Run
    namespace: Namespace
    address: str
    spare_managements: Iterator[tuple[int, ipaddress.IPv4Network]]
    spare_cells: Iterator[tuple[int, ipaddress.IPv4Network]]


@dataclass(frozen=True)
class Probe:
    """A probe's machine: its namespace and the links attached to it, by device name."""

    core: Core
    namespace: Namespace
    cells: dict[str, Cell] = field(default_factory=dict)

    def attach_cell(
        self,
        device: str = "wwan0",
        *,
        down_mbps: float,
        up_mbps: float,
        rtt_ms: float,
        jitter_ms: float = 0.0,
        down_loss_percent: float = 0.0,
        up_loss_percent: float = 0.0,
    ) -> Cell:
        """Give the probe a cellular device: shaped, delayed, with an address and a default route of its own."""
        number, network = next(self.core.spare_cells)
        near, far = network.subnets(new_prefix=30)
        gateway, address = near[1], near[2]
        up0, port = far[1], far[2]
        namespace = self.core.run.namespace(f"{self.namespace.label}-{device}")
        _wire_cell(namespace, self, device, f"cell{number}", gateway=f"{gateway}/30", up0=f"{up0}/30", port=str(port))
        metric = WWAN_METRIC + len(self.cells)
        self.namespace.ip(
            f"address add {address}/30 dev {device}", f"route add default via {gateway} dev {device} metric {metric}"
        )
        self.core.namespace.ip(
            f"address add {port}/30 dev cell{number}",
            f"route add {near} via {up0} src {self.core.address}",
        )
        cell = Cell(
            namespace,
            device=device,
            address=str(address),
            down_mbps=down_mbps,
            up_mbps=up_mbps,
            rtt_ms=rtt_ms,
            jitter_ms=jitter_ms,
            down_loss_percent=down_loss_percent,
            up_loss_percent=up_loss_percent,
        )
        self.core.run.callback(cell.close)
        self.cells[device] = cell
        return cell


def build_core(run: Run) -> Core:
    """Make the namespace where the servers run."""
    namespace = run.namespace("core")
    _as_a_host(namespace)
    namespace.ip(f"address add {CORE_ADDRESS}/32 dev lo")
    return Core(
        run,
        namespace,
        CORE_ADDRESS,
        enumerate(_MANAGEMENT.subnets(new_prefix=30)),
        enumerate(_CELLS.subnets(new_prefix=29)),
    )


def build_probe(core: Core, name: str, uplink: Literal["eth0", "cell"] = "eth0") -> Probe:
    """Make a probe's namespace, with an unshaped eth0 to the core as its default way, or with no way but its cells."""
    namespace = core.run.namespace(name)
    _as_a_host(namespace)
    if uplink == "eth0":
        number, network = next(core.spare_managements)
        near, far = network[1], network[2]
        veth(core.namespace, f"mgmt{number}", namespace, "eth0")
        core.namespace.ip(
            f"address add {near}/30 dev mgmt{number} noprefixroute",
            f"route add {network} dev mgmt{number} src {core.address}",  # servers on a wildcard answer from one address
        )
        namespace.ip(f"address add {far}/30 dev eth0", f"route add default via {near} dev eth0 metric {ETH_METRIC}")
    return Probe(core, namespace)


def _as_a_host(namespace: Namespace) -> None:
    """Set the kernel as on a Debian host: loose reverse path filter; and without memory of earlier transfers."""
    namespace.sysctl(
        net__ipv4__conf__all__rp_filter=2,
        net__ipv4__conf__default__rp_filter=2,
        net__ipv4__tcp_no_metrics_save=1,  # else a test starts from the last one's threshold, whatever the link is now
        net__ipv4__ping_group_range="0 2147483647",
    )


def _wire_cell(
    namespace: Namespace, probe: Probe, device: str, port_name: str, *, gateway: str, up0: str, port: str
) -> None:
    """Lay the two cables and send whatever comes in by one into the relay's TUN devices."""
    namespace.sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__default__rp_filter=0)
    veth(namespace, "ue0", probe.namespace, device)
    veth(namespace, "up0", probe.core.namespace, port_name)
    namespace.ip(
        f"address add {gateway} dev ue0",
        f"address add {up0} dev up0",
        *itertools.chain.from_iterable(
            (
                f"tuntap add dev {tun} mode tun",
                f"link set {tun} txqueuelen {TUN_QUEUE_PACKETS} up",
                f"route add default dev {tun} table {table}",
                f"rule add iif {comes_by} lookup {table}",
            )
            for comes_by, tun, table in (("ue0", "air0", 100), ("up0", "air1", 101))
        ),
        f"route add default via {port}",
    )
