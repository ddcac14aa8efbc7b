"""A probe that measures nothing and is in a hurry: the agent's own spool and publisher, results as fast as told.

It writes down, in a file that no fault touches, which results it is about to make (`b TOKEN`), which ones the spool has
taken (`m TOKEN SPOOL_ID SEQ`), which it has deferred (`d TOKEN MONOTONIC_S`: a power cut may take those of the last
second), and what the collector has acknowledged (`a SPOOL_ID FIRST LAST`). The token is the
result's `elapsed_s`, so that it can be found in the journal and in InfluxDB, whatever number it travels under.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent import publisher as publishing
from agent.nameplate import machine
from agent.publisher import Publisher
from agent.spool import Spool
from base import logs
from base.broker import BrokerSettings
from base.durable import StorageError
from wire.measured import Echo, Failed, Latency, Radio, Throughput, Transfer
from wire.radio import RadioReading
from wire.reasons import Reason
from wire.results import Clock, Job, Result
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wire.results import Outcome

log = logging.getLogger(__name__)

SPOOL_FILE: Final = "spool.db"
PAUSED_FILE: Final = "paused"
"""While it is there, nothing is made; it holds a word, another one each time."""
RESTING_FILE: Final = "resting"
"""Holds the word of the pause since which nothing has been in hand: all that was made is in the spool, and numbered."""
DEFER_S: Final = 1.0
_PAUSE_S: Final = 0.05
_FLUSH_S: Final = 1.0
_HURRY: Final = {"FIRST_RESEND_S": 1.0, "LAST_RESEND_S": 4.0, "STATUS_EVERY_S": 2.0, "LONGEST_RECONNECT_S": 2}
"""A probe sends again after 30 s to 30 minutes: the same code, with a faster clock."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What to be and what to do: `first_token` is where this writer's own tokens begin."""

    probe_id: str
    data_dir: str
    memory_dir: str
    truth: str
    broker_port: int
    per_s: float
    first_token: int


class Truth:
    """What happened for certain, in the order it happened."""

    def __init__(self, path: Path, first_token: int) -> None:
        before = path.read_bytes() if path.exists() else b""
        self.next_token = first_token + sum(line.startswith(b"b ") for line in before.splitlines())
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, text: str) -> None:
        """Append a line at once, so that a kill leaves all of it or nothing."""
        os.write(self._file, text.encode() + b"\n")


class RecordingSpool(Spool):
    """A spool that writes down what the collector has acknowledged, before it acts on it."""

    truth: Truth

    def acknowledge(self, spool_id: str, ranges: Iterable[tuple[int, int]], checks: str = "") -> int:
        """As the spool does."""
        spans = tuple(ranges)
        for first, last in spans:
            self.truth.write(f"a {spool_id} {first} {last}")
        return super().acknowledge(spool_id, spans, checks)


def outcome_of(token: int) -> Outcome:
    """Make something to send: mostly small, now and then longer than a page of the file."""
    chance = random.Random(token)
    match chance.randrange(8):
        case 0:
            speeds = tuple(round(chance.uniform(1, 90), 3) for _ in range(chance.choice([10, 900])))
            return Throughput(
                download=Transfer(steady_mbps=41.5, payload_bytes=26_000_000, elapsed_s=5.0, interval_mbps=speeds)
            )
        case 1:
            return Latency(udp=Echo(tool="irtt", sent=10, received=10, loss_percent=0, rtt_mean_ms=31.0))
        case 2:
            return Failed(reason=Reason.BUSY, detail="x" * chance.randrange(200))
        case _:
            return Radio(reading=RadioReading(rsrp_dbm=-98, rsrq_db=-11, sinr_db=3.5))


def main() -> int:
    """Run until SIGTERM; exit 1 where the disk does not even let it begin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--config", type=Path, required=True)
    config: Path = parser.parse_args().config
    logs.set_up(verbose=False)
    orders = msgspec.json.decode(config.read_bytes(), type=Orders)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        spool = RecordingSpool(
            Path(orders.data_dir) / SPOOL_FILE, max_bytes=10**9, defer_s=DEFER_S, memory_dir=Path(orders.memory_dir)
        )
    except StorageError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command's body
        return 1
    spool.truth = Truth(Path(orders.truth), orders.first_token)
    _fill(orders, spool, stop, config.parent)
    try:
        spool.close()
    except StorageError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command's body
        return 1
    return 0


def _fill(orders: Orders, spool: RecordingSpool, stop: threading.Event, folder: Path) -> None:
    vars(publishing).update(_HURRY)
    began = datetime.now(UTC)

    def status() -> Status:
        counts = spool.counts()
        return Status(
            probe_id=orders.probe_id,
            online=True,
            at=datetime.now(UTC),
            started_at=began,
            clock=Clock(synchronised=True),  # a right one, whatever this machine calls its own
            spool_id=spool.spool_id,
            spooled=counts.spooled,
            backlog=counts.waiting,
            machine=machine(),
        )

    broker = BrokerSettings(host="127.0.0.1", port=orders.broker_port, tls=None, keepalive_s=5)
    publisher = Publisher(broker, orders.probe_id, spool, status)
    publisher.start()
    said = ""
    while not stop.is_set():
        word = _pause_word(folder)
        if (left_s := spool.flush_in_s()) is not None and (left_s <= 0 or word):
            _flush(spool)
            publisher.wake()
        if word:
            if said != word and spool.flush_in_s() is None:
                (folder / RESTING_FILE).write_text(word)
                said = word
            stop.wait(_PAUSE_S)
            continue
        _make(orders, spool, stop)
        publisher.wake()
        stop.wait(random.expovariate(orders.per_s))
    publisher.stop(flush_s=_FLUSH_S)


def _pause_word(folder: Path) -> str:
    """Read the word of the pause; "" where there is none."""
    try:
        return (folder / PAUSED_FILE).read_text()
    except FileNotFoundError:
        return ""


def _flush(spool: Spool) -> None:
    try:
        spool.flush()
    except StorageError as error:
        log.error("%s", error)  # noqa: TRY400  # the message says all


def _make(orders: Orders, spool: RecordingSpool, stop: threading.Event) -> None:
    """Make one result and keep it in memory until the disk takes it, as the agent's runner does."""
    token = spool.truth.next_token
    spool.truth.next_token += 1
    spool.truth.write(f"b {token}")
    result = Result(
        probe_id=orders.probe_id,
        site="torture",
        link="viettel",
        job=Job(name="light", measurement="throughput"),
        started_at=datetime.now(UTC),
        elapsed_s=float(token),
        agent_version="0",
        outcome=outcome_of(token),
    )
    while not stop.is_set():
        try:
            if isinstance(result.outcome, Radio):
                spool.defer(result)
                spool.truth.write(f"d {token} {time.monotonic()}")
                return
            identity = spool.append(result)
        except StorageError as error:
            log.error("%s", error)  # noqa: TRY400  # the message says all
            stop.wait(_PAUSE_S)
            continue
        spool.truth.write(f"m {token} {identity.spool_id} {identity.seq}")
        return


if __name__ == "__main__":
    sys.exit(main())
