"""scripts/install before it does anything: help, and refusals that say what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, str(SCRIPTS / arguments[0]), *arguments[1:]], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", ["install", "broker-user"])
def test_help_shows_examples(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "usage:"),
        (["agnet"], "'agnet' is neither a role nor an option"),
        (["agent", "--wheels"], "--wheels needs a folder"),
        (["--wheels", "/nowhere", "agent"], "/nowhere: no such folder"),
    ],
)
def test_wrong_usage_is_named_and_changes_nothing(arguments: list[str], told: str) -> None:
    done = run("install", *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_without_root_it_says_so() -> None:
    before = ("setpriv", "--reuid=65534", "--clear-groups", "--") if os.geteuid() == 0 else ()
    done = run("install", "agent", before=before)
    assert done.returncode == 1
    assert done.stderr == "scripts/install: must be run as root: sudo scripts/install agent\n"
