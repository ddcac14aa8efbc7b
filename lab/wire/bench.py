"""`probe-lab bench wire`: what a result and a probe's day cost on the wire, all told, as IP packets.

A day of agent.yaml's schedule is fast-forwarded: every batch that the agent would send is sent, by the agent's own
spool and publisher through mosquitto with TLS to a real collector, and its bytes are read from the interface with those
of every answer. What repeats without change (a status, a lease, a keepalive, a connection) is measured a few times and
multiplied by how often the day has it; the table says which.
"""

from __future__ import annotations

import functools
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent import settings
from agent.lease import Wish
from agent.publisher import BATCH, STATUS_EVERY_S
from agent.spool import Spool
from base.broker import make_client
from base.table import render
from lab.benches import Complaint, Judged, add_bench, say
from lab.netns import NetworkError
from lab.pki import PkiError
from lab.programs import ProgramError
from lab.servers import ServerError
from lab.wire import day
from lab.wire.pipe import Pipe, PipeError
from lab.wire.results import Maker, flat
from wire import topics
from wire.codec import encode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from agent.publisher import Publisher
    from agent.settings import Settings
    from lab.benches import Parts
    from lab.wire.day import Event
    from wire.results import Result

GOAL_RESULT_BYTES: Final = 250
GOAL_DAY_BYTES: Final = 600_000
_BACKLOG: Final = 2 * BATCH
_SAMPLES: Final = 4
_FLAT_RECORDS: Final = 20
_PINGS: Final = 2
_PING_EVERY_S: Final = 5
_IPERF_S: Final = 10
_PATIENCE_S: Final = 30.0
_EXAMPLE: Final = Path(__file__).parents[2] / "config/agent.yaml"

_EXAMPLES: Final = f"""examples:
  sudo probe-lab bench wire                        some two minutes
  sudo probe-lab bench wire --check                exit status 1 if a goal is missed
  sudo probe-lab bench wire --config agent.yaml    another schedule than that of config/agent.yaml
  sudo probe-lab bench wire --hours 2              the first hours of the day, multiplied up

goals: at most {GOAL_RESULT_BYTES} B per throughput result of a backlog; {GOAL_DAY_BYTES // 1000} kB per link and day.
"""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of traffic: how often a day has it, and its bytes both ways. `measured`: how many were sent here."""

    what: str
    times: float
    bytes_each: float
    bytes_a_day: float
    measured: int


class PerResult(msgspec.Struct, frozen=True, kw_only=True):
    """One way to deliver a throughput result: what it says, and what the wire carries for it, answers included."""

    way: str
    payload_bytes: float
    wire_bytes: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The object printed with --json. `looks`: at the radio, and how many of them made a record."""

    links: int
    looks: int
    records: int
    day: list[Item]
    bytes_a_link_day: float
    results: list[PerResult]
    goal_day_bytes: int = GOAL_DAY_BYTES
    goal_result_bytes: int = GOAL_RESULT_BYTES
    goal_met: bool = False


def add_parser(parts: Parts) -> None:
    """Add `wire` to the benches."""
    parser = add_bench(
        parts,
        "wire",
        run,
        summary="bytes per result and per day on the wire, TLS and all",
        description="Send a day of results through the real parts, and count what the interface carries (root).",
        examples=_EXAMPLES,
        check="if a goal is missed",
        failures=(NetworkError, ServerError, ProgramError, PkiError, PipeError),
    )
    parser.add_argument("--config", type=Path, default=_EXAMPLE, metavar="FILE", help="an agent.yaml (%(default)s)")
    parser.add_argument(
        "--hours", type=float, default=24.0, metavar="N", help="how much of the day is sent (default all)"
    )


def run(arguments: argparse.Namespace) -> Judged:
    """Measure and judge; raise Complaint, ConfigError, or what `measure` raises."""
    if not 0 < arguments.hours <= 24:  # noqa: PLR2004  # a day has so many
        raise Complaint("--hours must be over 0 and at most 24", status=2)
    report = measure(settings.load(arguments.config), arguments.hours)
    return Judged(report, show(report), () if report.goal_met else ["a goal is missed"])


def show(report: Report) -> str:
    """Write the tables for people."""
    results = [[one.way, round(one.payload_bytes), round(one.wire_bytes)] for one in report.results]
    rows = [
        [one.what, f"{one.times:.0f}", round(one.bytes_each), round(one.bytes_a_day / 1000, 1), one.measured]
        for one in report.day
    ]
    goals = f"{report.goal_result_bytes} B per result of a backlog, {report.goal_day_bytes // 1000} kB per link and day"
    return f"""{render(["one throughput result", "payload B", "on the wire B"], results)}

{render(["a day's", "times", "B each", "kB a day", "sent here"], rows)}

{report.bytes_a_link_day / 1000:.0f} kB per link and day, the tests' own traffic not counted
{report.looks} looks at the radio made {report.records} records
goals: {goals}: {"met" if report.goal_met else "MISSED"}"""


def measure(config: Settings, hours: float) -> Report:
    """Set everything up and send; raise NetworkError, ServerError, ProgramError, PkiError or PipeError."""
    events = day.events(config, hours)
    scale = 24.0 / hours
    with Pipe(config.probe_id) as pipe:
        bench = _Bench(pipe, config)
        results = [*bench.backlog(), *bench.others()]
        items, sent_at_s = bench.fast_forward(events)
        pings = bench.pings(hours, events, sent_at_s)
        items += [*bench.leases(events), *bench.statuses(hours), pings, bench.connection()]
    items = [
        msgspec.structs.replace(one, times=one.times * scale, bytes_a_day=one.bytes_a_day * scale)
        if one.what != bench.CONNECTION
        else one
        for one in items
    ]
    total = sum(one.bytes_a_day for one in items) / len(config.links)
    records = sum(event.kind == "radio" for event in events)
    goal_met = total <= GOAL_DAY_BYTES and results[0].wire_bytes <= GOAL_RESULT_BYTES
    return Report(
        links=len(config.links),
        looks=records + sum(event.kind == "look" for event in events),
        records=records,
        day=items,
        bytes_a_link_day=total,
        results=results,
        goal_met=goal_met,
    )


class _Bench:
    """The measurements, each on a quiet cable."""

    CONNECTION: Final = "connection, with TLS handshake and first status"

    def __init__(self, pipe: Pipe, config: Settings) -> None:
        self._pipe = pipe
        self._config = config
        self._keepalive_s = config.broker.keepalive_s
        self._link = config.links[0].name
        self._maker = Maker(config.probe_id, config.site.id, self._link, seed=99)

    def backlog(self) -> list[PerResult]:
        """Send spooled throughput results, many and one."""
        results = [
            self._maker.throughput(day.BEGIN.timestamp() + 10_800 * number, "throughput-light")
            for number in range(_BACKLOG)
        ]
        payload = sum(len(encode(result)) for result in results) / _BACKLOG
        found = []
        with self._connected("backlog") as (spool, publisher):
            for way, some in ((f"ours, {_BACKLOG} from the spool", results), ("ours, one at once", results[:1])):
                say(way)
                carried = self._carried(functools.partial(_deliver, publisher, spool, some))
                found.append(PerResult(way=way, payload_bytes=payload, wire_bytes=carried / len(some)))
        return found

    def others(self) -> list[PerResult]:
        """Publish what others publish, each by itself: a flat record, and iperf3's report as it is."""
        say(f"iperf3's own report, {_IPERF_S} s")
        report = self._iperf_report()
        result = self._maker.throughput(day.BEGIN.timestamp(), "throughput-light")
        client = make_client(
            self._pipe.broker(self._config.probe_id, 3600), client_id=self._config.probe_id, clean_session=True
        )
        found = []
        with self._pipe.inside():
            client.connect(self._pipe.mosquitto.host, self._pipe.mosquitto.port, 3600)
            client.loop_start()
        try:
            # Under a leaf that the probe may write and nobody reads: publish and PUBACK, no answer beyond that.
            topic = topics.topic(self._config.probe_id, "other")

            def publish(payload: bytes, times: int) -> None:
                for _ in range(times):
                    client.publish(topic, payload, qos=1).wait_for_publish(_PATIENCE_S)

            for way, payload, times in (
                ("a flat JSON record, published", flat(result), _FLAT_RECORDS),
                ("iperf3 -J, published raw", report, 1),
            ):
                carried = self._carried(functools.partial(publish, payload, times))
                found.append(PerResult(way=way, payload_bytes=len(payload), wire_bytes=carried / times))
        finally:
            client.disconnect()
            client.loop_stop()
        return found

    def fast_forward(self, events: Sequence[Event]) -> tuple[list[Item], list[float]]:
        """Send every batch of the day as it comes; return its items, and when something was sent."""
        cadence_s = self._config.spool.telemetry_every_s
        sent: dict[str, list[int]] = {"throughput": [], "telemetry": []}
        sent_at_s: list[float] = []
        held_since_s: float | None = None
        with self._connected("day", defer_s=1e9) as (spool, publisher):

            def send(kind: str, at_s: float) -> None:
                sent[kind].append(self._carried(functools.partial(_deliver, publisher, spool)))
                sent_at_s.append(at_s)
                say(f"the day at {(at_s - day.BEGIN.timestamp()) / 3600:.1f} h", again=True)

            for event in events:
                if held_since_s is not None and event.at_s >= held_since_s + cadence_s:
                    spool.flush()
                    send("telemetry", held_since_s + cadence_s)
                    held_since_s = None
                if event.result is None:
                    continue
                if event.kind == "throughput":
                    spool.append(event.result)
                    send("throughput", event.at_s)
                    held_since_s = None
                else:
                    spool.defer(event.result)
                    held_since_s = event.at_s if held_since_s is None else held_since_s
            say("")
        names = {"throughput": "throughput result, with held telemetry", "telemetry": "batch of telemetry"}
        return [_item(names[kind], len(counts), counts) for kind, counts in sent.items() if counts], sent_at_s

    def leases(self, events: Sequence[Event]) -> Iterator[Item]:
        """Ask the responder as often as tells the price."""
        for servers, what in (
            (2, "lease of two servers"),
            (1, "lease of a server"),
            (0, "question for the echo server"),
        ):
            times = sum(event.leases == servers for event in events)
            if not times:
                continue
            say(what)
            wish = Wish(self._link, transfers=servers, length_s=15, operator="45204", cell="25968141", expected_mbps=40)
            with self._connected(f"leases-{servers}") as (_, publisher):
                ask = functools.partial(self._asked, publisher, wish)
                counts = [self._carried(ask) for _ in range(_SAMPLES if not servers else 1)]
            yield _item(what, times, counts)

    def statuses(self, hours: float) -> Iterator[Item]:
        """Tell the status."""
        say("status")
        with self._connected("status") as (_, publisher):
            counts = [self._carried(publisher.tell_status) for _ in range(_SAMPLES)]
        yield _item("status", hours * 3600 / STATUS_EVERY_S, counts)

    def pings(self, hours: float, events: Sequence[Event], sent_at_s: Sequence[float]) -> Item:
        """Keep silent with a short keepalive and see what a ping costs; count those that the day's silences need."""
        say(f"keepalives, {_PINGS * _PING_EVERY_S} s")
        asked = [event.at_s for event in events if event.leases is not None]
        begin_s, length_s = day.BEGIN.timestamp(), hours * 3600
        statuses = [begin_s + number * STATUS_EVERY_S for number in range(int(length_s / STATUS_EVERY_S) + 1)]
        signs = sorted([*sent_at_s, *asked, *statuses, begin_s + length_s])
        needed = sum(int((after - before) // self._keepalive_s) for before, after in itertools.pairwise(signs))
        with self._connected("ping", keepalive_s=_PING_EVERY_S):
            carried = self._carried(lambda: time.sleep(_PINGS * _PING_EVERY_S + _PING_EVERY_S / 2))
        return _item("keepalive", needed, [carried // _PINGS] * _PINGS)

    def connection(self) -> Item:
        """Connect, as after every loss of the link."""
        say("connection")
        counts = []
        for number in range(2):
            before = self._pipe.settled_bytes()
            with self._connected(f"connection-{number}"):
                counts.append(self._pipe.settled_bytes() - before)
        return _item(self.CONNECTION, 1, counts)

    def _connected(self, name: str, *, defer_s: float = 0.0, keepalive_s: int | None = None) -> _Connected:
        return _Connected(self._pipe, name, self._link, defer_s, keepalive_s or 3600)

    def _carried(self, action: Callable[[], object]) -> int:
        before = self._pipe.settled_bytes()
        action()
        return self._pipe.settled_bytes() - before

    def _asked(self, publisher: Publisher, wish: Wish) -> None:
        with publisher.ask(wish) as next_answer:
            if next_answer(_PATIENCE_S) is None:
                raise PipeError(f"the responder did not answer:\n{self._pipe.mosquitto.log_tail()}")

    def _iperf_report(self) -> bytes:
        """Let iperf3 write its report of a test as long as most are, slowed down so that it costs little."""
        server = self._pipe.start_at_the_core(["iperf3", "-s", "-1", "-p", "5210"])
        command = ["iperf3", "-J", "-c", "127.0.0.1", "-p", "5210", "-P", "4", "-t", str(_IPERF_S), "-b", "3M"]
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            report = self._pipe.at_the_core(command, timeout_s=_IPERF_S + _PATIENCE_S)
            if '"error"' not in report:
                server.wait(_PATIENCE_S)
                return report.encode()
            if time.monotonic() > deadline_s:
                raise PipeError(f"iperf3: {report[:200]}")
            time.sleep(0.1)


class _Connected:
    """A spool of its own and a connected publisher; a context manager."""

    def __init__(self, pipe: Pipe, name: str, link: str, defer_s: float, keepalive_s: int) -> None:
        self._spool = Spool(pipe.folder / f"{name}.db", max_bytes=10**9, defer_s=defer_s)
        self._publisher = pipe.publisher(self._spool, link, keepalive_s)

    def __enter__(self) -> tuple[Spool, Publisher]:
        return self._spool, self._publisher.__enter__()

    def __exit__(self, *error: object) -> None:
        self._publisher.__exit__(None, None, None)
        self._spool.close()


def _deliver(publisher: Publisher, spool: Spool, results: Sequence[Result] = ()) -> None:
    """Spool results, and wait until the collector has acknowledged everything."""
    for result in results:
        spool.append(result)
    publisher.wake()
    if not publisher.wait_until_empty(_PATIENCE_S):
        raise PipeError("the collector did not acknowledge what was sent")


def _item(what: str, times: float, counts: Sequence[int]) -> Item:
    each = sum(counts) / len(counts)
    return Item(what=what, times=times, bytes_each=each, bytes_a_day=each * times, measured=len(counts))
