"""`probe-lab bench throughput`: the agent's figures beside the `iperf3` command's and what the shaper let through."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.measurements.throughput_options import ThroughputOptions
from base.table import render
from lab.benches import Complaint, Judged, add_bench, say
from lab.netns import NetworkError, Run
from lab.throughput.once import Answer, Task
from lab.throughput.shaped import DEVICE, SERVER, Shaped, Watch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from lab.benches import Parts
    from lab.throughput.shaped import Direction
    from wire.measured import Transfer

RATES_MBPS: Final = (5.0, 40.0, 150.0)
OF_THE_SHAPER: Final = 0.03
OF_THE_COMMAND: Final = 0.01
_OMIT_S: Final = 1
_STREAMS: Final = 4
_PORTS: Final = (5201, 5202, 5203)
_SPARE_S: Final = 30.0

_EXAMPLES: Final = """examples:
  sudo probe-lab bench throughput                          some four minutes
  sudo probe-lab bench throughput --check                  exit status 1 if a ratio misses the goal
  sudo probe-lab bench throughput --rates 40 --rounds 1
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One direction at one rate: medians over the rounds; Mbps of TCP payload at the receiver, after slow start.

    `let_through_mbps` is counted on the cable behind the shaper in the same seconds. `ours_of_command` is the ratio of
    ours to the command's, each first divided by what was let through in its own seconds. `whole_of_shaper`: the mean
    over the whole transfer, slow start included, against the same on the cable.
    """

    direction: str
    shaper_mbps: float
    let_through_mbps: float
    ours_mbps: float
    command_mbps: float
    ours_of_shaper: float
    command_of_shaper: float
    ours_of_command: float
    whole_of_shaper: float

    @property
    def good(self) -> bool:
        """Whether it meets the goals."""
        near_the_shaper = (
            abs(self.ours_of_shaper - 1) <= OF_THE_SHAPER and abs(self.whole_of_shaper - 1) <= OF_THE_SHAPER
        )
        return near_the_shaper and abs(self.ours_of_command - 1) <= OF_THE_COMMAND


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer: what was said, after slow start and of all of it, and what the cable carried in these two spans."""

    steady_mbps: float
    whole_mbps: float | None
    let_through_mbps: tuple[float, float]


def add_parser(parts: Parts) -> None:
    """Add `throughput` to the benches."""
    parser = add_bench(
        parts,
        "throughput",
        run,
        summary="the agent's figures beside the iperf3 command's and the shaper's",
        description="Measure shaped links by the agent's own code and by the iperf3 command, in turn (root).",
        examples=_EXAMPLES,
        check="unless within 3 %% of the shaper and 1 %% of the command",
        failures=(NetworkError, msgspec.DecodeError, ValueError),
    )
    parser.add_argument("--rates", type=float, nargs="+", default=RATES_MBPS, metavar="MBPS", help="(5 40 150)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each, in turn (default 3)")
    parser.add_argument("--seconds", type=int, default=5, metavar="N", help="measured after 1 s of start (default 5)")


def run(arguments: argparse.Namespace) -> Judged:
    """Measure and judge; raise Complaint, or what `measure` raises."""
    if arguments.seconds < 1 or arguments.rounds < 1 or not all(1 <= rate <= 1000 for rate in arguments.rates):  # noqa: PLR2004  # what tbf holds
        raise Complaint("--seconds and --rounds are 1 or more, --rates from 1 to 1000", status=2)
    rows = list(measure(arguments.rates, rounds=arguments.rounds, seconds=arguments.seconds))
    good = all(row.good for row in rows)
    found = {
        "rows": rows,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "within_of_shaper": OF_THE_SHAPER,
        "within_of_command": OF_THE_COMMAND,
        "good": good,
    }
    return Judged(
        found, _table(rows), () if good else ["the goal (within 3 % of the shaper, 1 % of the command) is missed"]
    )


def measure(rates_mbps: Sequence[float], *, rounds: int, seconds: int) -> Iterator[Row]:
    """Measure every rate in both directions, ours and the command's by turns; raise NetworkError."""
    with Run() as world:
        link = Shaped(world)
        link.serve(*_PORTS)
        for rate_mbps in rates_mbps:
            link.set_rate(rate_mbps)
            ours: dict[Direction, list[_Figures]] = {"down": [], "up": []}
            command: dict[Direction, list[_Figures]] = {"down": [], "up": []}
            for number in range(rounds):
                say(f"{rate_mbps:g} Mbps, round {number + 1} of {rounds} ...")
                for way, figures in _ours(link, seconds).items():
                    ours[way].append(figures)
                for way, found in command.items():
                    found.append(_command(link, way, seconds))
            for way, found in command.items():
                yield _row(way, rate_mbps, ours[way], found)


def _ours(link: Shaped, seconds: int) -> dict[Direction, _Figures]:
    options = ThroughputOptions(duration_s=seconds, omit_s=_OMIT_S, streams=_STREAMS)
    task = Task(interface=DEVICE, host=SERVER, ports=_PORTS[:2], options=options)
    with Watch(link) as watch:
        process = link.probe.popen(
            [sys.executable, "-m", "lab.throughput.once"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            stdout, _ = process.communicate(msgspec.json.encode(task), timeout=options.longest_s + _SPARE_S)
        except subprocess.TimeoutExpired as error:
            raise NetworkError(f"no answer in {error.timeout:.0f} s") from error
    answer = msgspec.json.decode(stdout, type=Answer)
    if answer.failed is not None or answer.download is None or answer.upload is None:
        raise NetworkError(answer.failed or "no figures")
    if answer.invalid:
        raise NetworkError(f"ours is no sample: {', '.join(answer.invalid)}")
    transfers: dict[Direction, Transfer] = {"down": answer.download, "up": answer.upload}
    return {
        way: _Figures(
            steady_mbps=transfer.steady_mbps,
            whole_mbps=transfer.mbps,
            let_through_mbps=watch.payload_mbps(way, omit_s=_OMIT_S, length_s=seconds),
        )
        for way, transfer in transfers.items()
    }


def _command(link: Shaped, way: Direction, seconds: int) -> _Figures:
    words = ["iperf3", "-J", "-c", SERVER, "-p", str(_PORTS[2]), "--bind-dev", DEVICE, "-C", "cubic", "-i", "0.5"]
    words += ["-P", str(_STREAMS), "-O", str(_OMIT_S), "-t", str(seconds), *(["-R"] if way == "down" else [])]
    with Watch(link) as watch:
        report: dict[str, Any] = json.loads(link.probe.run(words, timeout_s=seconds + _SPARE_S, check=False))
    if "error" in report:
        raise NetworkError(f"iperf3: {report['error']}")
    return _Figures(
        steady_mbps=report["end"]["sum_received"]["bits_per_second"] / 1e6,
        whole_mbps=None,
        let_through_mbps=watch.payload_mbps(way, omit_s=_OMIT_S, length_s=seconds),
    )


def _row(way: Direction, rate_mbps: float, ours: Sequence[_Figures], command: Sequence[_Figures]) -> Row:
    of_shaper = [one.steady_mbps / one.let_through_mbps[0] for one in ours]
    command_of_shaper = [one.steady_mbps / one.let_through_mbps[0] for one in command]
    whole = [one.whole_mbps / one.let_through_mbps[1] for one in ours if one.whole_mbps is not None]
    return Row(
        direction=way,
        shaper_mbps=rate_mbps,
        let_through_mbps=round(median(one.let_through_mbps[0] for one in ours), 3),
        ours_mbps=median(one.steady_mbps for one in ours),
        command_mbps=round(median(one.steady_mbps for one in command), 3),
        ours_of_shaper=round(median(of_shaper), 4),
        command_of_shaper=round(median(command_of_shaper), 4),
        ours_of_command=round(median(of_shaper) / median(command_of_shaper), 4),
        whole_of_shaper=round(median(whole), 4) if whole else 0.0,
    )


def _table(rows: Sequence[Row]) -> str:
    head = (
        "direction",
        "shaper",
        "let through",
        "ours",
        "iperf3",
        "ours/let",
        "iperf3/let",
        "ours/iperf3",
        "whole/let",
    )
    cells = [
        (
            row.direction,
            row.shaper_mbps,
            row.let_through_mbps,
            row.ours_mbps,
            row.command_mbps,
            row.ours_of_shaper,
            row.command_of_shaper,
            row.ours_of_command,
            row.whole_of_shaper,
        )
        for row in rows
    ]
    told = "Mbps of TCP payload after slow start, medians; let: what the cable carried behind the shaper, same seconds"
    return f"{render(head, cells)}\n{told}"
