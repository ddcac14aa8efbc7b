"""The fields of pings, look-ups, pages and capacities in InfluxDB, and a way as text. Pure, as `collector.points`."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from wire.measured import Capacity, Dns, Ping

if TYPE_CHECKING:
    from wire.measured import Echo, Hop, Web

Value = float | int | bool | str | None
Fields = dict[str, Value]


def service_fields(outcome: Ping | Dns | Web | Capacity) -> Fields:
    """Write the fields of one outcome."""
    match outcome:
        case Ping():
            return _ping(outcome)
        case Dns():
            return _dns(outcome)
        case Capacity():
            return _capacity(outcome)
        case _:
            return _web(outcome)


def way(hops: tuple[Hop, ...]) -> str | None:
    """Write a way on one line; a silent router is a star."""
    return ", ".join(map(_hop, hops)) or None


def _hop(hop: Hop) -> str:
    return f"{hop.ttl} {hop.address or '*'}" + (f" {hop.rtt_ms:g} ms" if hop.rtt_ms is not None else "")


def echo_fields(echo: Echo | None, prefix: str = "") -> Fields:
    """Write round trips, each field's name behind `prefix`; none where there are none."""
    if echo is None:
        return {}
    fields: Fields = {
        "sent": echo.sent,
        "received": echo.received,
        "loss_percent": echo.loss_percent,
        "rtt_min_ms": echo.rtt_min_ms,
        "rtt_mean_ms": echo.rtt_mean_ms,
        "rtt_median_ms": echo.rtt_median_ms,
        "rtt_max_ms": echo.rtt_max_ms,
        "jitter_ms": echo.jitter_ms,
        "jitter_rfc3550_ms": echo.jitter_rfc3550_ms,
        "jitter_variance_ms2": echo.jitter_variance_ms2,
    }
    return {prefix + name: value for name, value in fields.items()}


def _capacity(outcome: Capacity) -> Fields:
    return {
        "direction": outcome.direction,
        "received_mbps": outcome.received_mbps,
        "best_second_mbps": outcome.best_second_mbps,
        "asked_mbps": outcome.asked_mbps,
        "full": outcome.full,
        "loss_percent": outcome.loss_percent,
        "jitter_ms": outcome.jitter_ms,
        "payload_bytes": outcome.payload_bytes,
        "interface_bytes": outcome.interface_bytes,
        "tries": outcome.tries,
        "family": outcome.family,
    }


def _ping(outcome: Ping) -> Fields:
    found = outcome.mtu
    return {
        **echo_fields(outcome.icmp, "icmp_"),
        **echo_fields(outcome.tcp, "tcp_"),
        **echo_fields(outcome.http, "http_"),
        "mtu_bytes": found.mtu_bytes if found else None,
        "mtu_exact": found.exact if found else None,
        "mtu_black_hole": found.black_hole if found else None,
        "interface_mtu_bytes": found.interface_mtu_bytes if found else None,
        "failures": ", ".join(f"{name}: {reason}" for name, reason in outcome.failures.items()) or None,
        "family": outcome.family,
        "interface_bytes": outcome.interface_bytes,
    }


def _dns(outcome: Dns) -> Fields:
    good = [lookup.answer_ms for lookup in outcome.lookups if lookup.failure is None]
    times_ms = [answer_ms for answer_ms in good if answer_ms is not None]
    failures = [f"{lookup.name} {lookup.failure} ({lookup.server})" for lookup in outcome.lookups if lookup.failure]
    return {
        "lookups": len(outcome.lookups),
        "failed": len(failures),
        "answer_mean_ms": _rounded_mean(times_ms),
        "answer_max_ms": max(times_ms, default=None),
        "tcp": sum(lookup.tcp for lookup in outcome.lookups),
        "servers": " ".join(dict.fromkeys(lookup.server for lookup in outcome.lookups)) or None,
        "failures": ", ".join(failures) or None,
        "interface_bytes": outcome.interface_bytes,
    }


def _web(outcome: Web) -> Fields:
    """Means over the pages that came; the slowest of them; each step where it was made."""
    good = [page for page in outcome.pages if page.failure is None]
    failures = [
        f"{page.url} {page.failure}{f' {page.status}' if page.status else ''}" for page in outcome.pages if page.failure
    ]
    return {
        "pages": len(outcome.pages),
        "failed": len(failures),
        "dns_mean_ms": _rounded_mean([page.dns_ms for page in good]),
        "connect_mean_ms": _rounded_mean([page.connect_ms for page in good]),
        "tls_mean_ms": _rounded_mean([page.tls_ms for page in good]),
        "ttfb_mean_ms": _rounded_mean([page.ttfb_ms for page in good]),
        "total_mean_ms": _rounded_mean([page.total_ms for page in good]),
        "total_max_ms": max([page.total_ms for page in good if page.total_ms is not None], default=None),
        "body_bytes": sum(page.body_bytes for page in outcome.pages),
        "capped": sum(page.capped for page in outcome.pages),
        "ipv6": sum(":" in (page.address or "") for page in outcome.pages),
        "failures": ", ".join(failures) or None,
        "interface_bytes": outcome.interface_bytes,
    }


def _rounded_mean(values: list[float] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(fmean(known), 3) if known else None
