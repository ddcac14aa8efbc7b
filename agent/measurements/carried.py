"""What a measurement moved over its interface, whoever moved it: what the data plan is charged."""

from __future__ import annotations

from agent import path as paths
from agent.path import Counters


def since(interface: str, before: dict[str, Counters]) -> int:
    """Count both directions on the interface since `before`, in bytes."""
    nothing = Counters(0, 0)
    return (paths.counters().get(interface, nothing) - before.get(interface, nothing)).both_bytes
