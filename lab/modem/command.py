"""`probe-lab modem`: one simulated modem as a process of its own, for any tool that talks to a serial port."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from base.configfile import ConfigError
from base.logs import set_up
from lab.modem.cells import OPERATORS, cell_of
from lab.modem.dialects import DIALECTS
from lab.modem.faults import FaultKind
from lab.modem.scenario import load_scenario
from lab.modem.simulated import SimulatedModem

_EXAMPLES: Final = """examples:
  probe-lab modem --list
  probe-lab modem --dialect quectel-ec25 --operator viettel --verbose
  probe-lab modem --dialect simcom-sim7600 --link /tmp/modem0 --rsrp -112
  probe-lab modem --dialect huawei-me909 --fault sim-pin        # the PIN is 1234
  probe-lab modem --dialect quectel-ec25 --scenario bad-day.yaml

then, in another terminal: picocom /tmp/modem0

a scenario file:
  repeat_s: 120
  events:
    - {at_s: 10, fault: {kind: slow, command: "+CSQ", delay_s: 4}}
    - {at_s: 20, clear: slow}
    - {at_s: 30, fault: {kind: denied}}
    - {at_s: 60, do: clear-all}       # or unplug, replug, power-cycle
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `modem`; its parser sets `run`, a function from the parsed arguments to the exit status."""
    parser = subparsers.add_parser(
        "modem",
        help="a simulated modem on a pseudo-terminal",
        description="Serve a simulated modem on a pseudo-terminal until Ctrl-C.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list the dialects and stop")
    parser.add_argument("--dialect", choices=list(DIALECTS), default="quectel-ec25")
    parser.add_argument("--operator", choices=list(OPERATORS), default="viettel")
    parser.add_argument("--link", type=Path, help="a name that stays (default: one in the temporary directory)")
    parser.add_argument("--rsrp", type=float, default=-95.0, metavar="DBM", help="mean level (default: -95)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another modem, SIM and walk")
    parser.add_argument("--scenario", type=Path, metavar="FILE", help="YAML: what happens when")
    parser.add_argument("--fault", action="append", default=[], choices=[kind.value for kind in FaultKind])
    parser.add_argument("--json", action="store_true", help="print dialect, port, link and serial number as JSON")
    parser.add_argument("--verbose", action="store_true", help="log the dialogue (a PIN is not shown)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status (0 fine, 1 did not work, 2 wrong usage)."""
    if arguments.list:
        _list(as_json=arguments.json)
        return 0
    set_up(verbose=arguments.verbose)
    link = arguments.link or Path(tempfile.gettempdir()) / f"probe-lab-modem-{os.getpid()}"
    try:
        scenario = load_scenario(arguments.scenario) if arguments.scenario else None
        cell = cell_of(arguments.operator, rsrp_dbm=arguments.rsrp)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    modem = SimulatedModem(arguments.dialect, cell, link=link, seed=arguments.seed, scenario=scenario)
    try:
        with modem.start():
            for kind in arguments.fault:
                modem.fault(kind)
            _tell(modem, arguments.dialect, as_json=arguments.json)
            ended.wait()
    except OSError as error:
        sys.stderr.write(f"{error.filename or link}: {error.strerror or error}\n")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _tell(modem: SimulatedModem, dialect: str, *, as_json: bool) -> None:
    facts = {"dialect": dialect, "tty": modem.tty, "link": str(modem.port), "imei": modem.imei}
    if as_json:
        text = json.dumps(facts)
    else:
        text = f"{dialect} on {modem.tty}; {modem.port} stays when that name changes. Ctrl-C ends it."
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _list(*, as_json: bool) -> None:
    rows = [{"dialect": name, "maker": kind.manufacturer, "model": kind.model} for name, kind in DIALECTS.items()]
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    for row in rows:
        sys.stdout.write(f"{row['dialect']:16} {row['maker']} {row['model']}\n")
