"""`probe-lab bench cell`: does the emulated link carry what its shaper promises? Real iperf3 and ping say so."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from lab.benches import Complaint, Judged, add_bench, say
from lab.cell.link import CellError
from lab.cell.topology import build_core, build_probe
from lab.netns import NetworkError, Run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from lab.benches import Parts
    from lab.cell.link import Cell
    from lab.cell.topology import Probe

RATES_MBPS: Final = ((9, 3), (38, 12), (62, 21), (90, 30), (150, 150))
RTT_MS: Final = 40.0
STREAMS: Final = 4
_PORT: Final = 5201
_WORST_RATIO_ERROR: Final = 0.08

_EXAMPLES: Final = """examples:
  sudo probe-lab bench cell
  sudo probe-lab bench cell --check --seconds 3      exit status 1 if a ratio is off by more than 8 %
  sudo probe-lab bench cell --json > cell.json
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer over one link: what was promised and what came through."""

    direction: Literal["down", "up"]
    shaper_mbps: float
    expected_mbps: float
    measured_mbps: float  # TCP payload at the receiver, the first second left out
    ratio: float
    rtt_min_ms: float  # idle, by ping
    relay_cpu_percent: float  # of one core, during the transfer


def add_parser(parts: Parts) -> None:
    """Add `cell` to the benches."""
    parser = add_bench(
        parts,
        "cell",
        run,
        summary="rate, delay and CPU of the link emulator",
        description="Build an emulated link and send real TCP through it at several rates (about a minute; root).",
        examples=_EXAMPLES,
        check="if a ratio is off by more than 8 %%",
        failures=(NetworkError, CellError),
    )
    parser.add_argument("--seconds", type=int, default=5, metavar="N", help="length of each transfer (default 5)")


def run(arguments: argparse.Namespace) -> Judged:
    """Measure and judge; raise Complaint, NetworkError or CellError."""
    if arguments.seconds < 1:
        raise Complaint("--seconds must be 1 or more", status=2)
    rows = list(measure(arguments.seconds))
    lines = ["direction  shaper  expected  measured  ratio    RTT ms  relay CPU"]
    lines += [
        f"{row.direction:9}  {row.shaper_mbps:6.1f}  {row.expected_mbps:8.2f}  {row.measured_mbps:8.2f}  "
        f"{row.ratio:5.3f}  {row.rtt_min_ms:8.2f}  {row.relay_cpu_percent:7.1f} %"
        for row in rows
    ]
    off = [row for row in rows if abs(row.ratio - 1) > _WORST_RATIO_ERROR]
    missed = [f"{len(off)} of {len(rows)} transfers are further than 8 % from what the shaper lets through"]
    return Judged({"transfers": rows}, "\n".join(lines), missed if off else ())


def measure(seconds: int) -> Iterator[Row]:
    """Run every transfer of RATES_MBPS, one at a time; raise NetworkError or CellError."""
    with Run() as world:
        core = build_core(world)
        probe = build_probe(core, "bench", uplink="cell")
        cell = probe.attach_cell(down_mbps=9, up_mbps=3, rtt_ms=RTT_MS)
        core.namespace.popen(["iperf3", "-s", "-p", str(_PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for down_mbps, up_mbps in RATES_MBPS:
            say(f"{down_mbps}/{up_mbps} Mbps, {2 * (seconds + 1)} s ...")
            cell.set_rate(down_mbps, up_mbps)
            rtt_min_ms = ping(probe, cell.device)
            yield _transfer(probe, cell, "down", seconds, rtt_min_ms)
            yield _transfer(probe, cell, "up", seconds, rtt_min_ms)


def ping(probe: Probe, device: str, count: int = 10) -> float:
    """Smallest round trip to the core by that device, in ms."""
    command = ["ping", "-n", "-q", "-I", device, "-i", "0.1", "-c", str(count), probe.core.address]
    summary = probe.namespace.run(command).strip().splitlines()[-1]  # rtt min/avg/max/mdev = 40.5/...
    return float(summary.partition(" = ")[2].split("/")[0])


def iperf3(probe: Probe, device: str, direction: Literal["down", "up"], seconds: int) -> dict[str, Any]:
    """Run four cubic streams by that device against the core's iperf3, and give the report's `end`; NetworkError."""
    command = ["iperf3", "-J", "-c", probe.core.address, "-p", str(_PORT), "--bind-dev", device, "-C", "cubic"]
    options = ["-P", str(STREAMS), "-O", "1", "-t", str(seconds), *(["-R"] if direction == "down" else [])]
    report: dict[str, Any] = json.loads(probe.namespace.run([*command, *options], timeout_s=seconds + 30, check=False))
    if "error" in report:
        raise NetworkError(f"iperf3: {report['error']}")
    end: dict[str, Any] = report["end"]
    return end


def _transfer(probe: Probe, cell: Cell, direction: Literal["down", "up"], seconds: int, rtt_min_ms: float) -> Row:
    before_s = cell.report().cpu_s
    measured_mbps = iperf3(probe, cell.device, direction, seconds)["sum_received"]["bits_per_second"] / 1e6
    cpu_s = cell.report().cpu_s - before_s
    expected_mbps = cell.goodput_mbps(direction)
    return Row(
        direction=direction,
        shaper_mbps=cell.down_mbps if direction == "down" else cell.up_mbps,
        expected_mbps=expected_mbps,
        measured_mbps=measured_mbps,
        ratio=measured_mbps / expected_mbps,
        rtt_min_ms=rtt_min_ms,
        relay_cpu_percent=100 * cpu_s / (seconds + 1),
    )
