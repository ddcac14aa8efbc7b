"""The cable is pulled at any moment: before the connect, in the handshake, in slow start, in between, at the end.

What is pulled and when is drawn by a seed, so that a failure can be looked at again; more seeds find more moments.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent.measurements.throughput import ThroughputOptions
from lab.netns import veth
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.root

OWN_ADDRESS = "10.2.0.2"
OPTIONS: dict[str, Any] = {"duration_s": 1, "omit_s": 0, "connect_timeout_s": 1}
RUN_S = 3.0
"""Starting Python included; a little longer than an undisturbed run, so that the end of it is among the moments."""
WAY_OUT = "route add default via 10.2.0.1 dev wwan0 metric 700"


def unplug(site: Site) -> None:
    site.probe.ip("link delete wwan0")


def plug_in(site: Site) -> None:
    veth(site.probe, "wwan0", site.net, "cell")
    site.net.ip("address add 10.2.0.1/24 dev cell")
    site.probe.ip(f"address add {OWN_ADDRESS}/24 dev wwan0", WAY_OUT)
    site.shape(site.net, "cell", 40)
    site.shape(site.probe, "wwan0", 15)


PULLS = {
    "the modem is unplugged": (unplug, plug_in),
    "the interface goes down": (
        lambda site: site.probe.ip("link set wwan0 down"),
        lambda site: site.probe.ip("link set wwan0 up", WAY_OUT),
    ),
    "the far end goes away": (
        lambda site: site.net.ip("link set cell down"),
        lambda site: site.net.ip("link set cell up"),
    ),
    "the network falls silent": (
        lambda site: site.net.ip(f"route add blackhole {OWN_ADDRESS}/32"),
        lambda site: site.net.ip(f"route delete blackhole {OWN_ADDRESS}/32"),
    ),
    "the address is gone": (
        lambda site: site.probe.ip("address flush dev wwan0"),
        lambda site: site.probe.ip(f"address add {OWN_ADDRESS}/24 dev wwan0", WAY_OUT),
    ),
}


@pytest.mark.parametrize("seed", range(6))
def test_a_cable_pulled_at_any_moment_is_a_result_in_time_and_the_next_test_is_fine(seed: int, site: Site) -> None:
    rng = random.Random(seed)
    pull, heal = PULLS[sorted(PULLS)[seed % len(PULLS)]]
    moment_s, pause_s = rng.uniform(0, RUN_S), rng.choice([0.2, 1.5, None])  # None: it stays out until the test is over
    site.serve(5201, 5202)

    task = site.start(options=OPTIONS, impatient=True)
    time.sleep(moment_s)  # the moment itself
    pull(site)
    if pause_s is not None:
        time.sleep(pause_s)  # the outage itself
        heal(site)
    answer = task.answer()

    assert answer["elapsed_s"] <= ThroughputOptions(**OPTIONS).longest_s
    assert not [program for program in site.programs() if "iperf" in program]
    if "failed" in answer:
        assert answer["failed"]["reason"] in set(Reason) - {Reason.AGENT_ERROR, Reason.TOOL_FAILED}, answer
        assert answer["failed"]["detail"]
    elif answer["upload"] is None:
        assert answer["upload_failure"] not in {None, Reason.TOOL_FAILED}, answer
    if pause_s is None:
        heal(site)
    _next_is_fine(site)


def _next_is_fine(site: Site) -> None:
    site.serve(5203, 5204)
    deadline_s = time.monotonic() + 20
    while not site.probe.carrier("wwan0"):  # the kernel takes up to a second to notice
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    answer = site.measure(ports=[5203, 5204], options=OPTIONS)
    assert answer.get("upload") is not None, answer
    assert not {Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED} & set(answer["invalid"]), answer
