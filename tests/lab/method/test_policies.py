import numpy as np
import pytest

from lab.method.cells import PAYLOAD_SHARE, STEP_S
from lab.method.policies import HORIZON_S, POLICIES, Policy, capped, fixed, planned, until_stable
from lab.method.tcp import Transfers

STEPS = round(HORIZON_S / STEP_S)


def steady(*rates_mbps: float) -> Transfers:
    """Transfers at constant rates, with nothing late."""
    delivered = np.arange(STEPS + 1)[:, None] * STEP_S * np.array(rates_mbps) * 1e6 / 8
    return Transfers(delivered, np.zeros_like(delivered))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_policy_reads_a_steady_link_right(policy: Policy) -> None:
    outcomes = policy.rule(steady(10.0, 40.0, 150.0))

    assert outcomes.mbps == pytest.approx(np.array([10.0, 40.0, 150.0]) * PAYLOAD_SHARE)


def test_a_fixed_test_leaves_its_beginning_out_and_pays_for_it() -> None:
    slow_start = steady(80.0)
    slow_start.delivered_bytes[: round(1 / STEP_S)] *= 0.5

    outcomes = fixed(1, 2)(slow_start)

    assert outcomes.mbps[0] == pytest.approx(80.0 * PAYLOAD_SHARE)
    assert outcomes.cost_bytes[0] == pytest.approx(3 * 10e6 * 1.02)


def test_a_stable_test_ends_early_and_an_unstable_one_late() -> None:
    rising = steady(40.0, 40.0)
    rising.delivered_bytes[:, 1] *= np.linspace(0.2, 2, STEPS + 1)

    outcomes = until_stable(1, 0.05, least_s=2, most_s=9)(rising)

    assert outcomes.cost_bytes[0] == pytest.approx(3 * 5e6 * 1.02)
    assert outcomes.cost_bytes[1] > 8 * 5e6


def test_a_cap_and_a_planned_length_spend_alike_on_fast_and_slow_links() -> None:
    for rule in (capped(1, 20e6, least_s=0.5, most_s=9), planned(0.5, 4e6, least_s=0.1, most_s=9)):
        slow, fast = rule(steady(40.0, 80.0)).cost_bytes
        assert fast < 1.5 * slow
