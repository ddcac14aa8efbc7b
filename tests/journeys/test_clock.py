"""A real agent whose wall clock is years behind, killed and started anew, and told the time at last.

The kernel's clock is everybody's and stays alone: a few lines of C between the agent and its C library move the wall
clock, and speak for adjtimex, as a file says.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from lab.modem import SimulatedModem, cell_of
from lab.servers import Mosquitto
from wire import topics
from wire.codec import decode_result, encode, unpack
from wire.delivery import Ack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wire.results import Result

pytestmark = pytest.mark.journey

PATIENCE_S = 60.0
BEHIND_S = 100_000_000.0
SHIM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

/* the file: by how many seconds the wall clock is wrong, and whether the kernel calls it right */
static void told(double *wrong_s, int *right) {
    FILE *file = fopen(getenv("FAKE_CLOCK"), "r");
    *wrong_s = 0; *right = 0;
    if (file) { if (fscanf(file, "%lf %d", wrong_s, right) != 2) *right = 0; fclose(file); }
}

int clock_gettime(clockid_t which, struct timespec *at) {
    int status = syscall(SYS_clock_gettime, which, at);
    if (status == 0 && which == CLOCK_REALTIME) {
        double wrong_s; int right;
        told(&wrong_s, &right);
        at->tv_sec += (time_t)wrong_s;
    }
    return status;
}

int adjtimex(struct timex *state) {
    double wrong_s; int right;
    told(&wrong_s, &right);
    state->esterror = right ? 1500 : 16000000;
    return right ? TIME_OK : TIME_ERROR;
}
"""


class Collector:
    """Takes every result once, and says so."""

    def __init__(self, broker: Mosquitto) -> None:
        self.results: dict[int, Result] = {}
        self._arrived: queue.Queue[None] = queue.Queue()
        ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="collector")
        self._client.username_pw_set("collector", "secret")
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect(broker.host, broker.port)
        self._client.subscribe(topics.every_probe(topics.RESULT), qos=1)
        self._client.loop_start()
        assert ready.wait(PATIENCE_S)

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        for raw in unpack(message.payload):
            result = decode_result(raw)
            self.results[result.seq] = result
            ack = Ack(spool_id=result.spool_id, stored=((result.seq, result.seq),))
            self._client.publish(topics.topic("p1", topics.ACK), encode(ack), qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Probe:
    """A machine with one link: its configuration, its clock, and the agent."""

    def __init__(self, folder: Path, broker: Mosquitto, modem: SimulatedModem) -> None:
        self.folder = folder
        self.clock = folder / "clock"
        self._library = folder / "shim.so"
        (folder / "shim.c").write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self._library, folder / "shim.c"], check=True)
        (folder / "credentials").write_text("p1:secret\n")
        (folder / "credentials").chmod(0o600)
        document = {
            "probe_id": "p1",
            "site": {"id": "s1"},
            "data_dir": str(folder / "data"),
            "broker": {
                "host": broker.host,
                "port": broker.port,
                "credentials_file": str(folder / "credentials"),
                "tls": None,
            },
            "links": [{"name": "viettel", "interface": "none0", "modem": str(modem.port)}],
            "spool": {"telemetry_every_s": 2},
            "jobs": [{"name": "radio", "measurement": "radio", "every_s": 5, "thin": None}],
        }
        (folder / "agent.yaml").write_text(yaml.safe_dump(document))

    def set_clock(self, wrong_s: float, *, right: bool) -> None:
        new = self.clock.with_suffix(".new")
        new.write_text(f"{wrong_s} {int(right)}\n")
        new.replace(self.clock)

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-P", "-m", "agent.cli", *words, "--config", str(self.folder / "agent.yaml")]
        return command, {**os.environ, "LD_PRELOAD": str(self._library), "FAKE_CLOCK": str(self.clock)}

    def once(self) -> subprocess.CompletedProcess[str]:
        command, environment = self.command("once", "radio")
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        command, environment = self.command("run")
        with (
            (self.folder / "agent.log").open("ab") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
        ):
            try:
                yield process
            finally:
                process.send_signal(signal.SIGKILL)

    def held(self) -> int:
        try:
            with closing(sqlite3.connect(f"file:{self.folder}/data/spool.db?mode=ro", uri=True)) as spool:
                count: int = spool.execute("SELECT COUNT(*) FROM untimed").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
        return count


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.1)


@pytest.mark.skipif(shutil.which("cc") is None, reason="NOT SHOWN: needs a C compiler to move a clock")
def test_an_agent_that_boots_years_behind_sends_true_times_when_it_is_told_the_time(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    modem = SimulatedModem("quectel-ec25", cell_of("viettel"), link=tmp_path / "ttyUSB2", register_s=0.0)
    with modem, Mosquitto(tmp_path / "broker", users={"p1": "secret", "collector": "secret"}) as broker:
        probe, collector = Probe(tmp_path, broker, modem), Collector(broker)
        probe.set_clock(-BEHIND_S, right=False)
        by_hand = probe.once()
        assert by_hand.returncode == 1
        assert "the clock of this machine is not set" in by_hand.stderr
        with probe.agent():
            until(lambda: probe.held() >= 2, "results wait for the clock")
        with probe.agent():  # it was killed; what waits goes on waiting
            until(lambda: probe.held() >= 3, "results of a second life wait too")
            assert collector.results == {}
            held = probe.held()
            probe.set_clock(0.0, right=True)
            until(lambda: len(collector.results) > held, "what waited has arrived, and what came after it")
        collector.close()
    now = datetime.now(UTC)
    assert sorted(collector.results) == list(range(1, len(collector.results) + 1))
    for seq, result in collector.results.items():
        assert began - timedelta(seconds=1) < result.started_at < now, "dated truly"
        assert result.clock.synchronised
        if seq <= held:
            assert result.clock.correction_s == pytest.approx(BEHIND_S, abs=1)
    last = collector.results[len(collector.results)]
    assert last.clock.correction_s is None
    assert "the clock is bad" in (tmp_path / "agent.log").read_text()
