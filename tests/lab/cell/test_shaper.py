"""What tbf is told, and what it lets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.cell import shaper


def test_goodput_is_the_payload_of_a_full_frame() -> None:
    assert shaper.goodput_mbps(40) == pytest.approx(40 * 1448 / 1514)
    assert shaper.goodput_mbps(40) == pytest.approx(38.3, abs=0.05)  # iperf3 over tbf 40 Mbps has measured 38.3


@given(st.floats(shaper.LEAST_MBPS, shaper.MOST_MBPS))
def test_every_rate_has_a_bucket_for_ten_frames_and_a_buffer_beyond_it(rate_mbps: float) -> None:
    kind, *pairs = shaper.tbf(rate_mbps)
    options = dict(zip(pairs[::2], pairs[1::2], strict=True))
    burst, limit = int(options["burst"]), int(options["limit"])
    assert kind == "tbf"
    assert burst >= 10 * shaper.FRAME_BYTES
    assert limit - burst >= 0.149 * rate_mbps * 1e6 / 8
    assert abs(int(options["rate"].removesuffix("bit")) - rate_mbps * 1e6) <= 1


@pytest.mark.parametrize("rate_mbps", [0, -1, 0.01, 1001, float("nan"), float("inf")])
def test_a_rate_no_cell_has_is_refused(rate_mbps: float) -> None:
    with pytest.raises(ValueError, match=r"a cell runs at 0\.05 to 1000 Mbps"):
        shaper.tbf(rate_mbps)
