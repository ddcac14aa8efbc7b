"""`probe-lab bench throughput`: what it compares, and how it judges; one short round for real."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from lab.netns import NetworkError, Run
from lab.throughput.bench import Row
from lab.throughput.shaped import Carried, Shaped, Watch

SHARE = 1448 / 1514


def row(**changes: float) -> Row:
    fine = Row(
        direction="down",
        shaper_mbps=40.0,
        let_through_mbps=38.256,
        ours_mbps=38.25,
        command_mbps=38.25,
        ours_of_shaper=1.0,
        command_of_shaper=1.0,
        ours_of_command=1.0,
        whole_of_shaper=0.99,
    )
    return msgspec.structs.replace(fine, **changes)


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"ours_of_shaper": 0.971}, True),
        ({"ours_of_shaper": 0.969}, False),
        ({"ours_of_shaper": 1.031}, False),
        ({"ours_of_command": 1.011}, False),
        ({"ours_of_command": 0.989}, False),
        ({"whole_of_shaper": 0.96}, False),
        ({"command_of_shaper": 0.9}, True),  # the command's own affair
    ],
    ids=str,
)
def test_the_goal_is_3_per_cent_of_the_shaper_and_1_of_the_command(changes: dict[str, float], *, good: bool) -> None:
    assert row(**changes).good is good


def seen(*spans: tuple[float, float, float]) -> list[Carried]:
    """Fifty looks a second; each span: from when to when (s) at how many Mbps on layer 2."""
    carried = [Carried(0.0, 1000)]
    for index in range(1, 700):
        at_s = index * 0.02
        mbps = sum(rate for begin_s, end_s, rate in spans if begin_s < at_s <= end_s + 1e-9)
        carried.append(Carried(at_s, carried[-1].sent_bytes + int(mbps * 1e6 / 8 * 0.02)))
    return carried


def watch(*spans: tuple[float, float, float]) -> Watch:
    made = Watch.__new__(Watch)
    made._seen = {"down": seen(*spans), "up": [Carried(0.0, 5), Carried(1.0, 5)]}
    return made


def test_the_transfer_is_found_among_acknowledgements_and_its_start_is_left_out() -> None:
    """Two seconds of the other direction's acknowledgements, then 1 s at half the rate and 5 s at the whole one."""
    steady, whole = watch((1.0, 3.0, 1.5), (4.0, 5.0, 20.0), (5.0, 10.2, 40.0)).payload_mbps(
        "down", omit_s=1, length_s=5
    )
    assert steady == pytest.approx(40 * SHARE, rel=0.01)
    assert whole == pytest.approx((20 + 5 * 40) / 6 * SHARE, rel=0.01)


def test_where_nothing_was_sent_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(NetworkError, match="nothing was sent up"):
        watch((1.0, 2.0, 40.0)).payload_mbps("up", omit_s=1, length_s=1)


@pytest.mark.parametrize("arguments", [["--rates", "0"], ["--rounds", "0"], ["--seconds", "0"]])
def test_wrong_usage_is_said_in_a_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "lab.cli", "bench", "throughput", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.root
@pytest.mark.alone
def test_a_round_at_40_mbps_compares_like_with_like() -> None:
    command = [sys.executable, "-m", "lab.cli", "bench", "throughput", "--rates", "40", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--seconds", "1", "--json"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    assert [one["direction"] for one in found["rows"]] == ["down", "up"]
    for one in found["rows"]:
        assert one["let_through_mbps"] == pytest.approx(40 * SHARE, rel=0.1)
        assert one["ours_of_shaper"] == pytest.approx(1, abs=0.03)
        assert one["ours_of_command"] == pytest.approx(1, abs=0.03)
        assert one["whole_of_shaper"] == pytest.approx(1, abs=0.1)


@pytest.mark.root
def test_servers_that_cannot_listen_are_said_to_be_so() -> None:
    with Run() as world:
        link = Shaped(world)
        link.serve(5201)
        with pytest.raises(NetworkError, match="does not listen on port 5201"):
            link.serve(5201)
