"""`probe-lab bench collector`: the collector beside what else would do its work, on this machine, in one run.

500 simulated probes, each with a connection of its own, publish the results of config/agent.yaml's days at QoS 1 to a
real mosquitto with the limits that we ship; the contender takes them into a real InfluxDB 1.x. Contenders get the same
messages, one result in each as plain JSON, take turns for several rounds, each time with a fresh broker and database
and after a short warm-up.
A rate is results / time from the first message to the last result in InfluxDB, counted by query; medians are shown.
What has not come of a contender that promises nothing, and no more comes, is lost; its rate is of what came.
The load's own limit is measured without a subscriber. Everything shares this machine's cores.

Then the collector alone with what agents really send when they have something to catch up: 100 results in a message.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

import msgspec

from agent.publisher import BATCH
from base.table import render
from lab.benches import Judged, add_bench, say
from lab.collecting import catch_up, content, node_red
from lab.collecting.contenders import DATABASE, Contender, Naive, NodeRed, Ours, running
from lab.collecting.watch import Load, Spent, StalledError, peak_rss_mb, stored, wait_until_stored
from lab.numbers import real, whole
from lab.rundir import RunDir
from lab.servers import Influxd, Mosquitto, ServerError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from lab.benches import Parts

GOAL_PER_S: Final = 10_000
GOAL_RSS_MB: Final = 150
GOAL_NODE_RED: Final = 2.0
GOAL_NAIVE: Final = 1.2
BROKER_LIMITS: Final = (
    "max_inflight_messages 1000",
    "set_tcp_nodelay true",
    "autosave_interval 300",
    "max_queued_messages 0",
)
"""As config/mosquitto/probefleet.conf, but no queue limit: contenders without acknowledgements would lose results."""
_WARM_UP: Final = 2000
_OTHERS: Final = 9000  # the first number of the probes that warm up
_STALLED_S: Final = 20.0
_SHARE_OF_THE_SLOW: Final = 10
"""Node-RED with a request a message gets a tenth of the results; rates are compared, not times."""

_EXAMPLES: Final = """examples:
  probe-lab bench collector                            three rounds of 60,000 results each; about two minutes
  probe-lab bench collector --check                    exit status 1 if a goal is missed
  probe-lab bench collector --rounds 1 --results 20000 --json
  probe-lab bench collector --catch-up                 300 probes after two days without collector and database
"""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One contender in one round. CPU in ms per result, of each process and of the load; MB of 10^6 bytes."""

    results_per_s: float
    messages_per_s: float
    rss_mb: float
    cpu_ms: dict[str, float]
    acked: int
    acked_after_s: float
    lost: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One contender's medians, the rate of each round, and what of all of them never came."""

    name: str
    promises: str
    results_per_message: int
    results_per_s: float
    messages_per_s: float
    rss_mb: float
    cpu_ms: float
    broker_cpu_ms: float
    influxd_cpu_ms: float
    load_cpu_ms: float
    lost: int
    rounds: list[float]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. `acked`: whether the collector acknowledged every result to its probe."""

    probes: int
    results: int
    load_messages_per_s: float
    ours: Line
    ours_batched: Line
    naive: Line
    node_red: Line | None
    node_red_joined: Line | None
    without_node_red: str
    acked: bool

    @property
    def ratio_naive(self) -> float:
        """How many times as fast as the script, round by round, the median."""
        return _ratio(self.ours, self.naive)

    @property
    def ratio_node_red(self) -> float | None:
        """The same of Node-RED with `influxdb out`, a request a message."""
        return _ratio(self.ours, self.node_red) if self.node_red else None

    @property
    def ratio_node_red_joined(self) -> float | None:
        """The same of Node-RED with a join before the database; no goal is set for that."""
        return _ratio(self.ours, self.node_red_joined) if self.node_red_joined else None

    @property
    def cpu_node_red_joined(self) -> float | None:
        """How many times our CPU that one takes for a result; hardly depends on who else uses the cores."""
        return round(self.node_red_joined.cpu_ms / self.ours.cpu_ms, 3) if self.node_red_joined else None

    @property
    def bound_node_red_joined(self) -> float | None:
        """How many times as fast as that one a contender could be that took no CPU, where all of it is in use."""
        if (flow := self.node_red_joined) is None:
            return None
        others = flow.broker_cpu_ms + flow.influxd_cpu_ms + flow.load_cpu_ms
        return round((flow.cpu_ms + others) / others, 3)

    @property
    def missed(self) -> list[str]:
        """Name the goals that were missed."""
        rss_mb = max(self.ours.rss_mb, self.ours_batched.rss_mb)
        rate = min(self.ours.results_per_s, self.ours_batched.results_per_s)
        goals = {
            f"{rate:.0f} results/s, the goal is {GOAL_PER_S}": rate >= GOAL_PER_S,
            f"{rss_mb:.0f} MB, the goal is {GOAL_RSS_MB}": rss_mb <= GOAL_RSS_MB,
            f"{self.ratio_naive:.2f} times the script, the goal is {GOAL_NAIVE}": self.ratio_naive >= GOAL_NAIVE,
            "not every result was acknowledged": self.acked,
        }
        if self.ratio_node_red is None:
            goals[f"Node-RED was not measured: {self.without_node_red}"] = False
        else:
            text = f"{self.ratio_node_red:.2f} times Node-RED, the goal is {GOAL_NODE_RED}"
            goals[text] = self.ratio_node_red >= GOAL_NODE_RED
        return [text for text, reached in goals.items() if not reached]


def add_parser(parts: Parts) -> None:
    """Add `collector` to the benches."""
    parser = add_bench(
        parts,
        "collector",
        run,
        summary="results a second, beside Node-RED and a plain script",
        description="How fast results reach InfluxDB through the collector, beside Node-RED and a plain script.",
        examples=_EXAMPLES,
        check="if a goal was missed",
        failures=(ServerError, StalledError, OSError),
    )
    parser.add_argument(
        "--results", type=whole(1, 10_000_000), default=60_000, metavar="N", help="each time (default %(default)s)"
    )
    parser.add_argument("--rounds", type=whole(1, 1000), default=3, metavar="N", help="default %(default)s")
    parser.add_argument("--probes", type=whole(1, 5000), metavar="N", help="default 500, with --catch-up 300")
    parser.add_argument("--no-node-red", action="store_true", help="leave Node-RED out (and miss its goal)")
    parser.add_argument("--catch-up", action="store_true", help="instead: what a backlog of two days costs")
    parser.add_argument(
        "--days", type=real(0.01, 60), default=2.0, metavar="N", help="with --catch-up (default %(default)s)"
    )


def run(arguments: argparse.Namespace) -> Judged:
    """Measure and judge; raise ServerError, StalledError or OSError."""
    probes = arguments.probes or (300 if arguments.catch_up else 500)
    if arguments.catch_up:
        return catch_up.run(probes, arguments.days)
    found = measure(probes, arguments.results, arguments.rounds, node_red_too=not arguments.no_node_red)
    ratios = {
        "ratio_naive": found.ratio_naive,
        "ratio_node_red": found.ratio_node_red,
        "ratio_node_red_joined": found.ratio_node_red_joined,
        "cpu_node_red_joined": found.cpu_node_red_joined,
        "bound_node_red_joined": found.bound_node_red_joined,
        "missed": found.missed,
    }
    return Judged(msgspec.to_builtins(found) | ratios, _text(found), found.missed)


def measure(probes: int, results: int, rounds: int, *, node_red_too: bool) -> Found:
    """Run everything; raise ServerError or StalledError."""
    contenders: list[Contender] = [Ours(), Naive()]
    without = "left out"
    if node_red_too:
        try:
            programs = node_red.install(say)
            contenders += [NodeRed(programs, joined=False), NodeRed(programs, joined=True)]
        except node_red.NodeRedError as error:
            without = str(error)
            say(f"without Node-RED: {without}")
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    batched: list[Sample] = []
    with RunDir() as place:
        say(f"the load alone: {results} messages of {probes} probes ...")
        load_per_s = _load_alone(place.folder("load"), probes, results)
        for number in range(rounds):
            for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                say(f"round {number + 1} of {rounds}: {contender.name} ...")
                folder = place.folder(f"{number}-{contenders.index(contender)}")
                some = max(results // _SHARE_OF_THE_SLOW, 1) if _slow(contender) else results
                samples[contender.name].append(sample(contender, folder, probes, some, 1))
            say(f"round {number + 1} of {rounds}: {Ours().name}, {BATCH} in a message ...")
            batched.append(sample(Ours(), place.folder(f"{number}-batched"), probes, results, BATCH))
    ours = samples[Ours().name]
    flows = [_line(one, samples[one.name], 1) for one in contenders[2:]]
    plain, joined = flows or (None, None)
    return Found(
        probes=probes,
        results=results,
        load_messages_per_s=load_per_s,
        ours=_line(Ours(), ours, 1),
        ours_batched=_line(Ours(), batched, BATCH),
        naive=_line(Naive(), samples[Naive().name], 1),
        node_red=plain,
        node_red_joined=joined,
        without_node_red="" if flows else without,
        acked=all(sample.acked == results for sample in ours + batched),
    )


def _slow(contender: Contender) -> bool:
    """Whether so many results would take it too long."""
    return isinstance(contender, NodeRed) and not contender.joined


def _load_alone(folder: Path, probes: int, results: int) -> float:
    with (
        Mosquitto(folder / "broker", extra=BROKER_LIMITS) as broker,
        Load(broker.port, probes=probes, results=results) as load,
    ):
        said = load.go()
        return float(said["messages"] / (said["sent_s"] - said["begun_s"]))


def sample(
    contender: Contender,
    folder: Path,
    probes: int,
    results: int,
    per_message: int,
    *,
    config: Path = content.EXAMPLE,
) -> Sample:
    """Let one contender take so many results, with a broker and a database of its own in `folder`."""
    with (
        Mosquitto(folder / "broker", extra=BROKER_LIMITS) as broker,
        Influxd(folder / "influxd") as influxd,
    ):
        influxd.query(f"CREATE DATABASE {DATABASE}")
        with running(contender, folder, broker, influxd) as pid:
            _warm_up(broker, influxd, config)
            already = stored(influxd)
            pids = {"contender": pid, "broker": broker.pid or 0, "influxd": influxd.pid or 0}
            with Load(broker.port, probes=probes, results=results, per_message=per_message, config=config) as load:
                spent = Spent.begin(pids)
                said = load.go()
                arrived, done_s = _wait(contender, influxd, already, results)
                cpu = spent.since()
                rss_mb = peak_rss_mb(pid)
                acks = load.stop()
    took_s = done_s - said["begun_s"]
    return Sample(
        results_per_s=arrived / took_s,
        messages_per_s=said["messages"] / took_s * arrived / results,
        rss_mb=rss_mb,
        cpu_ms={name: used_s / results * 1e3 for name, used_s in [*cpu.items(), ("load", said["cpu_s"])]},
        acked=acks["acked"],
        acked_after_s=max(acks["acked_at_s"] - said["begun_s"], 0.0),
        lost=results - arrived,
    )


def _wait(contender: Contender, influxd: Influxd, already: int, results: int) -> tuple[int, float]:
    """Return how many results arrived and when the last: all of them, where the contender promises that."""
    try:
        return results, wait_until_stored(influxd, already + results, stalled_s=_STALLED_S)
    except StalledError as error:
        if isinstance(contender, Ours) or error.count <= already:
            raise
        say(f"{contender.name}: {error}")
        return error.count - already, error.at_s


def _warm_up(broker: Mosquitto, influxd: Influxd, config: Path) -> None:
    """Send until some has arrived, then wait for a quiet moment: a contender takes its time to subscribe."""
    for attempt in range(30):
        with Load(broker.port, probes=50, results=_WARM_UP, first_probe=_OTHERS, config=config) as load:
            load.go()
            try:
                wait_until_stored(influxd, _WARM_UP, stalled_s=1.0 + attempt / 5)
            except StalledError:
                continue
            return
    raise StalledError("the contender stored nothing of its warm-up")


def _line(contender: Contender, samples: list[Sample], per_message: int) -> Line:
    def median(values: list[float]) -> float:
        return round(statistics.median(values), 4)

    return Line(
        name=contender.name,
        promises=contender.promises,
        results_per_message=per_message,
        results_per_s=median([sample.results_per_s for sample in samples]),
        messages_per_s=median([sample.messages_per_s for sample in samples]),
        rss_mb=median([sample.rss_mb for sample in samples]),
        cpu_ms=median([sample.cpu_ms["contender"] for sample in samples]),
        broker_cpu_ms=median([sample.cpu_ms["broker"] for sample in samples]),
        influxd_cpu_ms=median([sample.cpu_ms["influxd"] for sample in samples]),
        load_cpu_ms=median([sample.cpu_ms["load"] for sample in samples]),
        lost=sum([sample.lost for sample in samples]),
        rounds=[round(sample.results_per_s, 1) for sample in samples],
    )


def _ratio(ours: Line, other: Line) -> float:
    return round(statistics.median(mine / its for mine, its in zip(ours.rounds, other.rounds, strict=True)), 3)


def _text(found: Found) -> str:
    everybody = (found.ours, found.naive, found.node_red, found.node_red_joined, found.ours_batched)
    lines = [line for line in everybody if line is not None]
    head = (
        "",
        "in a message",
        "messages/s",
        "results/s",
        "MB",
        "CPU s per 1000",
        "broker",
        "InfluxDB",
        "load",
        "lost",
        "owes",
    )
    rows = [
        (
            line.name,
            line.results_per_message,
            round(line.messages_per_s),
            round(line.results_per_s),
            round(line.rss_mb),
            f"{line.cpu_ms:.3f}",
            f"{line.broker_cpu_ms:.3f}",
            f"{line.influxd_cpu_ms:.3f}",
            f"{line.load_cpu_ms:.3f}",
            line.lost,
            line.promises,
        )
        for line in lines
    ]
    node = found.without_node_red
    if found.ratio_node_red and found.ratio_node_red_joined:
        node = (
            f"{found.ratio_node_red:.2f} times Node-RED, {found.ratio_node_red_joined:.2f} times Node-RED with joins"
            f"\nCPU for a result: Node-RED with joins takes {found.cpu_node_red_joined:.2f} times the collector's;"
            " where broker, InfluxDB and\nload share the cores, one that took none would be"
            f" {found.bound_node_red_joined:.2f} times as fast as that flow"
        )
    return (
        f"{found.probes} probes, {found.results} results each time, medians of {len(found.ours.rounds)} rounds;"
        f" the load alone reaches {found.load_messages_per_s:,.0f} messages/s\n{render(head, rows)}\n"
        f"\nprobe-collector: {found.ratio_naive:.2f} times the script, {node}"
    )
