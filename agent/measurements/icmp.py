"""ICMP echoes over one link by iputils' ping, which binds the device (`-I`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.measurements import echo_report
from agent.measurements.base import MeasurementFailed, run_killable
from wire.reasons import Reason

if TYPE_CHECKING:
    from wire.measured import Echo

_WAIT_S: Final = 2
_MARGIN_S: Final = 2.0


def longest_s(count: int, interval_s: float) -> float:
    """Return how long `ping` takes at worst."""
    return count * interval_s + _WAIT_S + _MARGIN_S if count else 0.0


def ping(interface: str, address: str, *, count: int, interval_s: float) -> Echo:
    """Send `count` echoes; raise MeasurementFailed (TOOL_MISSING, TOOL_FAILED) if ping gives no figures."""
    command = ["ping", "-n", "-I", interface, "-c", str(count)]
    command += ["-i", f"{interval_s:g}", "-W", str(_WAIT_S), address]
    finished = run_killable(command, deadline_s=longest_s(count, interval_s))
    echo = echo_report.read_ping(finished.stdout.decode("utf-8", "replace"))
    if echo is None:
        raise MeasurementFailed(Reason.TOOL_FAILED, f"ping said: {finished.complaint or 'nothing'}")
    return echo
