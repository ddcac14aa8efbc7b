"""The record of a run: what was wanted, what it used, what came of it.

A result's identity is (probe_id, spool_id, seq), or what `formerly` says it was first.
"""

from __future__ import annotations

import msgspec

from wire.delivery import Seq, SpoolId
from wire.events import Damaged, Dropped, Missed, PlanState, Recovery
from wire.form import Message, Name, Utc
from wire.measured import Capacity, Dns, Failed, Latency, Ping, Radio, Throughput, Web


class Job(Message, frozen=True, kw_only=True):
    """What the schedule wanted. `due` is the planned instant; None for a run asked for by hand."""

    name: Name
    measurement: str
    due: Utc | None = None


class Server(Message, frozen=True, kw_only=True):
    """The far end of a test; `lease` and `responder` are None for a plain iperf3 server from the configuration."""

    host: str
    ports: tuple[int, ...] = ()
    responder: str | None = None
    lease: str | None = None
    load_percent: float | None = None
    """How much of its network the responder said was in use when it lent the server."""
    waited_s: float | None = None
    """How long the test was postponed until it had its turn: others tested there, or in its cell; None: not at all."""


class Route(Message, frozen=True, kw_only=True):
    """The path that carried a run, as found, not as asked for."""

    interface: str
    source_address: str | None = None
    operator: str | None = None
    iccid_sha256: str | None = None
    modem: str | None = None
    server: Server | None = None


class Clock(Message, frozen=True, kw_only=True):
    """How far the wall clock can be trusted. `synchronised` is None where nothing could be asked.

    `source`: who says so (chrony, timesyncd, kernel); `age_s`: how long ago it was last synchronised, where that is
    told. `correction_s`: what was added to `started_at` after the clock was set; None where nothing had to be.
    """

    synchronised: bool | None = None
    estimated_error_ms: float | None = None
    source: str | None = None
    age_s: int | None = None
    correction_s: float | None = None


Service = Ping | Dns | Web | Capacity
Outcome = Throughput | Latency | Service | Radio | Failed | Dropped | Damaged | Recovery | PlanState | Missed


class Number(Message, frozen=True, kw_only=True):
    """A number that a spool gave to a result."""

    spool_id: SpoolId
    seq: Seq


class Result(Message, frozen=True, kw_only=True):
    """One record of one job's run. `spool_id` and `seq` are given by the spool when it takes the result in.

    `formerly`: the number it was given first, where the collector holds another result under that one, so that it
    travels under a later one. However often it gets another, this stays.
    """

    probe_id: Name
    spool_id: str = ""
    seq: int = 0
    formerly: Number | None = None
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
