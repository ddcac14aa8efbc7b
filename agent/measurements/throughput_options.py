"""How a throughput test is made: presets, lengths, caps, and how long it can take at worst. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from agent.measurements.round_trips import ENDS_WITHIN_S, idle_within_s

if TYPE_CHECKING:
    from wire.measured import RoundTrips

Family = Literal["auto", "ipv4", "ipv6"]
"""`auto`: IPv6 where link and server both have it, else IPv4. What was used is in the result."""
WIND_UP_S: Final = 5.0
"""What the exchange of results may take behind a full queue, after the transfer itself."""
KILL_AFTER_S: Final = 2.0
"""How long after its own deadline the child is killed."""
PROBE_TIMEOUT_S: Final = 2.0
PAUSE_S: Final = 1.0
"""Between two transfers: what the queue still holds of one must not count as traffic of others beside the next, and a
server that runs one test after another is refused now and then without it."""
RUNS_ON_S: Final = 0.4
HEADERS: Final = 1.05
FAR_MS: Final = 80.0
FAR_OMIT_S: Final = 2
"""At an idle round trip of so much slow start lasts longer: so much of the start is left out."""
CAP_TIMES: Final = 3
"""A byte cap below so many times the usual volume ends fast transfers more often than slow ones: the mean is biased."""

USUAL_MBPS: Final = 40.0
"""What a link is taken for until it has been measured: the download that the province asks for."""

_PRESETS: Final[dict[str | None, dict[str, Any]]] = {
    "short": {"duration_s": 0.5, "idle_s": 2.0, "loaded_latency": False, "omit_by_rtt": True},
    None: {"duration_s": 5, "idle_s": 0.0, "loaded_latency": False, "omit_by_rtt": False},
    "light": {"duration_s": 5, "idle_s": 5.0, "loaded_latency": True, "omit_by_rtt": True},
    "reference": {"duration_s": 9, "idle_s": 5.0, "loaded_latency": True, "omit_by_rtt": True},
}
"""Many short tests tell more of a month's mean than few long ones; reference tests tell more of their hour."""


class ThroughputOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to test: after 1 s of slow start 5 s measured (`reference`: 9 s, `short`: 0.5 s), 4 streams, cubic.

    A preset also sends echoes: for `idle_s` before the test, which wakes the radio, and with `loaded_latency` while it
    runs; a lease leaves some 5 s for the former (`agent.lease`). `omit_by_rtt`: 2 s of start are left out where the
    idle round trip is 80 ms or more. What stands beside a preset goes before it; without one there are no echoes.

    `congestion: null` leaves the kernel's choice, which the result names. `client_port`: the first local port; each
    stream takes the next, the upload begins above the download's. The kernel lets a port rest for 60 s.

    `max_bytes` is a safety net for the data plan, per transfer, as the interface counts: the transfer ends early, is
    kept and is no sample. It is raised to three times what the link's last test would have moved.
    """

    preset: Literal["short", "light", "reference"] | None = None
    duration_s: Annotated[float, msgspec.Meta(ge=0.5, le=60)] = -1
    idle_s: Annotated[float, msgspec.Meta(ge=0, le=8)] = -1
    loaded_latency: bool | None = None
    omit_by_rtt: bool | None = None
    omit_s: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    streams: Annotated[int, msgspec.Meta(ge=1, le=16)] = 4
    upload: bool = True
    congestion: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,15}\Z")] | None = "cubic"
    interval_s: Annotated[float, msgspec.Meta(ge=0.1, le=1)] = 0.5
    max_bytes: Annotated[int, msgspec.Meta(ge=1_000_000)] | None = None
    connect_timeout_s: Annotated[float, msgspec.Meta(ge=0.5, le=30)] = 5
    client_port: Annotated[int, msgspec.Meta(ge=1024, le=65_500)] | None = None
    family: Family = "ipv4"

    def __post_init__(self) -> None:
        """Fill in from the preset what was not said."""
        for name, value in _PRESETS[self.preset].items():
            if getattr(self, name) in {None, -1}:
                msgspec.structs.force_setattr(self, name, value)

    @property
    def transfers(self) -> int:
        """How many single-use servers a run needs."""
        return 2 if self.upload else 1

    @property
    def deadline_s(self) -> float:
        """When one transfer is cut off, counted from its start."""
        return self.length_s + self.connect_timeout_s + WIND_UP_S

    @property
    def length_s(self) -> float:
        """How long a transfer sends at most, its start included."""
        return max(self.omit_s, FAR_OMIT_S if self.omit_by_rtt else 0) + self.duration_s

    @property
    def longest_s(self) -> float:
        """How long a whole run can take at worst: what a lease must last."""
        each_s = self.deadline_s + KILL_AFTER_S + PROBE_TIMEOUT_S + (ENDS_WITHIN_S if self.loaded_latency else 0)
        return self.transfers * each_s + PAUSE_S + idle_within_s(self.idle_s)

    def usual_bytes(self, mbps: float) -> int:
        """Expect what a transfer moves at this speed, with headers and what is still in the queue at its end."""
        return int((self.length_s + RUNS_ON_S) * mbps * 1e6 / 8 * HEADERS)

    def cap_bytes(self, last_mbps: float | None) -> int | None:
        """Name the byte cap that is in force on a link of this speed."""
        if self.max_bytes is None or last_mbps is None:
            return self.max_bytes
        return max(self.max_bytes, CAP_TIMES * self.usual_bytes(last_mbps))

    def at_rtt(self, idle: RoundTrips | None) -> ThroughputOptions:
        """Choose how much of the start to leave out by the idle round trip."""
        if not self.omit_by_rtt or idle is None or idle.median_ms < FAR_MS:
            return self
        return msgspec.structs.replace(self, omit_s=max(self.omit_s, FAR_OMIT_S))
