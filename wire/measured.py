"""What a run found, by measurement: its figures, or why it has none."""

from __future__ import annotations

import msgspec

from wire.form import Message
from wire.radio import RadioReading, Technology
from wire.reasons import Invalid, Reason


class Hop(Message, frozen=True, kw_only=True):
    """A router on the way, as it gave itself away; without `address` nobody answered for this distance."""

    ttl: int
    address: str | None = None
    rtt_ms: float | None = None


class Failed(Message, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """A run without figures: counted as a failure, never as 0 Mbps.

    `trace`: the way towards the server over this link, as far as anybody answered, where the settings ask for it.
    """

    reason: Reason
    detail: str = ""
    radio: RadioReading | None = None
    trace: tuple[Hop, ...] = ()
    interface_bytes: int | None = None


class RoundTrips(Message, frozen=True, kw_only=True):
    """Echoes beside a test, in ms, by `tool` (irtt or ping)."""

    tool: str
    count: int
    median_ms: float
    p95_ms: float

    @property
    def responsiveness_rpm(self) -> float:
        """Round trips per minute, 60000 / median: of echoes beside one transfer, not of the HTTP/2 probes of RPM."""
        return 60_000 / self.median_ms if self.median_ms > 0 else 0.0


class Transfer(Message, frozen=True, kw_only=True):
    """One direction of a TCP test, from the receiver's counters.

    `mbps` is bytes / time over the whole transfer, slow start included (the regulator's mean, QCVN 34:2019); it is None
    where nobody saw the start. `steady_mbps` leaves out the first `omit_s` seconds. 1 Mbps = 10^6 bits/s.

    `tcp_rtt_*_ms`: the round trip that TCP itself saw, start included. `loaded`: echoes while the transfer ran.
    `family`: ipv4 or ipv6.
    """

    steady_mbps: float
    mbps: float | None = None
    payload_bytes: int
    elapsed_s: float
    omit_s: float = 0.0
    streams: int = 1
    congestion: str | None = None
    retransmits: int | None = None
    interval_s: float = 0.5
    interval_mbps: tuple[float, ...] = ()
    interface_bytes: int | None = None
    other_interfaces_bytes: int | None = None
    cut_short: Reason | None = None
    family: str | None = None
    tcp_rtt_min_ms: float | None = None
    tcp_rtt_mean_ms: float | None = None
    tcp_rtt_max_ms: float | None = None
    loaded: RoundTrips | None = None
    interface_back_bytes: int | None = None
    """What the link carried against the transfer's direction meanwhile."""
    cpu_share: float | None = None
    """Part of the transfer's time in which its process ran or waited for the processor, instead of for the network."""


class Machine(Message, frozen=True, kw_only=True):
    """How the probe's computer did during a test; None where it does not tell.

    `irq_percent` is the share of interrupts on the core that had most of them; `throttled`: its firmware lowered the
    clock or saw too little voltage.
    """

    cpu_percent: float | None = None
    irq_percent: float | None = None
    steal_percent: float | None = None
    throttled: bool | None = None


class Throughput(Message, frozen=True, kw_only=True, tag_field="kind", tag="throughput"):
    """A download and, if asked for, an upload; `upload_failure` says why an upload that was asked for is missing.

    `idle`: echoes before the test.
    """

    download: Transfer
    upload: Transfer | None = None
    upload_failure: Reason | None = None
    radio_before: RadioReading | None = None
    radio_after: RadioReading | None = None
    invalid: tuple[Invalid, ...] = ()
    idle: RoundTrips | None = None
    technologies_during: tuple[Technology, ...] = ()
    """What the modem said while the test ran, one after the other, each change once."""
    machine: Machine | None = None

    @property
    def valid(self) -> bool:
        """Whether this result is a sample, that is: counts for a verdict."""
        return not self.invalid


class Capacity(Message, frozen=True, kw_only=True, tag_field="kind", tag="capacity"):
    """What a link lets through of UDP, in one direction (`download` or `upload`); Mbps of payload at the receiver.

    `full`: less arrived than was to be sent (`asked_mbps`), so this is what the link can carry; else it can carry more.
    `best_second_mbps`: the best of its seconds (as RFC 9097 reports). `jitter_ms` as in RFC 3550. Never a sample.
    """

    direction: str
    received_mbps: float
    asked_mbps: float
    full: bool
    best_second_mbps: float | None = None
    loss_percent: float | None = None
    jitter_ms: float | None = None
    payload_bytes: int = 0
    elapsed_s: float = 0.0
    tries: int = 1
    interface_bytes: int | None = None
    family: str | None = None
    radio: RadioReading | None = None


class Echo(Message, frozen=True, kw_only=True):
    """Round trips as one tool saw them, and three things that are called jitter.

    `jitter_ms` is the mean of |difference of consecutive round trips| (irtt's IPDV mean). `jitter_rfc3550_ms` is the
    estimator of RFC 3550 section 6.4.1, run over round trips. `jitter_variance_ms2` is their variance, which i-Speed
    calls jitter (over round trips of HTTP); its unit is ms squared.
    """

    tool: str
    sent: int
    received: int
    loss_percent: float
    rtt_min_ms: float | None = None
    rtt_mean_ms: float | None = None
    rtt_median_ms: float | None = None
    rtt_max_ms: float | None = None
    jitter_ms: float | None = None
    jitter_rfc3550_ms: float | None = None
    jitter_variance_ms2: float | None = None


class Latency(Message, frozen=True, kw_only=True, tag_field="kind", tag="latency"):
    """UDP echo to the responder's host (loss up and down told apart), and ICMP as a second opinion."""

    udp: Echo
    loss_up_percent: float | None = None
    loss_down_percent: float | None = None
    icmp: Echo | None = None
    interface_bytes: int | None = None


class PathMtu(Message, frozen=True, kw_only=True):
    """The largest IP packet that reaches the host whole, in bytes, headers included.

    Without `exact` time was up first: this much passes, and perhaps more. `black_hole`: larger packets vanish, and no
    router says so.
    """

    mtu_bytes: int
    interface_mtu_bytes: int
    exact: bool = True
    black_hole: bool = False


class Ping(Message, frozen=True, kw_only=True, tag_field="kind", tag="ping"):
    """Round trips by several ways, each asked for or not, none of which needs a server of ours.

    `tcp`: time to connect. `http`: from the request to the first byte of the reply, on one kept connection, as i-Speed
    pings. What was asked for and failed has its reason in `failures`, by its name.
    """

    icmp: Echo | None = None
    tcp: Echo | None = None
    http: Echo | None = None
    mtu: PathMtu | None = None
    failures: dict[str, Reason] = msgspec.field(default_factory=dict)
    family: str | None = None
    interface_bytes: int | None = None


class Lookup(Message, frozen=True, kw_only=True):
    """One question to one name server. `answer_ms`: until its answer, good or bad, was there; `tcp`: it took TCP."""

    name: str
    server: str
    answer_ms: float | None = None
    failure: Reason | None = None
    addresses: int = 0
    ttl_s: int | None = None
    tcp: bool = False


class Dns(Message, frozen=True, kw_only=True, tag_field="kind", tag="dns"):
    """Names looked up over the link at its own name servers; at least one of them answered something."""

    lookups: tuple[Lookup, ...]
    interface_bytes: int | None = None


class Page(Message, frozen=True, kw_only=True):
    """One page fetched on a connection of its own: the document alone, not what it refers to.

    `dns_ms`, `connect_ms`, `tls_ms` are the lengths of these steps; `ttfb_ms` and `total_ms` count from the begin of
    the first step to the reply's first byte and its last. `capped`: the reply is longer, the rest was not fetched.
    """

    url: str
    address: str | None = None
    status: int | None = None
    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    ttfb_ms: float | None = None
    total_ms: float | None = None
    body_bytes: int = 0
    capped: bool = False
    failure: Reason | None = None


class Web(Message, frozen=True, kw_only=True, tag_field="kind", tag="web"):
    """A small set of pages fetched over the link, one after the other; at least one of them came."""

    pages: tuple[Page, ...]
    interface_bytes: int | None = None


class Radio(Message, frozen=True, kw_only=True, tag_field="kind", tag="radio"):
    """A look at the radio by itself: the last one, and how many looks it stands for.

    Looks that show nothing new are folded into the next record: `samples` counts them, itself included; `lowest` and
    `highest` hold the extremes of their levels where `samples` is over 1.
    """

    reading: RadioReading
    samples: int = 1
    lowest: RadioReading | None = None
    highest: RadioReading | None = None
