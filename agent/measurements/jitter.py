"""Round trips, summed up: one Echo, with every jitter by its own definition. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from base.averages import fmean, median, pvariance
from wire.measured import Echo

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAIN: Final = 16  # RFC 3550 section 6.4.1: "the gain parameter 1/16 gives a good noise reduction ratio"


def echo(tool: str, rtts_ms: Sequence[float | None]) -> Echo:
    """Sum up round trips in order of sending; None is one that did not come back."""
    came = [rtt_ms for rtt_ms in rtts_ms if rtt_ms is not None]
    steps_ms = [abs(one - other) for one, other in pairwise(rtts_ms) if one is not None and other is not None]
    return Echo(
        tool=tool,
        sent=len(rtts_ms),
        received=len(came),
        loss_percent=round(100 * (len(rtts_ms) - len(came)) / len(rtts_ms), 2) if rtts_ms else 0.0,
        rtt_min_ms=round(min(came), 3) if came else None,
        rtt_mean_ms=round(fmean(came), 3) if came else None,
        rtt_median_ms=round(median(came), 3) if came else None,
        rtt_max_ms=round(max(came), 3) if came else None,
        jitter_ms=round(fmean(steps_ms), 3) if steps_ms else None,
        jitter_rfc3550_ms=rfc3550_jitter_ms(came),
        jitter_variance_ms2=variance_ms2(came),
    )


def rfc3550_jitter_ms(rtts_ms: Sequence[float]) -> float | None:
    """Estimate the interarrival jitter of RFC 3550 section 6.4.1, J += (|D| - J) / 16 from 0, over round trips.

    D, the difference of two packets' transit times, is here that of two round trips, so both directions count. Packets
    that were lost are passed over, as there. It starts at 0 and needs some 50 packets to forget that.
    """
    if len(rtts_ms) < 2:  # noqa: PLR2004  # a difference needs two
        return None
    jitter_ms = 0.0
    for earlier_ms, later_ms in pairwise(rtts_ms):
        jitter_ms += (abs(later_ms - earlier_ms) - jitter_ms) / _GAIN
    return round(jitter_ms, 3)


def variance_ms2(rtts_ms: Sequence[float]) -> float | None:
    """Return the (population) variance of round trips: what speedtest.vn's method page calls jitter."""
    return round(pvariance(rtts_ms), 3) if len(rtts_ms) > 1 else None
