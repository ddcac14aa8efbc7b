"""The systemd units as shipped, by systemd's own judgement: nothing misspelt, and a sandbox that is worth its name."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
ROLES = ("agent", "collector", "responder")

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="NOT SHOWN: systemd-analyze is missing; apt-get install systemd"
)


def verify(folder: Path, role: str) -> list[str]:
    """Return what systemd says of one unit; it warns and exits with 0 on most mistakes."""
    unit = folder / f"probefleet-{role}.service"
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if "probefleet" in line]


def copy(role: str, folder: Path, *changes: tuple[str, str]) -> None:
    """Put a unit where `verify` finds its program; the real one is not installed here."""
    text = (SYSTEMD / f"probefleet-{role}.service").read_text()
    for old, new in (("/opt/probefleet/bin/", f"{folder}/"), *changes):
        assert old in text
        text = text.replace(old, new)
    (folder / f"probefleet-{role}.service").write_text(text)
    program = folder / f"probe-{role}"
    program.touch(mode=0o755)


def test_the_guide_s_second_responder_of_a_machine_is_a_unit_of_its_own(tmp_path: Path) -> None:
    guide = (SYSTEMD.parent / "docs/install.md").read_text()
    edits = re.search(r"sed (-e '[^']*/responder-2[^']*') (-e '[^']*')", guide)
    assert edits is not None
    command = ["sed", *(edit.removeprefix("-e ").strip("'") for edit in edits.groups())]
    command = [command[0], "-e", command[1], "-e", command[2], str(SYSTEMD / "probefleet-responder.service")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--config /etc/probefleet/responder-2.yaml" in text
    assert {"RuntimeDirectory=probefleet-responder-2", "StateDirectory=probefleet-responder-2"} <= set(
        text.splitlines()
    )
    (tmp_path / "probefleet-responder-2.service").write_text(text.replace("/opt/probefleet/bin/", f"{tmp_path}/"))
    (tmp_path / "probe-responder").touch(mode=0o755)
    assert verify(tmp_path, "responder-2") == []


@pytest.mark.parametrize("role", ROLES)
def test_systemd_finds_no_mistake_in_a_unit(role: str, tmp_path: Path) -> None:
    copy(role, tmp_path)
    assert verify(tmp_path, role) == []


@pytest.mark.parametrize(
    "change",
    [
        ("ProtectSystem=strict", "ProtectSystem=strickt"),
        ("RestartSec=", "RestartSeconds="),
        ("KeyringMode=private", "KeyringMode=privat"),
        ("SystemCallFilter=~@privileged", "SystemCallFilter=~@priviledged"),
    ],
)
def test_a_misspelt_unit_would_be_noticed(change: tuple[str, str], tmp_path: Path) -> None:
    copy("agent", tmp_path, change)
    assert verify(tmp_path, "agent") != []


@pytest.mark.parametrize(("role", "at_most"), [("agent", 3.5), ("collector", 2.0), ("responder", 2.0)])
def test_the_sandbox_leaves_little_exposed(role: str, at_most: float) -> None:
    unit = SYSTEMD / f"probefleet-{role}.service"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={at_most * 10:.0f}", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= at_most
    assert done.returncode == 0


@pytest.mark.parametrize("role", ROLES)
def test_no_unit_gives_root_or_a_capability_but_for_the_routing_tables_of_the_agent(role: str) -> None:
    settings = (SYSTEMD / f"probefleet-{role}.service").read_text().splitlines()
    assert f"User=probefleet-{role}" in settings
    assert "NoNewPrivileges=yes" in settings
    given = [line for line in settings if line.startswith("AmbientCapabilities=")]
    assert given == (["AmbientCapabilities=CAP_NET_ADMIN"] if role == "agent" else [])


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_started_again_for_ever(role: str) -> None:
    settings = (SYSTEMD / f"probefleet-{role}.service").read_text().splitlines()
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(settings)
