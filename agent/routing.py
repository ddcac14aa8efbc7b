"""Which rules and routes keep a link's packets on the link, and what is to change for that. Pure.

Each link has a routing table of its own, numbered by its place in agent.yaml. Two rules lead into it, for IPv4 and IPv6
alike: `oif` for what is bound to the link's device (every test), and `from` for what has one of its addresses. In it
are what is on the link itself, the way out, and an `unreachable` guard: where there is no way out packets end there,
and do not fall through to the main table and out by another interface.

Ours carry the protocol number 112 and the priorities 710 and 711; nothing else is ever changed or removed. `oif` goes
first: two sticks may both have given us 192.168.8.100, and only the device tells their packets apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Family = Literal[4, 6]
IPV4: Final = 4
IPV6: Final = 6

PROTOCOL: Final = 112
"""Who made a route or a rule (rtnetlink(7), rtm_protocol): unused in iproute2's table of protocols."""
FIRST_TABLE: Final = 7100
MOST_LINKS: Final = 64
BY_DEVICE: Final = 710
BY_ADDRESS: Final = 711
"""Priorities: before those of VPN programs (Tailscale 5210, wg-quick 32764), after the kernel's own (0)."""
METRIC: Final = 100
GUARD_METRIC: Final = 4_278_198_272
"""As NetworkManager ranks its own last resort: whatever route anybody adds to the table goes before it."""

_MAIN: Final = 254  # linux/rtnetlink.h
_UNREACHABLE: Final = "7"  # the same: RTN_UNREACHABLE


class Rule(NamedTuple):
    """One policy rule of ours."""

    selector: Literal["oif", "from"]
    value: str
    table: int

    @property
    def spec(self) -> str:
        """As `ip rule add` and `ip rule del` take it."""
        priority = BY_DEVICE if self.selector == "oif" else BY_ADDRESS
        return f"{self.selector} {self.value} lookup {self.table} priority {priority} protocol {PROTOCOL}"


class Route(NamedTuple):
    """One route of ours; without a device it is the guard."""

    table: int
    destination: str
    device: str | None = None
    gateway: str | None = None
    metric: int = METRIC

    @property
    def place(self) -> tuple[int, str, int]:
        """What `ip route replace` goes by: there is one route in one place."""
        return (self.table, self.destination, self.metric)

    @property
    def spec(self) -> str:
        """As `ip route replace` and `ip route del` take it."""
        way = "unreachable " if self.device is None else ""
        way += self.destination
        if self.gateway is not None:
            way += f" via {self.gateway}"
        if self.device is not None:
            way += f" dev {self.device}" + (" onlink" if self.gateway is not None else "")
        return f"{way} metric {self.metric} table {self.table} protocol {PROTOCOL}"


class LinkFacts(NamedTuple):
    """A link's interface as the kernel shows it, in one family. `at_once`: needs no gateway (point-to-point, no ARP).

    `special` are the main table's other routes by this interface, mostly without a gateway: what is on the link itself.
    """

    link: str
    interface: str
    table: int
    exists: bool = True
    up: bool = False
    at_once: bool = False
    addresses: tuple[str, ...] = ()
    gateway: str | None = None
    special: tuple[tuple[str, str | None], ...] = ()


class Kernel(NamedTuple):
    """What the kernel has, in one family: ours, and remarks on what others have put in our way."""

    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()
    remarks: tuple[str, ...] = ()


class Change(NamedTuple):
    """One `ip` command (without `ip -4`), and why."""

    family: Family
    command: str
    why: str


def read_link(
    name: str,
    interface: str,
    table: int,
    *,
    family: Family,
    addresses: Iterable[dict[str, Any]],
    routes: Iterable[dict[str, Any]],
    gateway: str | None = None,
) -> LinkFacts:
    """Read one link from `ip -N -j address` and `ip -N -j route show table all`; `gateway` says what they do not."""
    device: dict[str, Any] = next((entry for entry in addresses if entry.get("ifname") == interface), {})
    flags = set(device.get("flags", ()))
    found = [
        str(entry["local"])
        for entry in device.get("addr_info", ())
        if entry.get("family") == ("inet" if family == IPV4 else "inet6")
        and entry.get("scope") in {"global", "0"}  # `-N` prints numbers
        and not {"tentative", "dadfailed"} & set(entry)
    ]
    special = []
    for route in _in_table(routes, _MAIN):
        for hop in route.get("nexthops", [route]):
            if hop.get("dev") != interface or "type" in route:
                continue
            via = hop.get("gateway")
            if route.get("dst") == "default":
                gateway = gateway or via
            else:
                special.append((str(route["dst"]), via))
    return LinkFacts(
        link=name,
        interface=interface,
        table=table,
        exists=bool(device),
        up="UP" in flags,
        at_once=bool({"POINTOPOINT", "NOARP"} & flags),
        addresses=tuple(found),
        gateway=gateway,
        special=tuple(dict.fromkeys(special)),
    )


def read_kernel(*, rules: Iterable[dict[str, Any]], routes: Sequence[dict[str, Any]], tables: range) -> Kernel:
    """Read `ip -N -j rule` and `ip -N -j route show table all`: what is ours in `tables`, and what goes before it."""
    ours: list[Rule] = []
    remarks: list[str] = []
    for rule in rules:
        priority, number = int(rule.get("priority", 0)), str(rule.get("table", ""))
        leads_to = int(number) if number.isdigit() else None
        if str(rule.get("protocol")) == str(PROTOCOL) and leads_to is not None and leads_to in tables:
            if priority == BY_DEVICE and "oif" in rule:
                ours.append(Rule("oif", str(rule["oif"]), leads_to))
            elif priority == BY_ADDRESS and rule.get("src") not in {None, "all"} and "srclen" not in rule:
                ours.append(Rule("from", str(rule["src"]), leads_to))
        elif 0 < priority <= BY_ADDRESS and leads_to not in tables:
            remarks.append(f"rule {priority} is somebody else's and goes before ours: what it matches takes its way")
    mine = []
    for table in tables:
        for route in _in_table(routes, table):
            if str(route.get("protocol")) == str(PROTOCOL):
                mine.append(_route(route, table))
            elif route.get("type") != _UNREACHABLE and Rule("oif", str(route.get("dev")), table) not in ours:
                remarks.append(
                    f"table {table} has a route to {route.get('dst')} that is not ours and may lead elsewhere"
                )
    return Kernel(tuple(ours), tuple(mine), tuple(dict.fromkeys(remarks)))


def changes(
    family: Family, links: Sequence[LinkFacts], kernel: Kernel, *, left_alone: Iterable[int] = ()
) -> list[Change]:
    """Say what is to change, in an order in which nothing can leak: guard, routes, rules; then what is stale.

    What is ours and belongs to none of `links` is stale, but for the tables `left_alone`. A link that has gone, or has
    no address, keeps the rule of its last one: packets that still carry it meet the guard. One that has never been
    there gets nothing yet.
    """
    found: list[Change] = []
    routes: set[Route] = set()
    rules: set[Rule] = set()
    for link in links:
        if not link.exists and not any(rule.table == link.table for rule in kernel.rules):
            continue  # it has never been there: nothing of it can leak
        for route, why in _routes(link):
            routes.add(route)
            found += [] if route in kernel.routes else [Change(family, f"route replace {route.spec}", why)]
        for rule, why in _rules(link, kernel):
            rules.add(rule)
            found += [] if rule in kernel.rules else [Change(family, f"rule add {rule.spec}", why)]
    places = {route.place for route in routes}
    kept = set(left_alone)
    known = {link.table: link for link in links}
    for stale in kernel.rules:
        if stale not in rules and stale.table not in kept:
            why = (
                f"{known[stale.table].link} does not have {stale.value} any more"
                if stale.table in known
                else f"no link of agent.yaml has table {stale.table}"
            )
            found.append(Change(family, f"rule del {stale.spec}", why))
    for old in kernel.routes:
        if old not in routes and old.place not in places and old.table not in kept:
            found.append(Change(family, f"route del {old.spec}", "it leads where the link is not any more"))
    return found


def sharing(routes: Iterable[dict[str, Any]], interfaces: Iterable[str]) -> list[list[str]]:
    """Group the interfaces that are directly in one network, where one of `interfaces` is among them."""
    networks: dict[str, list[str]] = {}
    for route in _in_table(routes, _MAIN):
        if "gateway" not in route and "type" not in route and "/" in str(route.get("dst")):
            networks.setdefault(str(route["dst"]), []).append(str(route.get("dev")))
    wanted = set(interfaces)
    return [sorted(set(group)) for group in networks.values() if len(set(group)) > 1 and wanted & set(group)]


def removal(family: Family, kernel: Kernel) -> list[Change]:
    """Say how to remove what is ours, rules first."""
    return [
        *(Change(family, f"rule del {rule.spec}", "ours") for rule in kernel.rules),
        *(Change(family, f"route del {route.spec}", "ours") for route in kernel.routes),
    ]


def remarks(link: LinkFacts) -> list[str]:
    """Say what keeps a link's table from leading anywhere."""
    if not link.exists:
        return [f"{link.interface} is not there"]
    if not link.up:
        return [f"{link.interface} is not up; until it is, its table holds the guard alone"]
    if not link.addresses:
        return [f"{link.interface} has no address; until it has one, its table holds the guard alone"]
    if link.gateway is None and not link.at_once:
        return [
            f"{link.interface} has no default route, so its gateway is not known: write it into agent.yaml (gateway)"
        ]
    return []


def _rules(link: LinkFacts, kernel: Kernel) -> Iterable[tuple[Rule, str]]:
    by_device = Rule("oif", link.interface, link.table)
    yield by_device, f"what is bound to {link.interface}, as every test is, looks into the link's own table first"
    for address in link.addresses:
        yield (
            Rule("from", address, link.table),
            f"what has {address} as its source leaves by {link.interface} or not at all",
        )
    if not link.addresses:
        for rule in kernel.rules:
            if rule.selector == "from" and rule.table == link.table:
                yield rule, f"the last address of {link.interface}"


def _routes(link: LinkFacts) -> Iterable[tuple[Route, str]]:
    guard = Route(link.table, "default", metric=GUARD_METRIC)
    yield guard, f"the guard: without a way out by {link.interface} packets end here, and leave by nothing else"
    if not link.up or not link.addresses:
        return
    for destination, via in link.special:
        why = f"hosts on {link.interface} itself" if via is None else f"as in the main table, behind {via}"
        yield Route(link.table, destination, link.interface, via), why
    if link.at_once:
        yield Route(link.table, "default", link.interface), f"{link.interface} is point-to-point: all is on the link"
    elif link.gateway is not None:
        way = Route(link.table, "default", link.interface, link.gateway)
        yield way, f"the way out by {link.interface}: its gateway {link.gateway}"


def _in_table(routes: Iterable[dict[str, Any]], table: int) -> list[dict[str, Any]]:
    """Choose the routes of a table; `ip` leaves out the main table's number."""
    return [route for route in routes if str(route.get("table", _MAIN)) == str(table)]


def _route(route: dict[str, Any], table: int) -> Route:
    """Read a route of ours; one that is not as we make them differs from all that is wanted, and is stale."""
    unreachable = route.get("type") == _UNREACHABLE
    return Route(
        table,
        str(route.get("dst")),
        None if unreachable else str(route.get("dev")),
        route.get("gateway"),
        int(route.get("metric", 0)),
    )
