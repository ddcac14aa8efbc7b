"""A whole fleet on one machine: probes in namespaces, cells, modems, and the real servers, as objects to play with.

    with Fleet(sites.fleet(3)) as fleet:
        probe = fleet.probes["lc-tan-phong-1"]
        probe.agent.kill(); probe.agent.start()
        probe.cells["viettel"].cut(); probe.modems["viettel"].unplug()
        fleet.broker.restart(); fleet.influx.stop()
        fleet.finish()                                  # agents end cleanly, the database catches up
        fleet.counts()                                  # made = spooled = journalled = points

Agents, collector, responder, mosquitto, InfluxDB, iperf3 and irtt are the real ones, started as anybody would. When the
`with` ends, no process, namespace or file is left. With `loopback` everything is on 127.0.0.1 and nothing is shaped;
that needs no root.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from typing import TYPE_CHECKING, Final, Self

from agent.spool import Spool
from base.durable import StorageError
from collector import stats
from collector.journal import Journal
from lab import configs, pki
from lab.modem import SimulatedModem, cell_of
from lab.network import Loopback, Shaped
from lab.probe_box import ProbeBox
from lab.programs import Program
from lab.rundir import RunDir
from lab.servers import Influxd, Mosquitto, free_port
from lab.signals import undisturbed
from lab.summary import Count
from wire import topics
from wire.codec import decode_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from lab.sites import SitePlan
    from wire.results import Result

_POLL_S: Final = 0.05
_READY_WITHIN_S: Final = 20.0
_CAUGHT_UP_WITHIN_S: Final = 20.0
_IDLE_WITHIN_S: Final = 40.0
_QUIET_S: Final = 0.3  # longer than between two runs that are both due
_READ_AT_ONCE: Final = 1000
_TEST_S: Final = 5
_LOOPBACK_TEST_S: Final = 1  # there is nothing to learn from a machine talking to itself


class FleetError(Exception):
    """The fleet could not be set up, or a part of it is gone; the text says which and shows its last words."""


class Fleet:
    """The fleet of a plan; `on_stage` hears of every stage of the set-up when it begins (None) and what it has done."""

    def __init__(
        self,
        plan: Sequence[SitePlan],
        *,
        loopback: bool = False,
        influxdb: bool = True,
        pace: configs.Pace | None = None,
        on_stage: Callable[[str, str | None], None] = lambda _stage, _done: None,
    ) -> None:
        """Plan it; nothing is made yet."""
        self.plan = tuple(plan)
        self.loopback = loopback
        self.pace = pace or configs.Pace.of(self.plan, duration_s=_LOOPBACK_TEST_S if loopback else _TEST_S)
        self.probes: dict[str, ProbeBox] = {}
        self.influx: Influxd | None = None
        self._wants_influxdb = influxdb
        self._on_stage = on_stage
        self._closing = contextlib.ExitStack()
        self._read_until = 0

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, remove every namespace and file; can be repeated."""
        with undisturbed():
            self._closing.close()

    # --- what may be asked while it runs ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ProgramError or FleetError if something that should run has ended."""
        for program in (self.collector, self.responder, *(probe.agent for probe in self.probes.values())):
            program.check()
        for server in (self.broker, self.influx):
            if server is not None and server.pid is None:
                raise FleetError(f"{server.program} is gone:\n{server.log_tail()}")

    def last_words(self) -> str:
        """Show the end of what every process has written."""
        programs = (self.collector, self.responder, *(probe.agent for probe in self.probes.values()))
        tails = [(program.name, program.log_tail()) for program in programs]
        tails += [(server.program, server.log_tail(4)) for server in (self.broker, self.influx) if server is not None]
        return "\n".join(f"--- {name}\n{tail}" for name, tail in tails)

    def new_results(self) -> Iterator[Result]:
        """Give the results that have reached the journal since the last call."""
        with contextlib.suppress(StorageError), Journal(self.journal_file, read_only=True) as journal:
            while rows := journal.read(self._read_until, _READ_AT_ONCE):
                for row in rows:
                    self._read_until = row.id
                    yield decode_result(row.payload)

    def journal_counts(self) -> dict[str, int]:
        """Count the journal's results by probe."""
        return {probe: found.results for probe, found in self._journal_stats().items()}

    def _journal_stats(self) -> dict[str, stats.ProbeStats]:
        with Journal(self.journal_file, read_only=True) as journal:
            return stats.collect(journal).probes

    def points(self) -> dict[str, tuple[int, int]] | None:
        """Count InfluxDB's points by probe: all, and those with an identity of their own; None without InfluxDB."""
        if self.influx is None:
            return None
        query = "SELECT seq, spool_id FROM /.*/ GROUP BY probe"  # whatever came of a result; a status has no seq
        with self.network.at_the_core():
            rows = self.influx.query(query, configs.DATABASE)
        found: dict[str, list[tuple[str, int]]] = {}
        for row in rows:
            found.setdefault(row["probe"], []).append((row["spool_id"], row["seq"]))
        return {probe: (len(ids), len(set(ids))) for probe, ids in found.items()}

    def counts(self) -> list[Count]:
        """Count every probe's results at every station; agents whose counts are to be final must have ended."""
        journalled, points = self._journal_stats(), self.points()
        counted = []
        for name, probe in self.probes.items():
            made, spooled, waiting, refused = 0, 0, 0, 0
            if probe.spool_file.exists():
                spool = Spool(probe.spool_file, max_bytes=2**40)
                made, spooled, waiting, refused = spool.counts()
                spool.close()
            found = journalled.get(name, stats.ProbeStats())
            in_influx = (None, None) if points is None else points.get(name, (0, 0))
            counted.append(Count(name, made, spooled, waiting, refused, found.results, *in_influx))
        return counted

    def finish(self) -> None:
        """End the agents, each between two measurements if it can, and wait until the database has caught up."""
        running = [probe for probe in self.probes.values() if probe.agent.pid is not None]
        busy = {probe.plan.probe_id: time.monotonic() for probe in running}  # when it was last seen measuring
        deadline_s = time.monotonic() + _IDLE_WITHIN_S
        while busy:
            for probe in running:
                name = probe.plan.probe_id
                if name in busy and probe.measuring():
                    busy[name] = time.monotonic()
                if name in busy and (busy[name] < time.monotonic() - _QUIET_S or time.monotonic() > deadline_s):
                    probe.agent.ask_to_stop()
                    del busy[name]
            time.sleep(_POLL_S)
        for probe in running:
            status = probe.agent.stop()
            if status != 0:
                raise FleetError(f"{probe.agent.name} ended with status {status}:\n{probe.agent.log_tail()}")
        deadline_s = time.monotonic() + _CAUGHT_UP_WITHIN_S
        while (points := self.points()) is not None and time.monotonic() < deadline_s:
            if sum(distinct for _, distinct in points.values()) >= sum(self.journal_counts().values()):
                return
            time.sleep(4 * _POLL_S)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        self.run_dir = self._closing.enter_context(RunDir())
        for stage, action in (
            ("network", self._make_network),
            ("broker", self._start_broker),
            ("database", self._start_influxdb),
            ("collector", self._start_collector),
            ("responder", self._start_responder),
            ("modems", self._plug_modems),
            ("agents", self._start_agents),
        ):
            self._on_stage(stage, None)
            self._on_stage(stage, action())

    def _make_network(self) -> str:
        self.network = Loopback() if self.loopback else self._closing.enter_context(Shaped(self.plan))
        for site in self.plan:
            folder = self.run_dir.folder(site.probe_id)
            prefix = self.network.prefix(site.probe_id)
            agent = Program(f"agent of {site.probe_id}", "agent.cli", folder / "agent.yaml", prefix=prefix)
            probe = ProbeBox(site, folder, agent)
            probe.cells = self.network.cells(site.probe_id)
            self.probes[site.probe_id] = probe
        return self.network.describe()

    def _start_broker(self) -> str:
        folder = self.run_dir.folder("pki")
        self.tls = pki.make_server_certificate(folder, [self.network.address, "localhost"])
        self.passwords = {
            name: secrets.token_urlsafe(16) for name in ("collector", "responder", *(probe for probe in self.probes))
        }
        self.broker = Mosquitto(
            self.run_dir.folder("mosquitto"),
            users=self.passwords,
            tls=self.tls,
            extra=[
                "log_type error",
                "log_type warning",
                "log_type notice",
                "log_type information",
                "log_type subscribe",
            ],
            host=self.network.address,
            port=free_port() if self.loopback else 8883,
            prefix=self.network.core_prefix,
        )
        self._closing.callback(self.broker.stop)
        self.broker.start()
        iperf_port = free_pair() if self.loopback else 5201
        irtt_port = free_port(socket.SOCK_DGRAM) if self.loopback else 2112
        self.place = configs.Place(
            host=self.network.address,
            broker_port=self.broker.port,
            ca_file=self.tls.ca_file,
            iperf_port=iperf_port,
            irtt_port=irtt_port,
            congestion=self.network.congestion,
        )
        return (
            f"mosquitto on {self.broker.host}:{self.broker.port}, TLS, {len(self.passwords)} users, each its own branch"
        )

    def _start_influxdb(self) -> str:
        if not self._wants_influxdb:
            return "none: the collector's journal alone"
        self.influx = Influxd(
            self.run_dir.folder("influxdb"),
            port=None if self.loopback else 8086,
            rpc_port=None if self.loopback else 8088,
            prefix=self.network.core_prefix,
        )
        self._closing.callback(self.influx.stop)
        self.influx.start()
        with self.network.at_the_core():
            self.influx.query(f"CREATE DATABASE {configs.DATABASE}")
        return f"InfluxDB 1.x on {self.influx.url}, database {configs.DATABASE}"

    def _start_collector(self) -> str:
        folder = self.run_dir.folder("collector")
        document = configs.collector(self.place, folder, influx_url=self.influx.url if self.influx else None)
        self.journal_file = folder / "journal.db"
        self.collector = self._start_program("collector", folder, document, hears=topics.RESULT)
        return f"journal {self.journal_file}"

    def _start_responder(self) -> str:
        folder = self.run_dir.folder("responder")
        document = configs.responder(self.place, folder)
        self.responder = self._start_program("responder", folder, document, hears=topics.LEASE_REQUEST)
        last = self.place.iperf_port + configs.PORTS_LENT - 1
        ports = f"{self.place.host}:{self.place.iperf_port}-{last}"
        return f"lends iperf3 on {ports}, one test at a time; irtt on {self.place.irtt_port}"

    def _plug_modems(self) -> str:
        for probe in self.probes.values():
            for link in probe.plan.links:
                cell = cell_of(link.operator, number=link.number, rsrp_dbm=link.rsrp_dbm, sinr_db=link.sinr_db)
                modem = SimulatedModem(link.modem, cell, link=probe.folder / f"modem-{link.name}", seed=link.number)
                self._closing.callback(modem.stop)
                probe.modems[link.name] = modem.start()
        modems = [f"{link.modem} ({link.name})" for site in self.plan for link in site.links]
        return ", ".join(modems)

    def _start_agents(self) -> str:
        for name, probe in self.probes.items():
            ports = {link: modem.port for link, modem in probe.modems.items()}
            document = configs.agent(probe.plan, self.pace, self.place, probe.folder, ports)
            configs.write(probe.folder, "agent", document, user=name, password=self.passwords[name])
            self._closing.callback(probe.agent.kill)
            probe.agent.start()
        for probe in self.probes.values():
            self._wait_for_subscription(probe.agent, topics.topic(probe.plan.probe_id, topics.ACK))
        return ", ".join(self.probes)

    def _start_program(self, name: str, folder: Path, document: configs.Document, *, hears: str) -> Program:
        config = configs.write(folder, name, document, user=name, password=self.passwords[name])
        program = Program(name, f"{name}.cli", config, prefix=self.network.core_prefix)
        self._closing.callback(program.kill)
        program.start()
        self._wait_for_subscription(program, topics.every_probe(hears))
        return program

    def _wait_for_subscription(self, program: Program, topic: str) -> None:
        """Wait until the broker has noted in its log that somebody listens there."""
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while f" {topic}\n" not in self.broker.log_file.read_text(errors="replace"):
            program.check()
            if time.monotonic() > deadline_s:
                raise FleetError(f"{program.name} does not subscribe at the broker:\n{program.log_tail()}")
            time.sleep(_POLL_S)


def free_pair() -> int:
    """Name the first of two neighbouring ports that nobody had a moment ago, on 127.0.0.1."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as second:
            second.bind(("127.0.0.1", first + 1))
            return first
