"""What a result is worth to a spool: which go first when it is full, which may wait before they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wire.events import Damaged, Dropped, Missed, PlanState
from wire.measured import Failed, Throughput

if TYPE_CHECKING:
    from wire.results import Result

# Who goes first when the spool is full: telemetry, then latency and services, then what a verdict stands on.
TELEMETRY: Final = 0
LATENCY: Final = 1
KEPT_LAST: Final = 2
_SERVICES: Final = {"latency", "ping", "dns", "web"}


def rank(result: Result) -> int:
    """Tell how long a full spool keeps it; the lowest goes first."""
    outcome = result.outcome
    throughput_wanted = result.job is not None and result.job.measurement == "throughput"
    if isinstance(outcome, Throughput | Dropped | Damaged) or (isinstance(outcome, Failed) and throughput_wanted):
        return KEPT_LAST
    served = result.job is not None and result.job.measurement in _SERVICES
    return LATENCY if served else TELEMETRY


def is_telemetry(result: Result) -> bool:
    """Whether a result may be deferred and sent with others: a verdict does not stand on it, nobody is called by it."""
    if isinstance(result.outcome, PlanState | Missed):
        return True
    return result.job is not None and result.job.measurement != "throughput"
