"""Every message that travels, as frozen structs. A field added after a release has a default; units stand in names.

A result's identity is (probe_id, spool_id, seq). Unknown fields are tolerated when read, so that a newer probe can
talk to an older collector; the collector's journal keeps the bytes as they came.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from wire.radio import RadioReading, Technology

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62})$")]
"""A probe, site, link or job: lower-case letters, digits, dot, dash, underscore; safe in a topic and in a file name."""

Utc = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware time stamp; always UTC on the wire."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Common form: immutable, keywords only, defaults left out on the wire (cellular bytes cost money)."""


# --- what a run was, and what it used -------------------------------------------------------------------------------


class Job(_Message, frozen=True, kw_only=True):
    """What the schedule wanted. `due` is the planned instant; None for a run asked for by hand."""

    name: Name
    measurement: str
    due: Utc | None = None


class Server(_Message, frozen=True, kw_only=True):
    """The far end of a test; `lease` and `responder` are None for a plain iperf3 server from the configuration."""

    host: str
    ports: tuple[int, ...] = ()
    responder: str | None = None
    lease: str | None = None
    load_percent: float | None = None
    """How much of its network the responder said was in use when it lent the server."""


class Route(_Message, frozen=True, kw_only=True):
    """The path that carried a run, as found, not as asked for."""

    interface: str
    source_address: str | None = None
    operator: str | None = None
    iccid_sha256: str | None = None
    modem: str | None = None
    server: Server | None = None


class Clock(_Message, frozen=True, kw_only=True):
    """How far the wall clock can be trusted. `synchronised` is None where nothing could be asked.

    `source`: who says so (chrony, timesyncd, kernel); `age_s`: how long ago it was last synchronised, where that is
    told. `correction_s`: what was added to `started_at` after the clock was set; None where nothing had to be.
    """

    synchronised: bool | None = None
    estimated_error_ms: float | None = None
    source: str | None = None
    age_s: int | None = None
    correction_s: float | None = None


# --- outcomes -------------------------------------------------------------------------------------------------------


class Reason(StrEnum):
    """Why a run has no figures. The list is closed: a new reason is a new release."""

    NO_LEASE = "no_lease"
    BUSY = "busy"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    NAME_NOT_RESOLVED = "name_not_resolved"
    NO_SUCH_NAME = "no_such_name"
    SERVER_FAILURE = "server_failure"
    MALFORMED = "malformed"
    TLS_FAILED = "tls_failed"
    HTTP_STATUS = "http_status"
    CUT_OFF = "cut_off"
    LINK_DOWN = "link_down"
    LINK_LOST = "link_lost"
    NO_ADDRESS = "no_address"
    WRONG_PATH = "wrong_path"
    NO_MODEM = "no_modem"
    MODEM_SILENT = "modem_silent"
    MODEM_ERROR = "modem_error"
    NO_REGISTRATION = "no_registration"
    SIM_ABSENT = "sim_absent"
    SIM_LOCKED = "sim_locked"
    QUOTA_REACHED = "quota_reached"
    BUDGET_SHORT = "budget_short"
    TOOL_MISSING = "tool_missing"
    TOOL_FAILED = "tool_failed"
    INTERRUPTED = "interrupted"
    AGENT_ERROR = "agent_error"


class Invalid(StrEnum):
    """Why a throughput result is kept and shown but is no sample."""

    NOT_CELLULAR_4G = "not_cellular_4g"
    RADIO_UNKNOWN = "radio_unknown"
    ROAMING = "roaming"
    BYTES_NOT_ACCOUNTED = "bytes_not_accounted"
    OTHER_INTERFACE_USED = "other_interface_used"
    GAP_IN_TRANSFER = "gap_in_transfer"
    CUT_SHORT = "cut_short"
    BYTE_CAP = "byte_cap"
    TOO_SHORT = "too_short"
    FELL_BACK = "fell_back"
    OTHER_TRAFFIC = "other_traffic"
    QUOTA_REACHED = "quota_reached"
    PLAN_THROTTLED = "plan_throttled"
    CPU_STARVED = "cpu_starved"
    DEVICE_THROTTLED = "device_throttled"
    CLOCK_NOT_GOOD = "clock_not_good"
    CLOCK_STEPPED = "clock_stepped"
    SERVER_LOADED = "server_loaded"
    LEASE_EXPIRED = "lease_expired"


class Hop(_Message, frozen=True, kw_only=True):
    """A router on the way, as it gave itself away; without `address` nobody answered for this distance."""

    ttl: int
    address: str | None = None
    rtt_ms: float | None = None


class Failed(_Message, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """A run without figures: counted as a failure, never as 0 Mbps.

    `trace`: the way towards the server over this link, as far as anybody answered, where the settings ask for it.
    """

    reason: Reason
    detail: str = ""
    radio: RadioReading | None = None
    trace: tuple[Hop, ...] = ()
    interface_bytes: int | None = None


class RoundTrips(_Message, frozen=True, kw_only=True):
    """Echoes beside a test, in ms, by `tool` (irtt or ping)."""

    tool: str
    count: int
    median_ms: float
    p95_ms: float

    @property
    def responsiveness_rpm(self) -> float:
        """Round trips per minute, 60000 / median: of echoes beside one transfer, not of the HTTP/2 probes of RPM."""
        return 60_000 / self.median_ms if self.median_ms > 0 else 0.0


class Transfer(_Message, frozen=True, kw_only=True):
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


class Machine(_Message, frozen=True, kw_only=True):
    """How the probe's computer did during a test; None where it does not tell.

    `irq_percent` is the share of interrupts on the core that had most of them; `throttled`: its firmware lowered the
    clock or saw too little voltage.
    """

    cpu_percent: float | None = None
    irq_percent: float | None = None
    steal_percent: float | None = None
    throttled: bool | None = None


class Throughput(_Message, frozen=True, kw_only=True, tag_field="kind", tag="throughput"):
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


class Capacity(_Message, frozen=True, kw_only=True, tag_field="kind", tag="capacity"):
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


class Echo(_Message, frozen=True, kw_only=True):
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


class Latency(_Message, frozen=True, kw_only=True, tag_field="kind", tag="latency"):
    """UDP echo to the responder's host (loss up and down told apart), and ICMP as a second opinion."""

    udp: Echo
    loss_up_percent: float | None = None
    loss_down_percent: float | None = None
    icmp: Echo | None = None
    interface_bytes: int | None = None


class PathMtu(_Message, frozen=True, kw_only=True):
    """The largest IP packet that reaches the host whole, in bytes, headers included.

    Without `exact` time was up first: this much passes, and perhaps more. `black_hole`: larger packets vanish, and no
    router says so.
    """

    mtu_bytes: int
    interface_mtu_bytes: int
    exact: bool = True
    black_hole: bool = False


class Ping(_Message, frozen=True, kw_only=True, tag_field="kind", tag="ping"):
    """Round trips by several ways, each asked for or not, none of which needs a server of ours.

    `tcp`: time to connect. `http`: from the request to the first byte of the reply, on one kept connection, as i-Speed
    pings. What was asked for and failed has its reason in `failures`, by its name.
    """

    icmp: Echo | None = None
    tcp: Echo | None = None
    http: Echo | None = None
    mtu: PathMtu | None = None
    failures: dict[str, Reason] = {}
    family: str | None = None
    interface_bytes: int | None = None


class Lookup(_Message, frozen=True, kw_only=True):
    """One question to one name server. `answer_ms`: until its answer, good or bad, was there; `tcp`: it took TCP."""

    name: str
    server: str
    answer_ms: float | None = None
    failure: Reason | None = None
    addresses: int = 0
    ttl_s: int | None = None
    tcp: bool = False


class Dns(_Message, frozen=True, kw_only=True, tag_field="kind", tag="dns"):
    """Names looked up over the link at its own name servers; at least one of them answered something."""

    lookups: tuple[Lookup, ...]
    interface_bytes: int | None = None


class Page(_Message, frozen=True, kw_only=True):
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


class Web(_Message, frozen=True, kw_only=True, tag_field="kind", tag="web"):
    """A small set of pages fetched over the link, one after the other; at least one of them came."""

    pages: tuple[Page, ...]
    interface_bytes: int | None = None


class Radio(_Message, frozen=True, kw_only=True, tag_field="kind", tag="radio"):
    """A look at the radio by itself: the last one, and how many looks it stands for.

    Looks that show nothing new are folded into the next record: `samples` counts them, itself included; `lowest` and
    `highest` hold the extremes of their levels where `samples` is over 1.
    """

    reading: RadioReading
    samples: int = 1
    lowest: RadioReading | None = None
    highest: RadioReading | None = None


class Dropped(_Message, frozen=True, kw_only=True, tag_field="kind", tag="dropped"):
    """The spool was full and gave up its oldest results: how many of each kind, and the span of their numbers.

    `spool_id` says whose numbers, where they are not of the spool that this result is of.
    """

    counts: dict[str, int]
    first_seq: int
    last_seq: int
    spool_id: str = ""


class Damaged(_Message, frozen=True, kw_only=True, tag_field="kind", tag="damaged"):
    """The spool's file was damaged, and a new spool began: what was saved of the old one, what is known of the rest.

    `saved` results travel on under their old numbers, `counts` says of which kind they are; `unreadable` is how many
    are known to be lost. `kept_as` names the damaged file, which stays on the probe.
    """

    saved: int
    unreadable: int
    counts: dict[str, int] = {}
    detail: str = ""
    kept_as: str = ""


class Unmade(StrEnum):
    """Why a run that the schedule or the plan wanted was never begun. The list is closed."""

    AGENT_OFF = "agent_off"  # no power, stopped, or not yet started
    CLOCK_SET = "clock_set"  # the agent ran, but its clock stood elsewhere
    TURN_MISSED = "turn_missed"  # another run, or the care for a link, took the probe's time until the turn was over
    PLAN_SPENT = "plan_spent"  # the quota had stopped the same job that day already
    NO_STORAGE = "no_storage"  # the disk took no note of a run, so none was made


class Missed(_Message, frozen=True, kw_only=True, tag_field="kind", tag="missed"):
    """Runs of one job on one link that were wanted and never begun: how many, and when their turns began and ended."""

    count: Annotated[int, msgspec.Meta(ge=1)]
    first: Utc
    last: Utc
    reason: Unmade


class Condition(StrEnum):
    """What one look at a link says of its health. The recovery ladder goes by it; the list is closed."""

    HEALTHY = "healthy"
    NO_TRAFFIC = "no_traffic"  # registered and addressed, but nothing comes back
    NO_ADDRESS = "no_address"  # registered, but the interface is missing, down or without an address
    NOT_REGISTERED = "not_registered"
    SILENT = "silent"  # the modem is on the bus and does not answer AT
    ABSENT = "absent"  # the modem is not on the bus
    DENIED = "denied"  # the operator refuses the subscription
    SIM_ABSENT = "sim_absent"
    SIM_LOCKED = "sim_locked"
    PORT_HELD = "port_held"  # another program, or the rights of the port, keep the agent out
    NEEDS_HANDS = "needs_hands"  # recovery mode of the chip, or a choice that only the configuration can make
    REMOTE = "remote"  # other uplinks fail alike: the outage is not the modem's


class Diagnosis(_Message, frozen=True, kw_only=True):
    """One look at a link: its condition, what was seen, and the radio where the modem told it."""

    condition: Condition
    detail: str = ""
    radio: RadioReading | None = None


class Recovery(_Message, frozen=True, kw_only=True, tag_field="kind", tag="recovery"):
    """One step of the recovery ladder, with the diagnosis before and after it.

    `rung` 0 is an alert: nothing was done, because nothing that the agent may do would help; it has no `after`. Another
    step without `after` was cut off, and is reported when the agent runs again.
    """

    rung: Annotated[int, msgspec.Meta(ge=0, le=6)]
    action: str
    before: Diagnosis
    after: Diagnosis | None = None
    detail: str = ""

    @property
    def cured(self) -> bool:
        """Whether the link worked after this step."""
        return self.after is not None and self.after.condition is Condition.HEALTHY


class PlanState(_Message, frozen=True, kw_only=True, tag_field="kind", tag="plan"):
    """Where a link's data plan stands. `day` is the plan day; bytes are those of the interface, both directions.

    `left_bytes` is what scheduled tests may still move, `left_by_hand_bytes` what a test by hand may; both None without
    a quota. `allowance_bytes`: what the day's tests may move so that the plan lasts to the end of its month.
    `remaining_bytes` is what the operator said last, `balance_doubt` what speaks against our own count. `next_run_at`:
    when the plan's next test is due today.
    """

    day: str
    quota_day_mb: int | None = None
    quota_month_mb: int | None = None
    spent_day_bytes: int = 0
    spent_month_bytes: int = 0
    left_bytes: int | None = None
    left_by_hand_bytes: int | None = None
    allowance_bytes: int | None = None
    runs_planned: int = 0
    runs_made: int = 0
    runs_dropped: int = 0
    uploads_dropped: int = 0
    remaining_bytes: int | None = None
    balance_doubt: str | None = None
    next_run_at: Utc | None = None


Service = Ping | Dns | Web | Capacity
Outcome = Throughput | Latency | Service | Radio | Failed | Dropped | Damaged | Recovery | PlanState | Missed


class Result(_Message, frozen=True, kw_only=True):
    """One record of one job's run. `spool_id` and `seq` are given by the spool when it takes the result in."""

    probe_id: Name
    spool_id: str = ""
    seq: int = 0
    site: Name
    link: Name | None = None
    job: Job | None = None
    used: Route | None = None
    started_at: Utc
    elapsed_s: float = 0.0
    clock: Clock = Clock()
    agent_version: str
    outcome: Outcome


class ResultId(msgspec.Struct, frozen=True):
    """Just the identity of a result: what can often still be read of one that cannot be read whole."""

    probe_id: str
    spool_id: str
    seq: int


# --- acknowledgement ------------------------------------------------------------------------------------------------


CONFLICT: Final = "conflict"
"""How the reason of a refusal begins that says: another result holds this number (the card is an old copy)."""


class Refusal(_Message, frozen=True, kw_only=True):
    """A result that the collector will never take, and why; it is kept in quarantine at both ends.

    `check` is `wire.codec.check` of the refused payload, "" where nobody could say.
    """

    seq: int
    reason: str
    check: str = ""


class Ack(_Message, frozen=True, kw_only=True):
    """What the collector's journal holds on disk: closed ranges of `seq` of one spool, and what it refused.

    `checks` holds `wire.codec.check` of each stored payload, one after the other: an ack that comes late names numbers
    that a spool put back from an old copy may have given to other results by then.
    """

    spool_id: str
    stored: tuple[tuple[int, int], ...] = ()
    checks: str = ""
    refused: tuple[Refusal, ...] = ()


# --- commands -------------------------------------------------------------------------------------------------------

MAX_RESEND_RANGES: Final = 64
MAX_RESEND_RESULTS: Final = 2000
"""How many numbers one `Resend` may span; what is more is asked for later."""

SpoolId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,64}$")]
Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Ranges = Annotated[tuple[tuple[Seq, Seq], ...], msgspec.Meta(min_length=1, max_length=MAX_RESEND_RANGES)]


class Resend(_Message, frozen=True, kw_only=True, tag_field="command", tag="resend"):
    """The collector lacks these closed ranges of `seq` and asks for what the probe still has of them.

    It is the only command there is, and it can make a probe do nothing but send results that it made.
    """

    spool_id: SpoolId
    ranges: Ranges


class Gone(_Message, frozen=True, kw_only=True, tag_field="reply", tag="gone"):
    """The answer: of what was asked for, these ranges the probe has no more, nor will it ever have them again."""

    spool_id: SpoolId
    ranges: Ranges


# --- status ---------------------------------------------------------------------------------------------------------


class LinkStatus(_Message, frozen=True, kw_only=True):
    """One link as the agent last saw it."""

    name: Name
    interface: str
    operator: str | None = None
    technology: str | None = None
    rsrp_dbm: float | None = None
    last_outcome: str | None = None


class Status(_Message, frozen=True, kw_only=True):
    """Retained birth message and last will: what is known of a probe without asking it.

    `machine` is what a technician finds the box by: host name, serial or hardware address, address towards the broker.
    """

    probe_id: Name
    online: bool
    site: Name | None = None
    at: Utc | None = None
    started_at: Utc | None = None
    agent_version: str = ""
    spool_id: str = ""
    spooled: int = 0
    backlog: int = 0
    undated: int = 0
    """How many of the backlog wait for the clock to be set."""
    spool_error: str | None = None
    clock: Clock = Clock()
    links: tuple[LinkStatus, ...] = ()
    machine: Annotated[str, msgspec.Meta(max_length=200)] = ""


# --- leases ---------------------------------------------------------------------------------------------------------


class LeaseRequest(_Message, frozen=True, kw_only=True):
    """A probe asks for single-use iperf3 servers: one per transfer, all for at most `length_s` seconds.

    With `transfers` 0 it asks only where the responder and its echo server are; that is never busy and lends nothing.
    `window_s`: how long it is willing to wait for its turn. `expected_mbps`: what the test will take of the server's
    link, from the last one. `operator` and `cell`: tests in one cell never run together. `responder`: the one that is
    asked; without it everyone who hears it answers.
    """

    request_id: str
    probe_id: Name
    link: Name
    transfers: Annotated[int, msgspec.Meta(ge=0, le=4)] = 2
    length_s: Annotated[float, msgspec.Meta(gt=0, le=600)]
    window_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    expected_mbps: Annotated[float, msgspec.Meta(gt=0, le=100_000)] | None = None
    operator: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    cell: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    responder: Name | None = None


class Granted(_Message, frozen=True, kw_only=True, tag_field="answer", tag="granted"):
    """Servers listen on `ports`, one transfer each, from `starts_in_s` to `expires_in_s` from now on.

    Both are relative, so that no clocks are compared. Booked servers (`starts_in_s` over 0) may be ready sooner: the
    same request is then answered once more. Where `user` is given the servers ask for it, with `token` as its password,
    both encrypted with `public_key` (PEM): iperf3's own authentication.
    """

    request_id: str
    responder: str
    host: str
    ports: tuple[int, ...]
    token: str
    expires_in_s: float
    irtt_port: int | None = None
    starts_in_s: float = 0.0
    user: str = ""
    public_key: str = ""
    load_percent: float | None = None
    """How much of the responder's network is in use as it answers; above 70 a test measures the server."""


class Busy(_Message, frozen=True, kw_only=True, tag_field="answer", tag="busy"):
    """Nothing is free within the request's window: ask again in `retry_in_s` seconds."""

    request_id: str
    responder: str
    retry_in_s: float


class Denied(_Message, frozen=True, kw_only=True, tag_field="answer", tag="denied"):
    """The request breaks a limit and will be denied again: `reason` says which."""

    request_id: str
    responder: str
    reason: str


LeaseReply = Granted | Busy | Denied


class ResponderStatus(_Message, frozen=True, kw_only=True):
    """Retained: what a responder does now, and what it has counted since it was started."""

    responder: Name
    at: Utc | None = None
    online: bool = True
    ports: int = 0
    link_mbps: float = 0.0
    lent_mbps: float = 0.0
    testing: int = 0
    waiting: int = 0
    turned_away: int = 0
    counts: dict[str, int] = {}
    group: Name | None = None


class Claim(_Message, frozen=True, kw_only=True):
    """A cell that is wanted or held for a link's test, from the sending on. With `ends_in_s` 0 it is given back."""

    id: Annotated[int, msgspec.Meta(ge=0)]
    link: Annotated[str, msgspec.Meta(max_length=200)] = ""
    cell: Annotated[str, msgspec.Meta(max_length=200)] = ""
    starts_in_s: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    ends_in_s: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0


class GroupWord(_Message, frozen=True, kw_only=True):
    """What a responder tells its group: cells that it claims. The order in which the broker hands them on decides.

    `run` is drawn at each start of a responder: with a new one, all its earlier claims are void. `whole`: these are all
    its claims. `hello`: it has just come, and asks the others to say theirs.
    """

    responder: Name
    run: Annotated[str, msgspec.Meta(max_length=64)]
    claims: Annotated[tuple[Claim, ...], msgspec.Meta(max_length=2000)] = ()
    whole: bool = False
    hello: bool = False
