"""Logs are bounded: by systemd's journal on a probe, and by how many lines a unit may write."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
SIZES: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
SPANS_S: Final = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def section(path: Path, name: str) -> dict[str, str]:
    parser = ConfigParser(interpolation=None, strict=False, comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep capitals
    parser.read_string(path.read_text())
    return dict(parser[name])


def amount(text: str, units: dict[str, int]) -> int:
    found = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    assert found is not None, text
    return int(found[1]) * units[found[2]]


def test_a_probe_keeps_few_megabytes_of_log_and_writes_them_seldom() -> None:
    journal = section(ROOT / "systemd/journald.conf", "Journal")
    assert 16 * 2**20 <= amount(journal["SystemMaxUse"], SIZES) <= 128 * 2**20
    assert 4 * 2**20 <= amount(journal["RuntimeMaxUse"], SIZES) <= 32 * 2**20, "memory: a Pi Zero has 512 MB"
    assert amount(journal["SyncIntervalSec"], SPANS_S) >= 300
    assert journal["ForwardToSyslog"] == "no", "every line would be on the card twice"


def test_the_installer_puts_the_journal_s_bounds_where_systemd_reads_them() -> None:
    assert 'journald.conf" /etc/systemd/journald.conf.d/' in (ROOT / "scripts/install").read_text()


@pytest.mark.parametrize(("role", "lines_a_minute"), [("agent", 200), ("collector", 2000), ("responder", 2000)])
def test_a_unit_that_runs_wild_is_silenced(role: str, lines_a_minute: int) -> None:
    unit = section(ROOT / f"systemd/probefleet-{role}.service", "Service")
    interval_s = amount(unit["LogRateLimitIntervalSec"], SPANS_S)
    assert interval_s >= 10, "0 is no limit (systemd.exec(5))"
    assert 0 < amount(unit["LogRateLimitBurst"], SIZES) * 60 / interval_s <= lines_a_minute
