"""When the bench of stuck clients is passed. `probe-lab bench stuck --check` itself takes a minute, and root."""

from __future__ import annotations

import pytest

from lab.lending.stuck import Found, Freed


@pytest.mark.parametrize(("down_s", "up_s", "met"), [(8.0, 9.9, True), (8.0, 10.1, False), (None, 8.0, False)], ids=str)
def test_both_directions_must_be_free_in_time(down_s: float | None, up_s: float | None, met: bool) -> None:  # noqa: FBT001  # a table
    leased = [
        Freed(server="leased", direction="download", free_after_s=down_s),
        Freed(server="leased", direction="upload", free_after_s=up_s),
    ]
    stock = [Freed(server="stock", direction="download", free_after_s=51.0)]
    assert Found(iperf3="iperf 3.12", test_s=15, goal_s=10, freed=stock + leased).met is met
    assert not Found(iperf3="iperf 3.12", test_s=15, goal_s=10, freed=stock).met
