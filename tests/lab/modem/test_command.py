"""`probe-lab modem` as a process of its own."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import serial

from lab.modem.command import add_parser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PROGRAM = """
import argparse, sys
from lab.modem.command import add_parser
parser = argparse.ArgumentParser(prog="probe-lab")
add_parser(parser.add_subparsers(required=True))
arguments = parser.parse_args()
sys.exit(arguments.run(arguments))
"""


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="probe-lab")
    add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["modem", *arguments])


def run(*arguments: str) -> int:
    parsed = parse(*arguments)
    return int(parsed.run(parsed))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_port_serves_it_and_ends_cleanly(end: signal.Signals, tmp_path: Path) -> None:
    link = tmp_path / "modem"
    command = [sys.executable, "-c", _PROGRAM, "modem", "--dialect", "simcom-sim7600", "--link", str(link), "--json"]
    with subprocess.Popen(
        [*command, "--verbose"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            assert facts == {"dialect": "simcom-sim7600", "tty": str(link.readlink()), "link": str(link)} | {
                "imei": facts["imei"]
            }
            with serial.Serial(str(link), timeout=8) as port:
                port.write(b"AT+CGMM\r")
                assert port.read_until(b"OK\r\n") == b"AT+CGMM\r\r\nSIMCOM_SIM7600G-H\r\n\r\nOK\r\n"
            process.send_signal(end)
            assert process.wait(8) == 0
            assert process.stderr is not None
            assert "AT+CGMM" in process.stderr.read()
        finally:
            process.kill()
    assert not os.path.lexists(link)


def test_the_dialects_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    assert "quectel-ec25     Quectel EC25" in capsys.readouterr().out
    assert run("--list", "--json") == 0
    assert {row["dialect"] for row in json.loads(capsys.readouterr().out)} == {
        "quectel-ec25",
        "simcom-sim7600",
        "huawei-me909",
    }


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    assert "probe-lab modem --dialect quectel-ec25" in capsys.readouterr().out


def test_a_wrong_scenario_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--scenario", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml: No such file" in capsys.readouterr().err


def test_a_link_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    assert run("--link", str(precious)) == 1
    assert capsys.readouterr().err.strip().endswith("precious: is a file of somebody's: name another link")


def test_the_scenario_in_the_help_is_a_real_one(tmp_path: Path) -> None:
    from lab.modem import command, scenario  # noqa: PLC0415  # only here

    path = tmp_path / "help.yaml"
    path.write_text(command._EXAMPLES.partition("a scenario file:\n")[2])
    assert len(scenario.load_scenario(path).events) == 4
