"""The stand that faults are tried on: mosquitto, InfluxDB, the collector, and probes that send as fast as told.

The probes' spools and the collector's journal lie on disks of `lab.torture.disk`. Everything is in one folder that goes
with the run; programs that end by themselves are started again, as systemd would.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

import msgspec
import yaml

from lab.programs import Program, ProgramError
from lab.rundir import RunDir
from lab.servers import Influxd, Mosquitto
from lab.torture import filler
from lab.torture.disk import Disk, build_shim

if TYPE_CHECKING:
    import random
    from pathlib import Path

DATABASE: Final = "probefleet"
PROBES: Final = 3
TOKENS_EACH: Final = 10**9
SETTLES_WITHIN_S: Final = 120.0
_QUEUE_LIMIT: Final = 60
"""Messages that the broker keeps for a collector that is away; a stock mosquitto keeps 1,000."""
_POLL_S: Final = 0.1


class Writer:
    """One probe, its disk, and what it knows of its results."""

    def __init__(self, stand: Stand, name: str, probe_id: str, number: int, per_s: float) -> None:
        self.name = name
        self.probe_id = probe_id
        self.folder = stand.run.folder(name)
        self.data = self.folder / "data"
        self.memory = self.folder / "memory"
        self.truth = self.folder / "truth"
        self.disk = Disk(self.data, stand.shim, self.folder / "disk")
        self.first_token = 1 + number * TOKENS_EACH
        orders = filler.Orders(
            probe_id=probe_id,
            data_dir=str(self.data),
            memory_dir=str(self.memory),
            truth=str(self.truth),
            broker_port=stand.broker.port,
            per_s=per_s,
            first_token=self.first_token,
        )
        config = self.folder / "orders.json"
        config.write_bytes(msgspec.json.encode(orders))
        self.program = Program(name, "lab.torture.filler", config, prefix=_with(self.disk.environment))
        self._pauses = 0

    @property
    def spool_file(self) -> Path:
        """The spool."""
        return self.data / filler.SPOOL_FILE

    def pause(self) -> None:
        """Make nothing new; what is spooled still travels."""
        self._pauses += 1
        (self.folder / filler.PAUSED_FILE).write_text(str(self._pauses))

    def go_on(self) -> None:
        """Make results again."""
        (self.folder / filler.PAUSED_FILE).unlink(missing_ok=True)

    def rests(self) -> bool:
        """Whether it has said, since the last `pause`, that nothing is being made and nothing is deferred."""
        try:
            return (self.folder / filler.RESTING_FILE).read_text() == str(self._pauses)
        except FileNotFoundError:
            return False

    def forget(self) -> None:
        """Lose what was in memory: a power cut."""
        shutil.rmtree(self.memory, ignore_errors=True)

    def backlog(self) -> int | None:
        """Count what waits; None if the spool cannot be read now."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.spool_file}?mode=ro", uri=True, timeout=1)) as db:
                found: int = db.execute("SELECT COUNT(*) FROM results").fetchone()[0]
        except sqlite3.Error:
            return None
        return found

    def spool_id(self) -> str:
        """Name the spool that it writes now, "" if that cannot be read."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.spool_file}?mode=ro", uri=True, timeout=1)) as db:
                return str(db.execute("SELECT value FROM meta WHERE key='spool_id'").fetchone()[0])
        except (sqlite3.Error, TypeError):
            return ""


class Stand:
    """Everything, at work when entered (ServerError or ProgramError if not) and gone when left."""

    def __init__(self, chance: random.Random, *, per_s: float) -> None:
        """Plan it; raise lab.torture.disk.ShimError."""
        self.chance = chance
        self.per_s = per_s
        self.run = RunDir()
        try:
            self.shim = build_shim(self.run.path)
        except BaseException:
            self.run.close()
            raise
        self.broker = Mosquitto(self.run.folder("broker"), extra=[f"max_queued_messages {_QUEUE_LIMIT}"])
        self.influx = Influxd(self.run.folder("influx"))
        folder = self.run.folder("collector")
        self.journal_file = folder / "data" / "journal.db"
        self.journal_disk = Disk(self.journal_file.parent, self.shim, folder / "disk")
        self.collector_config = self._configure(folder)
        self.collector = Program(
            "collector", "collector.cli", self.collector_config, prefix=_with(self.journal_disk.environment)
        )
        self.writers = [Writer(self, f"probe-{n + 1}", f"probe-{n + 1}", n, per_s) for n in range(PROBES)]
        self.gone: list[Writer] = []
        self._tracebacks: Counter[str] = Counter()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.program.kill()
        self.collector.kill()
        self.influx.kill()
        self.broker.kill()
        self.run.close()

    def twin(self, of: Writer) -> Writer:
        """Add a probe that claims to be another; its spool is not made yet."""
        number = len(self.writers) + len(self.gone)
        twin = Writer(self, f"twin-{number + 1}", of.probe_id, number, self.per_s)
        self.writers.append(twin)
        return twin

    def retire(self, writer: Writer) -> None:
        """End a probe for good; what it made must be there all the same."""
        writer.program.stop()
        self.writers.remove(writer)
        self.gone.append(writer)

    def cut_power_at(self, writer: Writer) -> None:
        """Let a probe lose its power and come back."""
        writer.program.kill()
        writer.disk.cut_power(self.chance)
        writer.forget()
        writer.program.start()

    def cut_power_at_the_server(self) -> None:
        """Kill collector, broker and database at once; the journal keeps what a power cut leaves, the broker nothing.

        InfluxDB's disk is not modelled: it keeps what it had written, as after a kill -9. By its own word it syncs its
        log before it answers (InfluxDB 1.x, `wal-fsync-delay` 0); nothing here tries that.
        """
        self.collector.kill()
        self.broker.kill()
        self.influx.kill()
        self.journal_disk.cut_power(self.chance)
        self.forget()
        self.broker.start()
        self.influx.start()
        self.collector.start()

    def forget(self) -> None:
        """Wipe the memory of a broker that does not run."""
        for file in self.broker.data_dir.glob("mosquitto.db*"):
            file.unlink()

    def tend(self) -> None:
        """Start whatever does not run."""
        self.broker.start()
        self.influx.start()
        self.collector.start()
        for writer in self.writers:
            writer.program.start()

    def rest(self) -> None:
        """Keep the models of the disks small."""
        for disk in (self.journal_disk, *(writer.disk for writer in self.writers)):
            disk.follow()

    def settle(self) -> list[str]:
        """Make nothing new and wait until every station is empty; return who is not in time."""
        for writer in self.writers:
            writer.pause()
        deadline_s = time.monotonic() + SETTLES_WITHIN_S
        while True:
            self.tend()
            self.rest()
            busy = self._busy()
            if not busy:
                return []
            if time.monotonic() > deadline_s:
                return [f"{one} after {SETTLES_WITHIN_S:.0f} s" for one in busy]
            time.sleep(_POLL_S)

    def tracebacks(self) -> list[str]:
        """Name who has met an error of its own since this was asked last; what goes on after that may lack a part."""
        found: list[str] = []
        for program in (self.collector, *(writer.program for writer in self.writers)):
            log = program.log_file.read_text(errors="replace") if program.log_file.exists() else ""
            new = log.count("Traceback") - self._tracebacks[program.name]
            self._tracebacks[program.name] += new
            found += [f"{program.name}: {new} tracebacks in its log"] if new else []
        return found

    def go_on(self) -> None:
        """Let the probes make results again."""
        for writer in self.writers:
            writer.go_on()

    def copy_card(self, writer: Writer, to: Path) -> None:
        """Copy a dead probe's card."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(writer.data, to, ignore=shutil.ignore_patterns("*-shm"))

    def put_card_back(self, writer: Writer, image: Path) -> None:
        """Give a dead probe another card."""
        for file in writer.data.iterdir():
            file.unlink()
        shutil.copytree(image, writer.data, dirs_exist_ok=True)
        writer.forget()
        writer.disk.adopt()

    def last_words(self) -> str:
        """Return what the programs said last."""
        programs = [self.collector, *(writer.program for writer in self.writers)]
        return "\n".join(f"--- {program.name}\n{program.log_tail(12)}" for program in programs)

    def _begin(self) -> None:
        if late := self.settle():
            raise ProgramError(f"{'; '.join(late)}\n{self.last_words()}")

    def _busy(self) -> list[str]:
        """Name who is not done. Asked in the order in which results travel: what has left one is at the next."""
        busy = [f"{writer.name}: makes or defers results" for writer in self.writers if not writer.rests()]
        busy += [f"{w.name}: {'?' if left is None else left} wait" for w in self.writers if (left := w.backlog()) != 0]
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.journal_file}?mode=ro", uri=True, timeout=1)) as db:
                (last,) = db.execute("SELECT COALESCE(MAX(id), 0) FROM results").fetchone()
                row = db.execute("SELECT result_id FROM cursors").fetchone()
            if row is None or row[0] < last:
                busy.append("InfluxDB is behind the journal")
        except sqlite3.Error:
            busy.append("the journal cannot be read")
        return busy

    def _configure(self, folder: Path) -> Path:
        config = folder / "collector.yaml"
        document = {
            "broker": {"host": "127.0.0.1", "port": self.broker.port, "tls": None, "keepalive_s": 5},
            "journal": {"path": str(self.journal_file)},
            "sink": {"kind": "influxdb1", "url": self.influx.url, "database": DATABASE, "timeout_s": 5},
        }
        config.write_text(yaml.safe_dump(document))
        return config


def _with(environment: dict[str, str]) -> tuple[str, ...]:
    return ("env", *(f"{key}={value}" for key, value in environment.items()))
