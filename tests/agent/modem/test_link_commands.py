"""What a technician types: `modem up`, `modem recover`, `modem list`, against a simulated modem."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agent.service import sole_use
from agent.spool import Spool
from lab.modem import SimulatedModem, cell_of
from wire.codec import decode_result
from wire.events import Recovery
from wire.radio import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
probe_id: p1
site: {{id: s1}}
broker: {{host: 127.0.0.1, port: 9, tls: null}}
data_dir: {folder}
links:
  - {{name: viettel, interface: lo, modem: {port}, recovery: {{rungs: [1, 2]}}}}
jobs:
  - {{name: radio, measurement: radio, every_s: 60}}
"""


@pytest.fixture
def modem(tmp_path: Path) -> Iterator[SimulatedModem]:
    quick = {"register_s": 0.0, "latency_s": 0.0, "gap_s": 0.0}
    with SimulatedModem("quectel-ec25", cell_of("viettel"), link=tmp_path / "modem", **quick) as one:  # type: ignore[arg-type]  # floats
        (tmp_path / "agent.yaml").write_text(CONFIG.format(folder=tmp_path, port=one.port))
        yield one


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli", "modem", *arguments, "--config", str(folder / "agent.yaml")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_up_tells_every_step_until_one_fails(modem: SimulatedModem, tmp_path: Path) -> None:
    done = run(tmp_path, "up", "--dry-run", "--json")
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["name"] for step in steps][:4] == ["modem", "sim", "apn", "network"]
    modem.fault("denied")
    done = run(tmp_path, "up", "--dry-run")
    assert done.returncode == 1
    assert "the network refuses the subscription" in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout + done.stderr


def test_recover_explains_first_and_then_does_one_rung(modem: SimulatedModem, tmp_path: Path) -> None:
    modem.fault("no-service")
    explained = run(tmp_path, "recover", "--dry-run")
    assert (explained.returncode, list(tmp_path.glob("recovery*"))) == (0, [])
    assert "viettel: not_registered: the modem says: searching" in explained.stdout
    modem.clear()
    assert modem.radio_now().registration is Registration.HOME
    done = run(tmp_path, "recover")
    assert (done.returncode, done.stdout) == (0, "viettel: healthy: lo has an address\n")
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    assert spool.oldest(10) == [], "a link that works is left alone"
    spool.close()


def test_recover_tells_people_what_it_cannot_cure(modem: SimulatedModem, tmp_path: Path) -> None:
    modem.fault("sim-pulled")
    done = run(tmp_path, "recover")
    assert done.returncode == 1, done.stderr
    assert "sim_absent" in done.stdout, done.stderr
    spool = Spool(tmp_path / "spool.db", max_bytes=10**9)
    (waiting,) = spool.oldest(10)
    spool.close()
    outcome = decode_result(waiting.payload).outcome
    assert isinstance(outcome, Recovery)
    assert outcome.action == "alert"


def test_while_the_agent_runs_only_an_explanation_is_given(modem: SimulatedModem, tmp_path: Path) -> None:
    with sole_use(tmp_path):
        done = run(tmp_path, "recover")
        assert done.returncode == 1
        assert "in use by another agent" in done.stderr
        explained = run(tmp_path, "recover", "--dry-run")
        assert explained.returncode == 0
        assert "the agent runs (process" in explained.stderr


def test_a_link_that_is_not_there_is_wrong_usage(modem: SimulatedModem, tmp_path: Path) -> None:
    done = run(tmp_path, "up", "--link", "mobifone")
    assert (done.returncode, done.stderr) == (2, "no link is named 'mobifone'; links: viettel\n")
