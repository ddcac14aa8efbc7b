"""IPv4 or IPv6: which of the two a run goes over, decided once, before anything is sent."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal

import msgspec

from agent import resolver
from agent.measurements.base import MeasurementFailed
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.measurements.throughput_options import Family
    from agent.path import LinkPath


def choose(path: LinkPath, host: str, family: Family, *, fresh: bool = False) -> tuple[LinkPath, str]:
    """Return the path with its address of the family, and the host's address; raise MeasurementFailed.

    Nothing is tried and given up for the other family: what is chosen is measured, and fails if it must. `fresh`: names
    are asked for anew.
    """
    if family == "ipv6" or (family == "auto" and path.ipv6_address is not None):
        if path.ipv6_address is None:
            raise MeasurementFailed(Reason.NO_ADDRESS, f"interface {path.interface} has no global IPv6 address")
        over_ipv6 = msgspec.structs.replace(path, source_address=path.ipv6_address)
        try:
            return over_ipv6, resolver.resolve(path, host, family=socket.AF_INET6, fresh=fresh)
        except MeasurementFailed:
            if family == "ipv6":
                raise
    if path.source_address is None:
        raise MeasurementFailed(Reason.NO_ADDRESS, f"interface {path.interface} has no IPv4 address")
    return path, resolver.resolve(path, host, fresh=fresh)


def of(address: str | None) -> Literal["ipv4", "ipv6"]:
    """Name the family of a numeric address."""
    return "ipv6" if address is not None and ":" in address else "ipv4"
