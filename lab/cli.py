"""`probe-lab`: a fleet in a box. Each subcommand lives in a module of its own, with `add_parser` and `run`."""

from __future__ import annotations

import argparse
import io
import logging
import sys
from typing import TYPE_CHECKING, Final

from lab.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES: Final = """\
examples:
  sudo probe-lab demo                    three sites measure for two minutes; then the summary
  probe-lab demo --loopback              the same without root: no namespaces, no shaping
  sudo probe-lab bench cell              does an emulated link carry what it promises?
  sudo probe-lab bench throughput        are the agent's figures right, and iperf3's own?
  probe-lab bench method                 which way to test makes a month's mean certain for the fewest bytes?
  probe-lab torture --rounds 50          kill, cut power, damage, repeat: is every result there once?
  sudo probe-lab bench wire              what results cost on the wire: bytes each, and a day
  probe-lab bench sdcard                 what a probe's day writes to its card
  probe-lab simulate plan                what 300 links measure and spend in a month of their data plans
  probe-lab modem --help                 one simulated modem on a pseudo-terminal
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 0 if it did its work, 1 if it could not, 2 for wrong usage, 130 when interrupted."""
    try:
        with interruptible():
            status = _main(arguments)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        status = 1
    sys.exit(status)


def _main(arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # Vietnamese names on a terminal that has no letters for them
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    from lab import demo, simulate_plan  # noqa: PLC0415  # here an interruption is already quiet
    from lab.capacity import command as fleet  # noqa: PLC0415  # the same
    from lab.cell import bench  # noqa: PLC0415  # the same
    from lab.collecting import bench as collecting  # noqa: PLC0415  # the same
    from lab.idle import bench as idle  # noqa: PLC0415  # the same
    from lab.lending import bench as lease  # noqa: PLC0415  # the same
    from lab.lending import capacity, stuck  # noqa: PLC0415  # the same
    from lab.method import bench as method  # noqa: PLC0415  # the same
    from lab.modem import command as modem  # noqa: PLC0415  # the same
    from lab.modem import soak  # noqa: PLC0415  # the same
    from lab.throughput import bench as throughput  # noqa: PLC0415  # the same
    from lab.throughput import soak as tests  # noqa: PLC0415  # the same
    from lab.torture import command as torture  # noqa: PLC0415  # the same
    from lab.wire import bench as wire  # noqa: PLC0415  # the same
    from lab.wire import sdcard  # noqa: PLC0415  # the same

    parser = argparse.ArgumentParser(
        prog="probe-lab",
        description="A fleet in a box: simulated modems and emulated links under the real agent, broker and collector.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo.add_parser(commands)
    modem.add_parser(commands)
    torture.add_parser(commands)
    benches = commands.add_parser("bench", help="how well parts of the lab do")
    parts = benches.add_subparsers(required=True, metavar="PART")
    bench.add_parser(parts)
    collecting.add_parser(parts)
    idle.add_parser(parts)
    lease.add_parser(parts)
    stuck.add_parser(parts)
    method.add_parser(parts)
    wire.add_parser(parts)
    sdcard.add_parser(parts)
    throughput.add_parser(parts)
    capacities = fleet.add_parser(commands)
    capacity.add_parser(capacities.add_subparsers(metavar="[PART]", title="parts"))
    soaks = commands.add_parser("soak", help="parts of the agent through thousands of bad days")
    bad_days = soaks.add_subparsers(required=True, metavar="PART")
    soak.add_parser(bad_days)
    tests.add_parser(bad_days)
    simulations = commands.add_parser("simulate", help="what would take a month, in seconds")
    simulate_plan.add_parser(simulations.add_subparsers(required=True, metavar="PART"))
    return parser


if __name__ == "__main__":
    main()
