"""The arithmetic of `tc tbf`: how deep its bucket and its buffer must be, and what it lets through as TCP payload.

No I/O. Rates in Mbps (10^6 bits per second), as everywhere.
"""

from __future__ import annotations

from typing import Final

MTU_BYTES: Final = 1500
# tbf counts what the device sends: the IP packet and its Ethernet header (no preamble, no checksum: man tc-tbf).
_ETHERNET_BYTES: Final = 14
FRAME_BYTES: Final = MTU_BYTES + _ETHERNET_BYTES
# A segment's payload: less the headers of IPv4 (20) and TCP (20) and the time stamps with their padding (12, RFC 7323).
SEGMENT_BYTES: Final = MTU_BYTES - 20 - 20 - 12

# The bucket must bridge the gap between two wake-ups of the shaper on a busy machine, or the rate is not reached.
_BURST_S: Final = 0.010
_LEAST_BURST_BYTES: Final = 10 * FRAME_BYTES
# A base station buffers generously; 150 ms at the rate keeps TCP busy through any round trip a 4G link has.
_BUFFER_S: Final = 0.150
_LEAST_BUFFER_BYTES: Final = 40 * FRAME_BYTES

LEAST_MBPS: Final = 0.05
MOST_MBPS: Final = 1000.0


def goodput_mbps(rate_mbps: float) -> float:
    """TCP payload per second through a tbf of this rate, full segments with time stamps: rate x 1448 / 1514."""
    return rate_mbps * SEGMENT_BYTES / FRAME_BYTES


def tbf(rate_mbps: float) -> list[str]:
    """Give the arguments of `tc qdisc replace dev X root` for this rate; ValueError for one it cannot hold."""
    if not LEAST_MBPS <= rate_mbps <= MOST_MBPS:
        raise ValueError(f"a cell runs at {LEAST_MBPS:g} to {MOST_MBPS:g} Mbps, not at {rate_mbps:g}")
    bytes_per_s = rate_mbps * 1e6 / 8
    burst = max(_LEAST_BURST_BYTES, round(bytes_per_s * _BURST_S))
    limit = max(_LEAST_BUFFER_BYTES, round(bytes_per_s * _BUFFER_S)) + burst
    return ["tbf", "rate", f"{round(rate_mbps * 1e6)}bit", "burst", str(burst), "limit", str(limit)]
