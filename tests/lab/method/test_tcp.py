import numpy as np
import pytest

from lab.method.cells import STEP_S, Cell
from lab.method.tcp import Begin, download

CONSTANT = Cell(name="constant 40", varying=False, step_bytes=np.full(1000, 40e6 / 8 * STEP_S))
ONE = Begin(np.zeros(1, dtype=np.int64), np.ones(1))

# RTT ms, streams, share of the rate in the first 2, 3, 5 and 10 s: real iperf3 with cubic over an emulated link of
# 40 Mbps with a queue of 500 kB, as measured for the project (METHOD.md 2.2).
MEASURED = [
    (20, 1, (0.980, 0.986, 0.992, 0.996)),
    (20, 4, (0.995, 0.997, 0.998, 0.999)),
    (50, 1, (0.920, 0.946, 0.968, 0.984)),
    (50, 4, (0.966, 0.977, 0.986, 0.993)),
    (100, 1, (0.792, 0.862, 0.917, 0.958)),
    (100, 4, (0.882, 0.925, 0.955, 0.978)),
]


@pytest.mark.parametrize(("rtt_ms", "streams", "shares"), MEASURED)
def test_the_first_seconds_are_those_of_real_flows(rtt_ms: int, streams: int, shares: tuple[float, ...]) -> None:
    transfers = download(CONSTANT, ONE, streams=streams, horizon_s=10, rtt_s=rtt_ms / 1e3)

    for seconds, measured in zip((2, 3, 5, 10), shares, strict=True):
        share = transfers.delivered_bytes[round(seconds / STEP_S), 0] / (seconds * 5e6)
        assert share == pytest.approx(measured, abs=0.035)


def test_nothing_is_delivered_faster_than_the_cell_lets_it_through() -> None:
    random = np.random.default_rng(7)
    cell = Cell(name="wild", varying=True, step_bytes=random.exponential(50_000, 3000))
    begin = Begin(random.integers(0, 3000, 50), np.full(50, 0.5))

    delivered = download(cell, begin, streams=4, horizon_s=5, rtt_s=0.05).delivered_bytes

    steps = (begin.steps + np.arange(500)[:, None]) % 3000
    assert (np.diff(delivered, axis=0) >= 0).all()
    assert (np.diff(delivered, axis=0) <= cell.step_bytes[steps] * 0.5 + 1e-6).all()


def test_a_test_that_ends_still_costs_what_is_under_way() -> None:
    transfers = download(CONSTANT, ONE, streams=4, horizon_s=6, rtt_s=0.05)

    # Measured for the project (METHOD.md 2.6): 1+5 s at 40 Mbps move 32.5 MB, 30 MB of them within the 6 s.
    assert transfers.late_bytes[-1, 0] == pytest.approx(2.5e6, rel=0.4)
