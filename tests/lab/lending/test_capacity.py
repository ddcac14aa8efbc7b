"""What a fleet needs of its test servers: the arithmetic, and the command."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING

import pytest

from agent.lease import LONGEST_WINDOW_S
from lab import cli
from lab.lending import rush
from lab.lending.capacity import LINK_SHARE, RARELY, SLOT_S, exceeded_rarely, need
from lab.lending.rush import busy_hour
from responder.leases import Book, Full, Lent, Refused

if TYPE_CHECKING:
    from wire.leases import LeaseRequest


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["capacity", "responder", *arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("probes", [1, 300, 3000])
def test_the_number_at_once_is_exceeded_as_rarely_as_said(probes: int) -> None:
    dice = random.Random(probes)
    one = need(probes, 8, mbps=45, peak=1)
    begins = sorted(dice.uniform(0, 86400) for _ in range(probes * 8))
    moments = [dice.uniform(SLOT_S, 86400) for _ in range(1500)]
    fuller = sum(sum(moment - SLOT_S < begin <= moment for begin in begins) > one.tests_at_once for moment in moments)
    assert fuller / len(moments) <= 3 * RARELY
    assert one.ports == 2 * one.tests_at_once


@pytest.mark.parametrize("seed", range(3))
def test_what_is_recommended_serves_a_busy_hour_almost_at_once(seed: int) -> None:
    one = need(300, 8, mbps=45, peak=3)
    rush = busy_hour(300, ports=one.ports, link_mbps=one.link_mbps * LINK_SHARE, mbps=45, seed=seed)
    assert rush.refused == 0
    assert rush.at_once_percent > 95
    assert rush.most_at_once <= one.tests_at_once
    half = busy_hour(300, ports=4, link_mbps=1000, mbps=45, seed=seed)
    assert half.most_at_once <= 2
    assert half.at_once_percent < rush.at_once_percent


def test_a_larger_crowd_needs_less_reserve() -> None:
    assert exceeded_rarely(0.01) == 1
    reserves = [exceeded_rarely(mean) / mean for mean in (1, 10, 100, 1000, 100_000)]
    assert reserves == sorted(reserves, reverse=True)


@pytest.mark.parametrize("mean", [0.3, 2.0, 30.0, 700.0])
def test_the_number_is_the_smallest_one(mean: float) -> None:
    number = exceeded_rarely(mean)
    below = [math.exp(-mean + n * math.log(mean) - math.lgamma(n + 1)) for n in range(number + 1)]
    assert sum(below) >= 1 - RARELY > sum(below[:-1])


def test_a_fleet_of_a_country_is_answered_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--probes", "100000", "--tests", "24", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert 3750 < document["needs"][0]["tests_at_once"] < 4000
    assert document["busy_hours"] == [None], "its play would take minutes"
    assert command("--probes", "100000", "--tests", "24") == 0
    assert "takes too long to play" in capsys.readouterr().out


def test_a_server_that_is_too_small_is_named_and_fails_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ["--probes", "300", "--tests", "8"]
    assert command(*fleet, "--ports", "4", "--link-mbps", "100", "--check", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["short"]) == 2
    assert document["needs"][0]["probes"] == 300
    assert document["busy_hours"][0]["at_once_percent"] < 50
    assert command(*fleet, "--ports", "64", "--link-mbps", "1000", "--check") == 0
    assert "300" in capsys.readouterr().out
    assert command() == 0
    assert "3000" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--check"], ["--probes", "0"], ["--probes", "9", "--check"], ["--peak", "-1"]], ids=str
)
def test_wrong_usage_is_said(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*wrong) == 2
    assert "capacity responder" in capsys.readouterr().err


def test_the_probes_of_a_busy_hour_wait_as_long_as_the_agent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    windows_s = set()

    class Watched(Book):
        def ask(self, request: LeaseRequest, now_s: float, token: str) -> Lent | Full | Refused:
            windows_s.add(request.window_s)
            return super().ask(request, now_s, token)

    monkeypatch.setattr(rush, "Book", Watched)
    busy_hour(10, ports=4, link_mbps=1000, mbps=45)
    assert windows_s == {LONGEST_WINDOW_S}
