"""Mistakes in agent.yaml that types cannot show: name servers, pages, pings, places, reserves. Sees the raw document.

Pure.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WAYS = ("tcp_port", "http_url", "mtu")


def resolvers(links: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Name what looks like an address and is none."""
    for index, entry in links:
        named = entry.get("resolvers")
        for number, text in enumerate(named if isinstance(named, list) else []):
            try:
                ipaddress.ip_address(text)
            except ValueError:
                yield f"links[{index}].resolvers[{number}]", f"'{text}' is no address"


def services(jobs: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Name pings that ask for nothing, and addresses of the web whose port is none."""
    for index, entry in jobs:
        options, measurement = entry.get("options"), entry.get("measurement")
        if not isinstance(options, dict):
            continue
        if measurement == "ping":
            if options.get("icmp") is False and not any(options.get(way) for way in _WAYS):
                yield f"jobs[{index}].options", "asks for nothing; give it icmp, tcp_port, http_url or mtu"
            yield from _ports(f"jobs[{index}].options.http_url", [options.get("http_url")])
        if measurement == "web" and isinstance(options.get("urls"), list):
            yield from _ports(f"jobs[{index}].options.urls", options["urls"])


def shares(links: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Name places that there are not."""
    for index, entry in links:
        share = entry.get("share")
        place, of = (share.get("place"), share.get("of")) if isinstance(share, dict) else (None, None)
        if isinstance(place, int) and isinstance(of, int) and place >= of:
            yield f"links[{index}].share.place", f"places of {of} links are 0 to {of - 1}"


def reserves(links: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Name plans that keep all of a quota back."""
    for index, entry in links:
        plan = entry.get("plan")
        shares = [plan.get(key) for key in ("telemetry_percent", "by_hand_percent")] if isinstance(plan, dict) else []
        kept = sum(share for share in shares if isinstance(share, int))
        if kept >= 100:  # noqa: PLR2004  # percent
            text = f"telemetry_percent and by_hand_percent keep {kept} % of every quota back, and no scheduled test is "
            yield f"links[{index}].plan", text + "ever made; together they must be less than 100"


def _ports(where: str, urls: Iterable[object]) -> Iterator[tuple[str, str]]:
    for url in urls:
        try:
            _ = urlsplit(url).port if isinstance(url, str) else None
        except ValueError:
            yield where, f"'{url}' has a port over 65535"
