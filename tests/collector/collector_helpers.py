"""What the collector's tests share: made-up results, a probe that notes acks, the collector as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from base.broker import BrokerSettings, make_client
from collector.journal import Journal
from wire import codec, topics
from wire.delivery import Ack
from wire.measured import Failed, Radio, Throughput, Transfer
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Reason
from wire.results import Clock, Job, Result, Route, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lab.servers import Mosquitto

Found = TypeVar("Found")

START = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
USERS = {"collector": "secret-c", "p1": "secret-1", "p2": "secret-2", "p3": "secret-3"}
PATIENCE_S = 30.0

READING = RadioReading(
    registration=Registration.HOME,
    technology=Technology.LTE,
    operator="Viettel",
    rsrp_dbm=-97.0,
    rsrq_db=-11.5,
    sinr_db=8.0,
    band=3,
    earfcn=1300,
    pci=77,
    cell_id=1234567,
    enodeb_id=4822,
    bandwidth_mhz=20.0,
)


def result(seq: int, *, probe: str = "p1", spool: str = "s1", **changes: Any) -> Result:  # noqa: ANN401  # any field
    """One throughput result (or the outcome given); the start follows from seq."""
    fields: dict[str, Any] = {
        "probe_id": probe,
        "spool_id": spool,
        "seq": seq,
        "site": "tan-phong",
        "link": "viettel",
        "job": Job(name="light", measurement="throughput"),
        "used": Route(interface="wwan0", server=Server(host="192.0.2.7", ports=(5201, 5202), responder="r1")),
        "started_at": START + timedelta(seconds=seq),
        "elapsed_s": 11.5,
        "clock": Clock(synchronised=True),
        "agent_version": "0.1.0",
        "outcome": Throughput(
            download=Transfer(
                steady_mbps=42.5, mbps=40.25, payload_bytes=25_000_000, elapsed_s=5.0, interface_bytes=26
            ),
            upload=Transfer(steady_mbps=12.0, mbps=11.0, payload_bytes=7_000_000, elapsed_s=5.0, interface_bytes=7),
            radio_after=READING,
        ),
    }
    return Result(**(fields | changes))


def radio(seq: int, **changes: Any) -> Result:  # noqa: ANN401  # any field
    return result(seq, outcome=Radio(reading=READING), **changes)


def failed(seq: int, **changes: Any) -> Result:  # noqa: ANN401  # any field
    return result(seq, outcome=Failed(reason=Reason.BUSY, detail="try later"), **changes)


def message(*results: Result) -> bytes:
    return codec.pack([codec.encode(one) for one in results])


def wait_until(met: Callable[[], Found], what: str = "", timeout_s: float = PATIENCE_S) -> Found:
    """Poll until the condition holds; return what it returned."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain for {what or met}"
        time.sleep(0.02)
    return found


class Probe:
    """An MQTT client with a probe's rights, which notes what the collector says to it."""

    def __init__(self, broker: Mosquitto, probe_id: str, tmp_path: Path, user: str | None = None) -> None:
        credentials = tmp_path / f"{user or probe_id}.credentials"
        credentials.touch(mode=0o600)
        credentials.write_text(f"{user or probe_id}:{(broker.users or {})[user or probe_id]}\n")
        self.probe_id = probe_id
        self._broker = broker
        settings = BrokerSettings(host=broker.host, port=broker.port, credentials_file=credentials, tls=None)
        self.client = make_client(settings, client_id=f"probe-{probe_id}-{user}", clean_session=True)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(topics.topic(probe_id, topics.ACK), 1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = lambda _, __, message: self._heard(message.payload)
        self._ready = threading.Event()
        self._changed = threading.Lock()
        self.acks: list[Ack] = []
        self.stored: dict[str, set[int]] = {}
        self.refused: dict[tuple[str, int], str] = {}

    def _heard(self, payload: bytes) -> None:
        ack = codec.decode(payload, Ack)
        with self._changed:
            self.acks.append(ack)
            for first, last in ack.stored:
                self.stored.setdefault(ack.spool_id, set()).update(range(first, last + 1))
            for refusal in ack.refused:
                self.refused[ack.spool_id, refusal.seq] = refusal.reason

    def acked(self, spool: str = "s1") -> set[int]:
        with self._changed:
            return set(self.stored.get(spool, ()))

    def send(self, payload: bytes, leaf: str = topics.RESULT, *, qos: int = 1, retain: bool = False) -> None:
        self.client.publish(topics.topic(self.probe_id, leaf), payload, qos=qos, retain=retain)

    def __enter__(self) -> Self:
        self.client.connect(self._broker.host, self._broker.port)
        self.client.loop_start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Collector:
    """`probe-collector run` as a process of its own."""

    def __init__(self, config: Path, journal: Path) -> None:
        self.config = config
        self.journal = journal
        self.log = config.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "collector.cli", "run", "--config", str(self.config)], stderr=log, stdout=log
            )

    def listen(self) -> None:
        """Start, and wait until it hears what probes send: before its first session a broker keeps nothing for it."""
        before = self.said().count("listening") if self.log.exists() else 0
        self.start()
        wait_until(lambda: self.said().count("listening") > before, "the collector listens")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def said(self) -> str:
        return self.log.read_text()

    def stats(self) -> dict[str, Any]:
        done = run_cli("stats", "--config", str(self.config), "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()


def run_cli(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "collector.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def collector_config(
    folder: Path, broker: Mosquitto, sink: Mapping[str, Any], *, journal: Path | None = None, user: str = "collector"
) -> Path:
    """Write a collector.yaml with its credentials; YAML is a superset of JSON."""
    credentials = folder / "broker-credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(f"{user}:{(broker.users or {}).get(user, 'wrong')}\n")
    config = folder / "collector.yaml"
    document = {
        "broker": {"host": broker.host, "port": broker.port, "tls": None, "credentials_file": str(credentials)},
        "journal": {"path": str(journal or folder / "journal.db")},
        "sink": dict(sink),
    }
    config.write_text(json.dumps(document))
    return config


class Feeder:
    """What an agent does: sends results in small batches and sends again, for ever, what was not acknowledged."""

    def __init__(self, probe: Probe, total: int, *, per_message: int = 5, pause_s: float = 0.0) -> None:
        self.probe = probe
        self.total = total
        self._per_message = per_message
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def done(self) -> bool:
        return len(self.probe.acked()) >= self.total

    def _run(self) -> None:
        while not self._stopping.is_set() and not self.done():
            acked = self.probe.acked()
            waiting = [seq for seq in range(1, self.total + 1) if seq not in acked]
            for first in range(0, len(waiting), self._per_message):
                numbers = waiting[first : first + self._per_message]
                self.probe.send(message(*(result(seq, probe=self.probe.probe_id) for seq in numbers)))
                if self._stopping.wait(self._pause_s):
                    return
            self._stopping.wait(1.0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def journalled(path: Path) -> dict[str, list[int]]:
    """Read the journal: per probe the numbers it holds, in the order they came."""
    found: dict[str, list[int]] = {}
    with Journal(path, read_only=True) as journal:
        for row in journal.read(0, 1_000_000):
            one = codec.decode_result(row.payload)
            found.setdefault(one.probe_id, []).append(one.seq)
    return found
