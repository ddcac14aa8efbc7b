from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab import cli, demo

if TYPE_CHECKING:
    from pathlib import Path


def test_without_root_it_says_so_in_one_line_and_offers_loopback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo"])
    assert ending.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "need root" in line
    assert "--loopback" in line


def test_missing_programs_are_one_line_with_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.shutil, "which", lambda program, path: None if program in {"influxd", "irtt"} else program)
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo", "--loopback"])
    assert ending.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "apt-get install --no-install-recommends influxdb irtt" in line


def test_the_picture_needs_a_folder_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo", "--loopback", "--save-svg", str(tmp_path / "nowhere" / "x.svg")])
    assert ending.value.code == 1
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--sites", "0"], ["--sites", "many"], ["--minutes", "-1"], ["--minutes", "nan"]])
def test_wrong_usage_is_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo", *wrong])
    assert ending.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["modem"], ["bench", "cell"]])
def test_every_command_has_help_with_examples(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab.cli", *command, "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in done.stdout
