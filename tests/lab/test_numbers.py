"""Numbers on the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from lab import cli
from lab.numbers import real, whole

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("text", ["0", "-1", "11", "nan", "1e3", "", "abc", "99999999999999999999"])
def test_what_is_no_whole_number_within_the_bounds_is_refused_in_words(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 to 10"):
        whole(1, 10)(text)


@pytest.mark.parametrize("text", ["-0.1", "100.1", "nan", "inf", "-inf", "", "abc", "1e308"])
def test_what_is_no_number_within_the_bounds_is_refused_in_words(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number from 0 to 100"):
        real(0, 100)(text)


@pytest.mark.parametrize(("read", "text", "number"), [(whole(1, 10), "10", 10), (real(0, 100), "1e2", 100.0)])
def test_a_number_within_the_bounds_is_taken(read: Callable[[str], float], text: str, number: float) -> None:
    assert read(text) == number


@pytest.mark.parametrize(
    "command",
    [
        "bench lease --vanish nan",
        "bench lease --seconds 99999999999999999999",
        "bench collector --probes 99999999999999999999",
        "bench collector --catch-up --days nan",
        "bench sdcard --hours nan",
        "simulate plan --links 99999999999999999999",
        "simulate plan --days 0",
        "capacity --played 0",
        "capacity --probes 99999999999999999999",
        "capacity responder --mbps nan",
        "capacity responder --peak 1e308",
    ],
)
def test_a_command_refuses_it_before_it_begins(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2
    assert "must be a" in capsys.readouterr().err
