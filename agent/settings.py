"""agent.yaml → frozen Settings. Closed, typed, bounded; all mistakes are named at once."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec

from agent import settings_checks
from agent.measurements.capacity import CapacityOptions
from agent.measurements.dns import DnsOptions
from agent.measurements.latency import LatencyOptions
from agent.measurements.ping import PingOptions
from agent.measurements.throughput_options import CAP_TIMES, USUAL_MBPS, ThroughputOptions
from agent.measurements.trace import TraceOptions
from agent.measurements.web import WebOptions
from agent.modem.recovery import USB_POWER, RecoveryOptions
from agent.plan import Claim
from agent.thinning import Thinning
from base import configfile
from base.broker import BrokerSettings, Port
from base.share import MAX_PLACES, MAX_ROOM
from wire.form import Name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT_PATH: Final = Path("/etc/probefleet/agent.yaml")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Interface = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}\Z")]
"""A network device; the kernel's limit is 15 characters (IFNAMSIZ in linux/if.h)."""
Period = Annotated[int, msgspec.Meta(ge=5, le=31 * 86_400)]
Megabytes = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=50)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A closed section: a key that is not known is a mistake."""


class Site(_Section, frozen=True, kw_only=True):
    """Where the probe stands. A commune code means nothing without the code scheme it is taken from."""

    id: Name
    name: str = ""
    commune: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{5}\Z")] | None = None
    commune_scheme: Text | None = None


class Sms(_Section, frozen=True, kw_only=True):
    """A message that the operator answers."""

    number: Annotated[str, msgspec.Meta(pattern=r"^\+?[0-9]{3,15}\Z")]
    text: Annotated[str, msgspec.Meta(pattern=r"^[ -~]{1,100}\Z")]


class Balance(_Section, frozen=True, kw_only=True):
    """How to ask the operator what is left of the plan, by USSD or by a message.

    A cross-check: the operator's text is free and changes without notice. `pattern` finds the groups `number` and
    `unit` (B, KB, MB, GB) in the answer; capitals and accents do not matter.
    """

    ussd: Annotated[str, msgspec.Meta(pattern=r"^[*#][0-9*]{1,20}#\Z")] | None = None
    sms: Sms | None = None
    pattern: Text = r"(?P<number>[0-9][0-9.,]*)\s*(?P<unit>[KMG]?B)\b"
    every_h: Annotated[int, msgspec.Meta(ge=1, le=744)] = 24
    tolerance_percent: Percent = 10


class Plan(_Section, frozen=True, kw_only=True):
    """What the SIM's data plan gives, in MB of 10^6 bytes, and when its days and months begin.

    A plan day begins at `reset_at`, local time (`time_zone`, else `utc_offset_h`); the month on day `reset_day`, or on
    the last day of a month that is shorter. Shares of each quota: `telemetry_percent` is never spent on tests,
    `by_hand_percent` only by `probe-agent once`; `overhead_percent` is what the operator may count more than we do.
    """

    quota_day_mb: Megabytes | None = None
    quota_month_mb: Megabytes | None = None
    time_zone: Text | None = None
    utc_offset_h: Annotated[float, msgspec.Meta(ge=-12, le=14)] = 7.0
    reset_at: Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")] = "00:00"
    reset_day: Annotated[int, msgspec.Meta(ge=1, le=31)] = 1
    overhead_percent: Percent = 3
    telemetry_percent: Percent = 2
    by_hand_percent: Percent = 8
    balance: Balance | None = None


class Share(_Section, frozen=True, kw_only=True):
    """The link's place among `of` links that share test servers with room for `room` tests at once, from 0 on.

    Whoever numbers the links gives each another place; then no more than `room` of them ever begin in the same turn.
    """

    place: Annotated[int, msgspec.Meta(ge=0, le=MAX_PLACES - 1)]
    of: Annotated[int, msgspec.Meta(ge=1, le=MAX_PLACES)]
    room: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROOM)]


class BringUp(_Section, frozen=True, kw_only=True):
    """What the agent may do to bring a link up. Without this section others do it, and the agent only measures.

    `data`: how the link gets its data; `auto` chooses by what the modem shows, and says why. `write_apn`: whether a
    wrong APN may be written into the modem's flash. `wait_s`: how long to wait for the network.
    """

    data: Literal["auto", "dhcp", "modem-manager", "ppp"] = "auto"
    write_apn: bool = False
    wait_s: Annotated[int, msgspec.Meta(ge=5, le=600)] = 120
    default_route_metric: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 700


class Link(_Section, frozen=True, kw_only=True):
    """One modem, SIM and operator. `modem: auto` finds the modem; `modem: null` measures without radio figures.

    `resolvers`: the link's name servers; without them those that the network has given to whatever brought it up.

    `usb_path` says which one where several are plugged in (`1-1.2`, see `probe-agent modem list`). `pin_file` holds the
    SIM's PIN, one line, readable by the agent alone; it is typed once, and never again if it is wrong.
    """

    name: Name
    interface: Interface
    modem: Text | None = "auto"
    usb_path: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+-[0-9]+(\.[0-9]+)*\Z")] | None = None
    apn: Text = "auto"
    pin_file: Path | None = None
    resolvers: Annotated[tuple[Text, ...], msgspec.Meta(max_length=4)] = ()
    plan: Plan = Plan()
    share: Share | None = None
    bring_up: BringUp | None = None
    recovery: RecoveryOptions = RecoveryOptions()
    routes: Literal["keep", "leave"] = "keep"
    """Whether the agent keeps a routing table for this link (`probe-agent link setup`)."""
    gateway: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,3}\.){3}[0-9]{1,3}\Z")] | None = None
    """The link's way out, where no default route says it."""
    namespace: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")] | None = None
    """The network namespace in which the interface lives (ip-netns(8)); needs root."""


class IperfServer(_Section, frozen=True, kw_only=True):
    """A plain iperf3 server, where no responder lends any."""

    host: Text
    port: Port = 5201


class _Job(_Section, frozen=True, kw_only=True):
    """Common to all jobs."""

    name: Name
    links: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)] | None = None

    claim: ClassVar[Claim | None] = None
    """What the job's runs may spend of the plan; None: they move no bytes over the link, nothing holds them back."""


class ThroughputJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="throughput"):
    """TCP download and upload: once in every `every_s` seconds, or up to `runs_per_day`, as the plan allows."""

    every_s: Period | None = None
    runs_per_day: Annotated[int, msgspec.Meta(ge=1, le=288)] | None = None
    options: ThroughputOptions = ThroughputOptions()

    claim: ClassVar[Claim | None] = Claim.SCHEDULE


class LatencyJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="latency"):
    """Round-trip time, jitter and loss. Without `host`, the responder's own echo server."""

    every_s: Period
    host: Text | None = None
    options: LatencyOptions = LatencyOptions()

    claim: ClassVar[Claim | None] = Claim.TELEMETRY


class PingJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="ping"):
    """Round trips by ICMP, TCP and HTTP, and the path MTU. Without `host`, the responder's."""

    every_s: Period
    host: Text | None = None
    options: PingOptions = PingOptions()

    claim: ClassVar[Claim | None] = Claim.TELEMETRY


class DnsJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="dns"):
    """Names looked up at the link's own name servers."""

    every_s: Period
    options: DnsOptions

    claim: ClassVar[Claim | None] = Claim.TELEMETRY


class WebJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="web"):
    """A small set of pages, timed."""

    every_s: Period
    options: WebOptions

    claim: ClassVar[Claim | None] = Claim.SCHEDULE


class CapacityJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="capacity"):
    """UDP capacity of one direction, at most once a day: it floods the link, and is no part of a verdict."""

    every_s: Annotated[int, msgspec.Meta(ge=86_400, le=31 * 86_400)] = 7 * 86_400
    options: CapacityOptions = CapacityOptions()

    claim: ClassVar[Claim | None] = Claim.SCHEDULE


class RadioJob(_Job, frozen=True, kw_only=True, tag_field="measurement", tag="radio"):
    """A look at the modem's radio figures. `thin: null` makes every look a result of its own."""

    every_s: Period
    thin: Thinning | None = Thinning()


Job = ThroughputJob | LatencyJob | PingJob | DnsJob | WebJob | CapacityJob | RadioJob


class SpoolSettings(_Section, frozen=True, kw_only=True):
    """How much may wait on disk before the oldest telemetry is given up, and how telemetry comes there.

    Telemetry is committed and sent together, every `telemetry_every_s` (0: each result at once) and with each
    throughput result. Until then it is in `memory_dir`, which should be a tmpfs; where that is missing, by the spool.
    """

    max_mb: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    telemetry_every_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 300
    memory_dir: Path = Path("/run/probefleet-agent")


class ArchiveSettings(_Section, frozen=True, kw_only=True):
    """How long throughput results are kept after the collector has acknowledged them: it may lose them after all."""

    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 14
    max_mb: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20


class ProbeBroker(BrokerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker over a mobile link: every sign of life is paid for, and results are signs of life too."""

    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 240


class ClockSettings(_Section, frozen=True, kw_only=True):
    """What the wall clock must be worth, so that results are sent and throughput results are samples.

    `known`: not known to be wrong. `synchronised`: known to be right. `nothing`: any. Results of a clock that is worth
    less wait in the spool until it is, `hold_h` hours at most.
    """

    require: Literal["known", "synchronised", "nothing"] = "known"
    hold_h: Annotated[int, msgspec.Meta(ge=1, le=744)] = 24


class Settings(_Section, frozen=True, kw_only=True):
    """The whole of agent.yaml."""

    probe_id: Name
    site: Site
    broker: ProbeBroker
    links: Annotated[tuple[Link, ...], msgspec.Meta(min_length=1, max_length=64)]
    jobs: Annotated[tuple[Job, ...], msgspec.Meta(min_length=1)]
    data_dir: Path = Path("/var/lib/probefleet-agent")
    spool: SpoolSettings = SpoolSettings()
    archive: ArchiveSettings = ArchiveSettings()
    clock: ClockSettings = ClockSettings()
    servers: tuple[IperfServer, ...] = ()
    trace: TraceOptions | None = None
    """Look for the way after a run that found its server out of reach; None: do not."""
    responders: tuple[Name, ...] = ()
    """Which responders to ask for leases, the first one first; without it all that answer, the nearest first."""

    def link(self, name: str) -> Link:
        """Find a link by name; raise KeyError."""
        return next(link for link in self.links if link.name == name)

    def job(self, name: str) -> Job:
        """Find a job by name; raise KeyError."""
        for job in self.jobs:
            if job.name == name:
                return job
        raise KeyError(name)

    def links_of(self, job: Job) -> tuple[Link, ...]:
        """Name the links that a job measures: those it lists, or all."""
        return tuple(link for link in self.links if job.links is None or link.name in job.links)


def load(path: Path) -> Settings:
    """Read agent.yaml; raise base.configfile.ConfigError with every mistake."""
    return configfile.load(path, Settings, _cross_check)


def pack(settings: Settings) -> bytes:
    """Encode settings for another process of ours, on the same machine and of the same version."""
    return msgspec.msgpack.encode(settings, enc_hook=str)


def unpack(packed: bytes) -> Settings:
    """Decode what `pack` made."""
    return msgspec.msgpack.decode(packed, type=Settings, dec_hook=configfile.file_name)


def _cross_check(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find what no single key can show: names used twice, links that do not exist. Sees the raw document."""
    links = _sections(document, "links")
    jobs = _sections(document, "jobs")
    yield from _twice("links", links, "name")
    for namespace in dict.fromkeys(str(entry.get("namespace")) for _, entry in links):
        here = [(index, entry) for index, entry in links if str(entry.get("namespace")) == namespace]
        yield from _twice("links", here, "interface")
    yield from _twice("jobs", jobs, "name")
    yield from _ladders(links)
    yield from _plans(links)
    yield from settings_checks.resolvers(links)
    yield from settings_checks.services(jobs)
    yield from settings_checks.shares(links)
    yield from settings_checks.reserves(links)
    yield from _rhythms(jobs)
    yield from _caps(jobs)
    known = [name for _, entry in links if isinstance(name := entry.get("name"), str)]
    for index, entry in jobs:
        wanted = entry.get("links")
        for name in wanted if isinstance(wanted, list) else []:
            if name not in known:
                yield f"jobs[{index}].links", f"no link is named '{name}'; links: {', '.join(known) or 'none'}"
    site = document.get("site")
    if isinstance(site, dict) and site.get("commune") is not None and site.get("commune_scheme") is None:
        yield "site.commune", 'a commune code needs commune_scheme beside it, for example "GSO-2025-07-01"'


def _ladders(links: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    for index, entry in links:
        ladder = entry.get("recovery")
        rungs = ladder.get("rungs") if isinstance(ladder, dict) else None
        if isinstance(rungs, list) and USB_POWER in rungs and isinstance(ladder, dict) and not ladder.get("hub"):
            yield (
                f"links[{index}].recovery.rungs",
                f"rung {USB_POWER} cuts the power of a USB port: say which with hub: {{location: 1-1, port: 2}}",
            )


def _plans(links: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    for index, entry in links:
        plan = entry.get("plan")
        zone = plan.get("time_zone") if isinstance(plan, dict) else None
        if isinstance(zone, str):
            try:
                from zoneinfo import ZoneInfo  # noqa: PLC0415  # few links name a zone

                ZoneInfo(zone)
            except (KeyError, ValueError, OSError):
                yield f"links[{index}].plan.time_zone", f"no time zone is called '{zone}'; example: Asia/Ho_Chi_Minh"
        balance = plan.get("balance") if isinstance(plan, dict) else None
        if isinstance(balance, dict) and ("ussd" in balance) == ("sms" in balance):
            yield f"links[{index}].plan.balance", "asks either by ussd or by sms"
        pattern = balance.get("pattern") if isinstance(balance, dict) else None
        if isinstance(pattern, str):
            try:
                groups = set(re.compile(pattern).groupindex)
            except re.error as error:
                yield f"links[{index}].plan.balance.pattern", f"no regular expression: {error}"
            else:
                if not {"number", "unit"} <= groups:
                    yield f"links[{index}].plan.balance.pattern", "needs the groups (?P<number>...) and (?P<unit>...)"


def _rhythms(jobs: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    for index, entry in jobs:
        if entry.get("measurement") == "throughput" and ("every_s" in entry) == ("runs_per_day" in entry):
            yield f"jobs[{index}]", "a throughput job has either runs_per_day (within the plan) or every_s"


def _caps(jobs: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Refuse byte caps that a link of the speed that is asked for would reach."""
    for index, entry in jobs:
        asked = entry.get("options")
        if entry.get("measurement") != "throughput" or not isinstance(asked, dict) or "max_bytes" not in asked:
            continue
        try:
            options = msgspec.convert(asked, ThroughputOptions)
        except msgspec.ValidationError:
            continue  # said already
        least = CAP_TIMES * options.usual_bytes(USUAL_MBPS)
        text = f"a cap cuts the best results off unless it is {CAP_TIMES} times what {USUAL_MBPS:g} Mbps move, "
        text += f"{math.ceil(least / 1e6)} MB here; leave it out: the plan's quotas are guarded without it"
        if options.max_bytes is not None and options.max_bytes < least:
            yield f"jobs[{index}].options.max_bytes", text


def _sections(document: Mapping[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
    entries = document.get(key)
    return (
        [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, dict)] if isinstance(entries, list) else []
    )


def _twice(section: str, entries: Iterable[tuple[int, dict[str, Any]]], key: str) -> Iterator[tuple[str, str]]:
    counts: Counter[str] = Counter()
    for index, entry in entries:
        value = entry.get(key)
        if isinstance(value, str):
            counts[value] += 1
            if counts[value] == 2:  # noqa: PLR2004  # the second one is the mistake
                yield f"{section}[{index}].{key}", f"'{value}' is used twice"
