"""A small set of web pages over one link: look-up, connection, TLS, first byte and end of each, timed apart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agent import path as paths
from agent.measurements import carried, http_client
from agent.measurements.base import MeasurementFailed, require_up
from agent.measurements.family import choose
from agent.measurements.http_client import Url
from agent.measurements.throughput_options import Family
from wire.measured import Page, Web
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.path import LinkPath


LONGEST_S: Final = 120.0
"""Pages whose turn has not come by then are not fetched."""


class WebOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pages to fetch: each one document, without what it refers to, and without following redirections.

    `max_bytes`: no more than this of a page is fetched. `ca_file`: whom to trust, PEM; else whom the machine trusts.
    """

    urls: Annotated[tuple[Url, ...], msgspec.Meta(min_length=1, max_length=10)]
    max_bytes: Annotated[int, msgspec.Meta(ge=1_000, le=10_000_000)] = 300_000
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 15
    family: Family = "ipv4"
    ca_file: Path | None = None


def run(path: LinkPath, options: WebOptions) -> Web:
    """Fetch each page once; raise MeasurementFailed if none came."""
    require_up(path)
    before = paths.counters()
    pages: list[Page] = []
    details: list[str] = []
    give_up_s = time.monotonic() + LONGEST_S
    for url in options.urls:
        if time.monotonic() > give_up_s:
            break
        page, detail = _page(path, url, options)
        pages.append(page)
        if detail:
            details.append(f"{url}: {detail}")
    if all(page.failure is not None for page in pages):
        raise MeasurementFailed(pages[0].failure or Reason.TIMEOUT, "; ".join(details), begun=True)
    return Web(pages=tuple(pages), interface_bytes=carried.since(path.interface, before))


def _page(path: LinkPath, url: str, options: WebOptions) -> tuple[Page, str]:
    """Fetch one page; return it, and in words why it failed."""
    begun_s = time.monotonic()
    try:
        over, address = choose(path, http_client.parts_of(url).host, options.family, fresh=True)
    except MeasurementFailed as failure:
        return Page(url=url, failure=failure.reason), failure.detail
    dns_ms = round((time.monotonic() - begun_s) * 1e3, 3)
    left_s = max(1.0, options.timeout_s - dns_ms / 1e3)
    answer = http_client.fetch(
        over, url, address, timeout_s=left_s, max_bytes=options.max_bytes, ca_file=options.ca_file
    )
    page = Page(
        url=url,
        address=address,
        status=answer.status,
        dns_ms=dns_ms,
        connect_ms=answer.connect_ms,
        tls_ms=answer.tls_ms,
        ttfb_ms=round(dns_ms + answer.ttfb_ms, 3) if answer.ttfb_ms is not None else None,
        total_ms=round(dns_ms + answer.total_ms, 3) if answer.total_ms is not None else None,
        body_bytes=answer.body_bytes,
        capped=answer.capped,
        failure=answer.failure,
    )
    return page, answer.detail
