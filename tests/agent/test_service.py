"""The service around the measuring: what it does when a part of it has died, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from agent.clock import SystemClock
from agent.modems import SerialModems
from agent.service import Service
from agent.settings import Link, RadioJob, Settings, Site
from base.broker import BrokerSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

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
