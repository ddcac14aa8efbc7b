"""Names looked up at the link's own name servers: how long an answer takes, and what kind of answer it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agent import dns_client, dns_message, name_servers
from agent import path as paths
from agent.dns_message import Kind
from agent.measurements import carried
from agent.measurements.base import MeasurementFailed, require_usable
from wire.measured import Dns, Lookup
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.path import LinkPath

HostName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?\Z")]


LONGEST_S: Final = 60.0
"""Questions whose turn has not come by then are not put."""


class DnsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which names to look up; some 200 bytes for each name and server.

    `every_server`: ask all name servers of the link and not only the first. A question is put once, not again.
    """

    names: Annotated[tuple[HostName, ...], msgspec.Meta(min_length=1, max_length=20)]
    every_server: bool = False
    ipv6: bool = False
    timeout_s: Annotated[float, msgspec.Meta(ge=0.5, le=15)] = 5


def run(path: LinkPath, options: DnsOptions) -> Dns:
    """Ask for each name; raise MeasurementFailed if no question got any answer, good or bad."""
    require_usable(path)
    found = name_servers.of_link(path)
    if not found.servers:
        raise MeasurementFailed(
            Reason.NAME_NOT_RESOLVED,
            f"no name server of {path.interface} is known; give the link `resolvers` in agent.yaml",
        )
    servers = found.servers if options.every_server else found.servers[:1]
    before = paths.counters()
    give_up_s = time.monotonic() + LONGEST_S
    questions = [(server, name) for name in options.names for server in servers]
    lookups = tuple(_look_up(path, *question, options) for question in questions if time.monotonic() < give_up_s)
    silent = [lookup for lookup in lookups if lookup.answer_ms is None]
    if len(silent) == len(lookups):
        reason = silent[0].failure or Reason.TIMEOUT
        raise MeasurementFailed(reason, f"{', '.join(servers)} ({found.source}): no answer over {path.interface}")
    return Dns(lookups=lookups, interface_bytes=carried.since(path.interface, before))


def _look_up(path: LinkPath, server: str, name: str, options: DnsOptions) -> Lookup:
    kind = Kind.AAAA if options.ipv6 else Kind.A
    try:
        answer = dns_client.ask(path, server, name, kind, timeout_s=options.timeout_s)
    except dns_client.LookupFailed as failure:
        return Lookup(name=name, server=server, answer_ms=failure.answer_ms, failure=failure.reason, tcp=failure.tcp)
    except dns_message.NotAName:
        return Lookup(name=name, server=server, failure=Reason.NO_SUCH_NAME)
    return Lookup(
        name=name,
        server=server,
        answer_ms=answer.answer_ms,
        addresses=len(answer.addresses),
        ttl_s=answer.ttl_s,
        tcp=answer.tcp,
    )
