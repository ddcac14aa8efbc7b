from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import sites
from lab.modem import DIALECTS, OPERATORS

COUNTS = st.integers(min_value=1, max_value=sites.MOST_SITES)


def test_the_default_fleet_is_three_sites_one_of_them_with_two_operators() -> None:
    plan = sites.fleet(3)
    assert [site.commune for site in plan] == ["03408", "03451", "03478"]
    assert [[link.operator for link in site.links] for site in plan] == [
        ["viettel", "vinaphone"],
        ["vietnamobile"],
        ["mobifone"],
    ]
    rates = [(link.down_mbps, link.up_mbps) for site in plan for link in site.links]
    assert rates == [(62, 21), (38, 12), (9, 3), (90, 30)]
    assert [site.uplink for site in plan] == ["eth0", "cell", "eth0"]


@given(COUNTS)
def test_every_fleet_can_be_built(count: int) -> None:
    plan = sites.fleet(count)
    links = [link for site in plan for link in site.links]
    assert len(plan) == count
    assert len({site.probe_id for site in plan}) == count
    assert len({link.number for link in links}) == len(links) == count + 1
    assert {link.operator for link in links} <= set(OPERATORS)
    assert {link.modem for link in links} <= set(DIALECTS)
    assert all(30 <= link.rtt_ms <= 50 for link in links)


@given(COUNTS)
def test_a_smaller_fleet_is_the_beginning_of_a_larger_one(count: int) -> None:
    assert sites.fleet(sites.MOST_SITES)[:count] == sites.fleet(count)


def test_codes_are_text_with_their_leading_zero() -> None:
    assert all(len(site.commune) == 5 and site.commune[0] == "0" for site in sites.fleet(sites.MOST_SITES))


def test_vietnamese_names_become_plain_ones() -> None:
    assert sites.slug("Đoàn Kết") == "doan-ket"
    assert sites.slug("Pa Ủ") == "pa-u"


def test_on_loopback_every_probe_has_one_link() -> None:
    assert [[link.interface for link in site.links] for site in sites.on_loopback(sites.fleet(2))] == [["lo"], ["lo"]]


@pytest.mark.parametrize("count", [0, sites.MOST_SITES + 1])
def test_an_impossible_fleet_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 38 sites"):
        sites.fleet(count)
