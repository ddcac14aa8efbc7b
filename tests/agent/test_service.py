"""The service around the measuring: what it does when a part of it has died, and how it ends."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from agent import seldom
from agent import service as service_module
from agent.clock import SystemClock
from agent.modems import SerialModems
from agent.plan import Room
from agent.service import Service, sole_use
from agent.settings import Link, Plan, RadioJob, Settings, Site, ThroughputJob
from agent.timetable import Task, Timetable
from base.broker import BrokerSettings
from base.durable import StorageError
from wire.measured import Failed
from wire.reasons import Reason

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "probe_id": "p1",
    "site": {"id": "s1"},
    "broker": {"host": "127.0.0.1", "port": 9, "tls": None},
    "links": [{"name": "viettel", "interface": "nosuch0", "routes": "leave"}],
    "jobs": [{"name": "latency", "measurement": "latency", "every_s": 86400}],
}


def run(tmp_path: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Run the agent in a process where `before` has been done to it."""
    config = tmp_path / "agent.yaml"
    config.write_text(json.dumps(CONFIG | {"data_dir": str(tmp_path / "data")}))
    script = f"import sys\nfrom agent import cli\n{before}\ncli.main(['run', '--config', sys.argv[1]])"
    return subprocess.run(
        [sys.executable, "-c", script, str(config)], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_agent_that_cannot_send_any_more_ends_so_that_another_one_begins(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        "from agent.publisher import Publisher; Publisher._run = lambda self: None",
    )
    assert ended.returncode == 1
    assert "a thread of the publisher has ended" in ended.stderr
    assert "stopped" in ended.stderr, "it gives everything back"
    assert "Traceback" not in ended.stderr


def test_what_one_part_cannot_do_at_the_end_keeps_no_other_from_it(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
import os, signal
from agent.publisher import Publisher
from agent.runner import Runner
from agent.service import Service
from agent.spool import Spool
from agent.upkeep import Upkeep
from base.durable import StorageError
def failing(kind, name, error):
    done = getattr(kind, name)
    def replaced(self, *arguments, **named):
        print(kind.__name__, name, flush=True)
        done(self, *arguments, **named)
        raise error
    setattr(kind, name, replaced)
failing(Upkeep, "close", ValueError("never thought of"))
failing(Runner, "close", StorageError("spool.db: disk I/O error"))
failing(Spool, "flush", StorageError("spool.db: disk I/O error"))
failing(Publisher, "stop", StorageError("spool.db: disk I/O error"))
failing(Spool, "close", StorageError("spool.db: disk I/O error"))
Service._work = lambda self: os.kill(os.getpid(), signal.SIGTERM)
""",
    )
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "Upkeep close",
        "Runner close",
        "Spool flush",
        "Publisher stop",
        "Spool close",
        "Spool flush",  # the first thing that closing it does
    ]


def test_an_answer_that_nobody_thought_of_is_told_and_the_measuring_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        def check(self) -> bool:
            raise UnicodeError("never thought of")

    settings = Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="nowhere"),
        links=(Link(name="viettel", interface="lo", modem=None),),
        jobs=(RadioJob(name="radio", every_s=60, thin=None),),
        data_dir=tmp_path,
    )
    service = Service(settings, SystemClock(), SerialModems())
    service.balances = Odd()  # type: ignore[assignment]  # a stand-in
    assert service._asked_a_balance(free_s=60.0)
    assert "the balance could not be asked for" in caplog.text
    assert "never thought of" in caplog.text
    service.spool.close()


def settings_of(data_dir: Path) -> Settings:
    return Settings(
        probe_id="p1",
        site=Site(id="s1"),
        broker=BrokerSettings(host="nowhere"),
        links=(Link(name="viettel", interface="lo", modem=None, plan=Plan(quota_day_mb=100)),),
        jobs=(ThroughputJob(name="light", every_s=60),),
        data_dir=data_dir,
    )


def kept(service: Service) -> None:
    outcome = Failed(reason=Reason.BUSY)
    service.runner.keep("viettel", outcome, started_at=datetime.now(UTC), elapsed_s=1.0)


def test_a_disk_that_takes_no_note_of_a_run_let_go_does_not_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(settings_of(tmp_path), SystemClock(), SerialModems())
    spent = Room(left_bytes=0, period="day", quota_mb=100, spent_bytes=100_000_000)
    monkeypatch.setattr(service.runner.budget, "grant", lambda *_args, **_named: spent)
    monkeypatch.setattr(Timetable, "next_run", lambda _self: (1e12, Task(0.0, "light", "viettel", 1)))
    service.spool._db.execute("PRAGMA query_only=1")
    kept(service)
    pauses = []

    def pause(_error: StorageError) -> None:
        pauses.append(0)
        if len(pauses) == 3:
            service._stop.set()

    monkeypatch.setattr(service, "_pause", pause)
    service._work()
    assert len(pauses) == 3
    assert service.runner.storage_error, "what waits in memory is still there"
    service.spool._db.execute("PRAGMA query_only=0")
    service.spool.close()


def test_the_same_words_of_the_disk_are_said_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(settings_of(tmp_path), SystemClock(), SerialModems())
    monkeypatch.setattr(service_module, "_DISK_PAUSE_S", 0.0)
    now_s = [1000.0]
    monkeypatch.setattr(seldom, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    for _ in range(40):  # twenty minutes
        service._pause(StorageError("spool.db: disk I/O error"))
        now_s[0] += 30.0
    assert caplog.text.count("disk I/O error; no test is made") == 2
    service._pause(StorageError("spool.db: database or disk is full"))
    assert "disk is full" in caplog.text
    service.spool.close()


@pytest.mark.root
@pytest.mark.parametrize("state", ["read-only", "full"])
def test_a_start_on_a_disk_that_takes_nothing_sends_what_is_spooled(tmp_path: Path, state: str) -> None:
    card = tmp_path / "card"
    card.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", card], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        killed = Service(settings_of(card), SystemClock(), SerialModems())
        kept(killed)
        with (card / "agent.lock").open("w") as lock:
            lock.write("1")
        if state == "read-only":  # as a kill leaves it, or a power cut: with its log
            for file in card.iterdir():
                shutil.copy(file, tmp_path / file.name)
            killed.spool.close()
            for name in ("spool.db", "spool.db-wal", "spool.db-shm"):
                shutil.copy(tmp_path / name, card / name)
            subprocess.run(["mount", "-o", "remount,ro", card], check=True)
        else:
            with (card / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
                while True:
                    fill.write(bytes(4096))
        with sole_use(card):
            service = Service(settings_of(card), SystemClock(), SerialModems())
            service.runner.recover()
            assert len(service.spool.oldest(10)) == 1
            assert service.status().backlog == 1
            kept(service)
            assert service.runner.storage_error
            if state == "read-only":
                subprocess.run(["mount", "-o", "remount,rw", card], check=True)
            (card / "fill").unlink(missing_ok=True)
            kept(service)  # finds that the disk is another one
            kept(service)
            assert not service.runner.storage_error
            assert len(service.spool.oldest(10)) == 4
            service.spool.close()
        killed.spool._db.close()
    finally:
        subprocess.run(["umount", "-l", card], check=True)
