"""Outcomes of services measured (ping, DNS, web, UDP capacity) in one line, for the log and for a technician. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.averages import fmean
from wire.measured import Capacity, Dns, Ping, Web

if TYPE_CHECKING:
    from wire.measured import Lookup, Page
    from wire.results import Outcome


def describe_service(outcome: Outcome) -> str:
    """Say it; of other outcomes only the kind."""
    match outcome:
        case Ping():
            return _ping(outcome)
        case Dns(lookups=lookups):
            return _dns(lookups)
        case Web(pages=pages):
            return "; ".join(_page(page) for page in pages)
        case Capacity(direction=direction, received_mbps=mbps, asked_mbps=asked_mbps, full=full):
            more = "" if full else "; it can carry more"
            return f"UDP {direction}: {mbps:.1f} of {asked_mbps:.0f} Mbps arrived{more}"
        case _:
            return str(type(outcome).__struct_config__.tag)


def _dns(lookups: tuple[Lookup, ...]) -> str:
    times_ms = [one.answer_ms for one in lookups if one.answer_ms is not None and one.failure is None]
    mean = f", {fmean(times_ms):.1f} ms in the mean" if times_ms else ""
    failures = [f"; {one.name}: {one.failure}" for one in lookups if one.failure is not None]
    return f"{len(times_ms)} of {len(lookups)} names{mean}" + "".join(failures)


def _ping(outcome: Ping) -> str:
    told = []
    for name, echo in (("ICMP", outcome.icmp), ("TCP", outcome.tcp), ("HTTP", outcome.http)):
        if echo is not None:
            rtt = f" {echo.rtt_mean_ms:.1f} ms" if echo.rtt_mean_ms is not None else ""
            told.append(f"{name}{rtt}, loss {echo.loss_percent:.1f} %")
    if outcome.mtu is not None:
        hole = ", a black hole beyond" if outcome.mtu.black_hole else ""
        told.append(f"MTU {outcome.mtu.mtu_bytes}{'' if outcome.mtu.exact else ' or more'}{hole}")
    return "; ".join([*told, *(f"no {name}: {reason}" for name, reason in outcome.failures.items())])


def _page(page: Page) -> str:
    if page.failure is not None:
        return f"{page.url}: {page.failure}" + (f" ({page.status})" if page.status is not None else "")
    return f"{page.url}: first byte {page.ttfb_ms:.0f} ms, all {page.total_ms:.0f} ms"
