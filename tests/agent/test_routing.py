"""The plan of rules and routes: what it makes of any kernel, in a model of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.routing import (
    FIRST_TABLE,
    GUARD_METRIC,
    IPV4,
    IPV6,
    Kernel,
    LinkFacts,
    Route,
    Rule,
    changes,
    read_kernel,
    read_link,
    remarks,
    removal,
)

TABLES = range(FIRST_TABLE, FIRST_TABLE + 4)
WWAN0 = LinkFacts("viettel", "wwan0", 7100, up=True, addresses=("10.2.0.2",), gateway="10.2.0.1")


def carried_out(kernel: Kernel, links: list[LinkFacts]) -> Kernel:
    """Return what a kernel has after the changes, which it takes in their order."""
    rules, routes = list(kernel.rules), list(kernel.routes)
    known_rules = {rule.spec: rule for rule in rules}
    known_routes = {route.spec: route for route in routes}
    for link in links:
        for number in TABLES:
            for value in (*link.addresses, "10.9.9.9", "10.2.0.2", "10.2.0.3"):
                known_rules |= {rule.spec: rule for rule in (Rule("from", value, number),)}
            known_rules |= {rule.spec: rule for rule in (Rule("oif", link.interface, number),)}
        for gateway in (link.gateway, None):
            for destination in ("default", "10.2.0.0/24"):
                route = Route(link.table, destination, link.interface, gateway)
                known_routes[route.spec] = route
        guard = Route(link.table, "default", metric=GUARD_METRIC)
        known_routes[guard.spec] = guard
    for change in changes(IPV4, links, kernel):
        what, verb, spec = change.command.split(" ", 2)
        if what == "rule":
            rule = known_rules[spec]
            assert (rule in rules) == (verb == "del")
            if verb == "add":
                rules.append(rule)
            else:
                rules.remove(rule)
        elif verb == "replace":
            route = known_routes[spec]
            routes = [one for one in routes if one.place != route.place] + [route]
        else:
            routes.remove(known_routes[spec])
    return Kernel(tuple(rules), tuple(routes))


links = st.builds(
    LinkFacts,
    link=st.just("viettel"),
    interface=st.sampled_from(["wwan0", "usb0"]),
    table=st.sampled_from(TABLES),
    exists=st.booleans(),
    up=st.booleans(),
    at_once=st.booleans(),
    addresses=st.sampled_from([(), ("10.2.0.2",), ("10.2.0.3",), ("10.2.0.2", "10.2.0.3")]),
    gateway=st.sampled_from([None, "10.2.0.1", "10.2.0.254"]),
    special=st.sampled_from([(), (("10.2.0.0/24", None),)]),
)
some_links = st.lists(links, max_size=3, unique_by=lambda link: link.table)


@given(before=some_links, now=some_links)
def test_whatever_was_there_the_links_have_what_they_need_and_a_second_time_changes_nothing(
    before: list[LinkFacts], now: list[LinkFacts]
) -> None:
    kernel = carried_out(carried_out(Kernel(), before), now)
    assert changes(IPV4, now, kernel) == []
    known = {rule.table for rule in carried_out(Kernel(), before).rules}
    for link in now:
        if not link.exists and link.table not in known:
            continue
        assert Route(link.table, "default", metric=GUARD_METRIC) in kernel.routes
        assert Rule("oif", link.interface, link.table) in kernel.rules
        assert {Rule("from", address, link.table) for address in link.addresses} <= set(kernel.rules)
    assert {route.device for route in kernel.routes} <= {None, *(link.interface for link in now)}


def test_the_guard_stands_before_anything_leads_into_the_table() -> None:
    steps = [change.command for change in changes(IPV4, [WWAN0], Kernel())]
    assert steps[0] == f"route replace unreachable default metric {GUARD_METRIC} table 7100 protocol 112"
    assert [step.split()[0] for step in steps] == ["route", "route", "rule", "rule"]


def test_a_link_without_an_address_keeps_the_rule_of_its_last_one_and_loses_its_way_out() -> None:
    kernel = carried_out(Kernel(), [WWAN0])
    gone = WWAN0._replace(addresses=(), gateway=None, up=False)
    after = carried_out(kernel, [gone])
    assert Rule("from", "10.2.0.2", 7100) in after.rules
    assert [route for route in after.routes if route.device is not None] == []


def test_a_link_that_has_never_been_there_changes_nothing_and_one_that_has_gone_stays_guarded() -> None:
    absent = WWAN0._replace(exists=False, up=False, addresses=(), gateway=None)
    assert changes(IPV4, [absent], Kernel()) == []
    after = carried_out(carried_out(Kernel(), [WWAN0]), [absent])
    assert set(after.rules) == {Rule("oif", "wwan0", 7100), Rule("from", "10.2.0.2", 7100)}
    assert after.routes == (Route(7100, "default", metric=GUARD_METRIC),)


def test_a_new_address_removes_the_rule_of_the_old_one() -> None:
    kernel = carried_out(Kernel(), [WWAN0])
    (added, removed) = changes(IPV4, [WWAN0._replace(addresses=("10.2.0.3",))], kernel)
    assert added.command.startswith("rule add from 10.2.0.3 ")
    assert removed.command.startswith("rule del from 10.2.0.2 ")
    assert removed.why == "viettel does not have 10.2.0.2 any more"


def test_a_table_that_is_left_alone_is_never_stale() -> None:
    kernel = carried_out(Kernel(), [WWAN0])
    assert changes(IPV4, [], kernel, left_alone=[7100]) == []
    assert len(changes(IPV4, [], kernel)) == len(removal(IPV4, kernel)) == 4


def test_only_what_carries_our_mark_is_ours() -> None:
    kernel = read_kernel(
        rules=[
            {"priority": 0, "src": "all", "table": "255"},
            {"priority": 711, "src": "10.2.0.2", "table": "7100", "protocol": "112"},
            {"priority": 711, "src": "10.2.0.3", "table": "7100"},
            {"priority": 711, "src": "10.2.0.0", "srclen": 24, "table": "7100", "protocol": "112"},
            {"priority": 900, "src": "10.2.0.4", "table": "7100", "protocol": "112"},
            {"priority": 5, "src": "all", "table": "50"},
            {"priority": 32766, "src": "all", "table": "254"},
        ],
        routes=[
            {"dst": "default", "gateway": "10.1.0.1", "dev": "eth0", "protocol": "112"},
            {"dst": "default", "gateway": "10.1.0.1", "dev": "eth0", "table": "7100", "protocol": "16"},
            {"type": "7", "dst": "default", "table": "7100", "protocol": "112", "metric": GUARD_METRIC},
            {"dst": "default", "gateway": "10.1.0.1", "dev": "eth0", "table": "9999", "protocol": "112"},
        ],
        tables=TABLES,
    )
    assert kernel.rules == (Rule("from", "10.2.0.2", 7100),)
    assert kernel.routes == (Route(7100, "default", metric=GUARD_METRIC),)
    assert kernel.remarks == (
        "rule 5 is somebody else's and goes before ours: what it matches takes its way",
        "table 7100 has a route to default that is not ours and may lead elsewhere",
    )


def test_a_link_is_read_from_what_ip_says() -> None:
    addresses = [
        {
            "ifname": "usb0",
            "flags": ["BROADCAST", "UP", "LOWER_UP"],
            "addr_info": [
                {"family": "inet", "local": "192.168.8.100", "scope": "global"},
                {"family": "inet6", "local": "2001:db8::5", "scope": "global"},
                {"family": "inet6", "local": "2001:db8::6", "scope": "global", "tentative": True},
                {"family": "inet6", "local": "fe80::1", "scope": "link"},
            ],
        }
    ]
    routes_v4 = [
        {"dst": "default", "gateway": "10.1.0.1", "dev": "eth0"},
        {"dst": "default", "gateway": "192.168.8.1", "dev": "usb0", "metric": 700},
        {"dst": "192.168.8.0/24", "dev": "usb0", "protocol": "2"},
        {"dst": "10.50.0.0/16", "gateway": "192.168.8.1", "dev": "usb0"},
        {"type": "2", "dst": "192.168.8.100", "dev": "usb0", "table": "255"},
    ]
    found = read_link("a", "usb0", 7100, family=IPV4, addresses=addresses, routes=routes_v4)
    assert found == LinkFacts(
        "a",
        "usb0",
        7100,
        up=True,
        addresses=("192.168.8.100",),
        gateway="192.168.8.1",
        special=(("192.168.8.0/24", None), ("10.50.0.0/16", "192.168.8.1")),
    )
    shared = [
        {"dst": "default", "nexthops": [{"gateway": "fe80::9", "dev": "eth0"}, {"gateway": "fe80::8", "dev": "usb0"}]}
    ]
    found = read_link("a", "usb0", 7100, family=IPV6, addresses=addresses, routes=shared)
    assert (found.addresses, found.gateway) == (("2001:db8::5",), "fe80::8")


@pytest.mark.parametrize(
    ("link", "told"),
    [
        (WWAN0, ""),
        (WWAN0._replace(gateway=None, at_once=True), ""),
        (WWAN0._replace(gateway=None), "write it into agent.yaml (gateway)"),
        (WWAN0._replace(addresses=()), "has no address"),
        (WWAN0._replace(up=False), "is not up"),
        (WWAN0._replace(exists=False, up=False), "is not there"),
    ],
)
def test_what_keeps_a_table_from_leading_anywhere_is_said(link: LinkFacts, told: str) -> None:
    said = remarks(link)
    assert (told in said[0]) if told else (said == [])


def test_a_point_to_point_link_needs_no_gateway() -> None:
    ppp0 = LinkFacts("p", "ppp0", 7101, up=True, at_once=True, addresses=("10.64.0.2",), gateway="10.64.0.1")
    assert "default dev ppp0 metric 100" in " ".join(change.command for change in changes(IPV4, [ppp0], Kernel()))
