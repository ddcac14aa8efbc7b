"""Round-trip time, jitter and loss over one link: UDP echoes by irtt, and ICMP by ping as a second opinion.

irtt binds an address, not a device; so the kernel is asked beforehand which way packets from that address take, and the
interface's counters must show them afterwards. ping binds the device; whatever happens to it, the run goes on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agent import path as paths
from agent import resolver
from agent.measurements import carried, echo_report, icmp
from agent.measurements.base import MeasurementFailed, require_usable, run_killable
from wire.measured import Echo, Latency
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.path import LinkPath

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 2112
"""irtt's own default."""
_OPENING_S: Final = (0.5, 1.0, 2.0)
"""How long each attempt to reach the server waits."""
_LAST_REPLIES_S: Final = 2.0
"""How long the last echoes may take, as ping's (agent.measurements.icmp), before they count as lost.

irtt's own wait is three times the longest round trip of the run: on a short way a late last reply would be a loss.
"""
_PING_INTERVAL_S: Final = 0.2
_MARGIN_S: Final = 2.0
_PACKET_BYTES: Final = 60 + 28  # irtt's smallest packet with both time stamps; UDP and IPv4 headers


class LatencyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to test. The defaults cost some 20 kB. `icmp_count` 0: no second opinion."""

    duration_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 10
    interval_ms: Annotated[int, msgspec.Meta(ge=20, le=1000)] = 100
    icmp_count: Annotated[int, msgspec.Meta(ge=0, le=100)] = 20

    @property
    def longest_s(self) -> float:
        """How long a run can take at worst, looking up a name apart."""
        return self._irtt_deadline_s + icmp.longest_s(self.icmp_count, _PING_INTERVAL_S)

    @property
    def _irtt_deadline_s(self) -> float:
        return sum(_OPENING_S) + self.duration_s + _LAST_REPLIES_S + _MARGIN_S


def run(path: LinkPath, host: str, options: LatencyOptions, *, port: int = DEFAULT_PORT) -> Latency:
    """Measure the way to `host` and back over `path`; raise MeasurementFailed if there are no UDP figures.

    Every packet lost is a figure (100 % loss), if the server answered at first. Takes at most `options.longest_s`.
    """
    source = require_usable(path)
    address = resolver.resolve(path, host)
    _require_route(path.interface, address, source, port)
    before = paths.counters()
    udp = _irtt(source, address, port, options)
    now = paths.look(path.interface)
    if not now.up or now.source_address != source:
        raise MeasurementFailed(Reason.LINK_LOST, f"{path.interface} was lost during the run", begun=True)
    carried_bytes = carried.since(path.interface, before)
    least_bytes = udp.echo.received * 2 * _PACKET_BYTES
    if carried_bytes < least_bytes:
        raise MeasurementFailed(
            Reason.WRONG_PATH,
            f"{path.interface} carried {carried_bytes} bytes, the echoes were {least_bytes}",
            begun=True,
        )
    second = _ping(path.interface, address, options.icmp_count) if options.icmp_count else None
    return Latency(
        udp=udp.echo,
        loss_up_percent=udp.loss_up_percent,
        loss_down_percent=udp.loss_down_percent,
        icmp=second,
        interface_bytes=carried.since(path.interface, before),
    )


def _require_route(interface: str, address: str, source: str, port: int) -> None:
    device = paths.route_device(address, source, udp_port=port)
    if device is None:
        raise MeasurementFailed(Reason.UNREACHABLE, f"no route from {source} to {address}")
    if device != interface:
        raise MeasurementFailed(
            Reason.WRONG_PATH,
            f"packets from {source} to {address} would leave by {device}, not by {interface}; "
            "`probe-agent link setup` gives the link a routing table and a rule for that",
        )


def _irtt(source: str, address: str, port: int, options: LatencyOptions) -> echo_report.UdpEcho:
    command = ["irtt", "client", "-Q", "-o", "-", "-4"]
    command += ["-d", f"{options.duration_s:g}s", "-i", f"{options.interval_ms}ms", f"--wait={_LAST_REPLIES_S:g}s"]
    command.append("--timeouts=" + ",".join(f"{pause_s:g}s" for pause_s in _OPENING_S))
    command += [f"--local={source}", f"{address}:{port}"]
    finished = run_killable(command, deadline_s=options._irtt_deadline_s)  # noqa: SLF001  # one module
    if finished.overran:
        raise MeasurementFailed(Reason.TIMEOUT, f"irtt did not end within {finished.elapsed_s:.0f} s", begun=True)
    if not finished.stdout:
        raise echo_report.irtt_failure(finished.complaint)
    return echo_report.read_irtt(finished.stdout)


def _ping(interface: str, address: str, count: int) -> Echo | None:
    try:
        return icmp.ping(interface, address, count=count, interval_s=_PING_INTERVAL_S)
    except MeasurementFailed as failure:
        log.warning("%s: no ICMP figures: %s", interface, failure)
        return None
