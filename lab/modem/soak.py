"""`probe-lab soak modem`: thousands of looks on bad days; each ends in a reading or a reason, nothing is left behind.

The agent's session is the real one, on a real pseudo-terminal; only its patience is short: its clock runs faster than
ours, so that a wait of twelve seconds takes a quarter of one.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import psutil

from agent.modem.errors import ModemError
from agent.modem.serial_port import open_port
from agent.modem.session import ModemSession
from base.table import render
from lab.modem.cells import cell_of
from lab.modem.dialects import DIALECTS
from lab.modem.faults import FaultKind
from lab.modem.simulated import SimulatedModem
from wire.radio import Registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.modem.serial_port import Port
    from wire.radio import RadioReading

FASTER: Final = 50.0
_LOOK_WITHIN_S: Final = 30.0
_A_MODEM_LASTS: Final = 100
_BACK_WITHIN_S: Final = 10.0
_WARM_UP: Final = 0.2
_TELL_EVERY_S: Final = 10.0
_COMMANDS: Final = (
    *[None] * 5,
    "+CSQ",
    "+CEREG",
    "+COPS",
    "+QENG",
    "+CPSI",
    "^HCSQ",
    "+CGMI",
    "+CGSN",
    "+CPIN",
    "AT",
    "E0V1",
)
_NONE: Final = "none"
_UNPLUGGED: Final = "unplugged"
_READING: Final = "reading"
_DEFECT: Final = "defect"


MAX_GROWN_MB: Final = 8.0
"""More than the noise of an allocator over thousands of looks, far less than a leak of one buffer per look."""


class Report(NamedTuple):
    """What came of it: outcomes by fault; the growth of memory after the warm-up; what was left open; defects.

    `repeated`: looks at a modem in good health that failed in haste, and were repeated at the real pace.
    """

    cycles: int
    outcomes: Counter[tuple[str, str]]
    defects: tuple[str, ...]
    slowest_s: float
    grown_mb: float
    rss_mb: float
    left_descriptors: int
    left_threads: int
    repeated: int

    @property
    def good(self) -> bool:
        """Whether every look ended as it should, and nothing was left behind."""
        return not self.defects and self.grown_mb < MAX_GROWN_MB and self.left_descriptors <= 0 >= self.left_threads

    def table(self) -> str:
        """Draw the outcomes, a row for each fault."""
        kinds = sorted({outcome for _, outcome in self.outcomes}, key=lambda name: (name != _READING, name))
        rows = [
            [fault, *(self.outcomes[fault, kind] or "" for kind in kinds)]
            for fault in sorted({fault for fault, _ in self.outcomes})
        ]
        told = (
            f"{self.cycles} looks; the slowest took {self.slowest_s:.2f} s; memory {self.rss_mb:.1f} MB, grown by "
            f"{self.grown_mb:+.2f} MB after the warm-up; left open: {self.left_descriptors} descriptors, "
            f"{self.left_threads} threads; repeated at the real pace: {self.repeated}; defects: {len(self.defects)}"
        )
        return "\n".join([render(("fault", *kinds), rows), told, *self.defects[:20]])


class _Hasty:
    """A port on which waiting goes faster."""

    def __init__(self, port: Port, faster: float) -> None:
        self._port = port
        self._faster = faster
        self.name = port.name

    def read(self, timeout_s: float) -> bytes:
        return self._port.read(timeout_s / self._faster)

    def write(self, data: bytes) -> None:
        self._port.write(data)

    def close(self) -> None:
        self._port.close()


def soak(cycles: int, folder: Path, *, seed: int = 0, tell: Callable[[int], None] = lambda _: None) -> Report:
    """Look so often; `tell` hears how often by now."""
    chance = random.Random(seed)
    process = psutil.Process()
    before = (process.num_fds(), threading.active_count())
    outcomes: Counter[tuple[str, str]] = Counter()
    defects: list[str] = []
    slowest_s, warm_bytes, repeated, modem = 0.0, 0, 0, None
    try:
        for cycle in range(cycles):
            if cycle % _A_MODEM_LASTS == 0:
                modem = _fresh(modem, folder, chance, cycle)
            assert modem is not None  # noqa: S101  # made in the first cycle
            fault = _break(modem, chance)
            began_s = time.monotonic()
            outcome, defect = _look(modem, fault, FASTER)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            if defect and outcome not in {_DEFECT, _READING}:  # or the machine stood still for 0.06 s
                repeated += 1
                _mend(modem, _UNPLUGGED)
                outcome, defect = _look(modem, fault, 1.0)
            outcomes[fault, outcome] += 1
            if defect:
                defects.append(f"cycle {cycle}, {modem.port.name}, {fault}: {defect}")
            _mend(modem, fault)
            if cycle == int(cycles * _WARM_UP):
                gc.collect()
                warm_bytes = process.memory_info().rss
            tell(cycle + 1)
    finally:
        if modem is not None:
            modem.stop()
    gc.collect()
    rss = process.memory_info().rss
    return Report(
        cycles,
        outcomes,
        tuple(defects),
        slowest_s,
        (rss - warm_bytes) / 1e6,
        rss / 1e6,
        process.num_fds() - before[0],
        threading.active_count() - before[1],
        repeated,
    )


def _fresh(old: SimulatedModem | None, folder: Path, chance: random.Random, seed: int) -> SimulatedModem:
    if old is not None:
        old.stop()
    dialect = chance.choice(sorted(DIALECTS))
    cell = cell_of(chance.choice(["viettel", "mobifone", "vinaphone"]))
    quick = {"boot_s": 0.02, "register_s": 0.0, "latency_s": 0.0, "gap_s": 0.0}
    modem = SimulatedModem(dialect, cell, link=folder / dialect, seed=seed, **quick)  # type: ignore[arg-type]  # floats
    return modem.start()


def _break(modem: SimulatedModem, chance: random.Random) -> str:
    """Let something happen, in one of three cycles nothing; say what."""
    if chance.random() < 1 / 3:
        return _NONE
    kind = chance.choice([*FaultKind, None])
    if kind is None:
        modem.unplug()
        return _UNPLUGGED
    times = chance.choice([None, 1, 2])
    delay_s = chance.choice([0.02, 0.1]) if kind is FaultKind.VANISH else chance.choice([0.05, 0.5])
    modem.fault(kind, command=chance.choice(_COMMANDS), times=times, delay_s=delay_s, code=chance.choice([3, 14, 100]))
    return str(kind.value)


def _look(modem: SimulatedModem, fault: str, faster: float) -> tuple[str, str | None]:
    """Look as the agent does; return the kind of outcome, and what should not have been."""
    try:
        with ModemSession(
            str(modem.port),
            deadline_s=_LOOK_WITHIN_S,
            opener=lambda name: _Hasty(open_port(name), faster),
            clock=lambda: time.monotonic() * faster,
        ) as session:
            session.identify()
            reading = session.read_radio()
    except ModemError as error:
        where = f"its port is {modem.tty}, its link leads to {os.path.realpath(modem.port)}"
        return error.reason.value, f"a modem in good health was not read ({where}): {error}" if fault == _NONE else None
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        return _DEFECT, f"{type(error).__name__}: {error}"
    return _READING, _wrong(modem, reading) if fault == _NONE else None


def _wrong(modem: SimulatedModem, reading: RadioReading) -> str | None:
    """Compare with the truth, which wanders by at most twice its spread between two looks."""
    cell = modem.cell
    if (reading.registration, reading.mcc, reading.mnc) != (Registration.HOME, cell.mcc, cell.mnc):
        return f"read {reading.registration} in {reading.mcc}-{reading.mnc}, is at home in {cell.mcc}-{cell.mnc}"
    if reading.rsrp_dbm is None or abs(reading.rsrp_dbm - cell.rsrp_dbm) > cell.spread_db + 1:
        return f"read {reading.rsrp_dbm} dBm, it is {cell.rsrp_dbm} with {cell.spread_db} to either side"
    return None


def _mend(modem: SimulatedModem, fault: str) -> None:
    """Make it a good day again, and wait for the port. To plug it anew voids an unplugging that is still to come."""
    modem.clear()
    if fault in {FaultKind.VANISH.value, _UNPLUGGED}:
        modem.unplug()
    until_s = time.monotonic() + _BACK_WITHIN_S
    while modem.tty is None and time.monotonic() < until_s:
        modem.replug()
        time.sleep(0.01)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; its parser sets `run`, a function from the parsed arguments to the exit status."""
    parser = subparsers.add_parser(
        "modem",
        help="look at simulated modems on bad days",
        description="Look at simulated modems with random faults; exit 1 if a look does not end as it should.",
        epilog="example:\n  probe-lab soak modem --cycles 20000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cycles", type=int, default=1000, metavar="N", help="how many looks (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other bad days")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.cycles < 1:
        sys.stderr.write("--cycles must be at least 1\n")
        return 2
    told_s = time.monotonic()

    def tell(count: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            sys.stderr.write(f"{count} of {arguments.cycles} looks ...\n")

    with tempfile.TemporaryDirectory(prefix="probe-lab-soak-") as folder:
        report = soak(arguments.cycles, Path(folder), seed=arguments.seed, tell=tell)
    sys.stdout.write(report.table() + "\n")
    return 0 if report.good else 1
