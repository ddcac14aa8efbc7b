"""What all tests share: options, and loud reasons for what this machine cannot show."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

sys.path.insert(0, str(Path(__file__).parent / "servers"))  # importlib mode adds no folder by itself


settings.register_profile("any-machine", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("any-machine")


FINAL: Final = 10
"""Exit status: a test has failed that gets no second try; pytest's own end at 5."""
ONCE: Final = (
    "agent/test_salvage.py",
    "agent/test_spool_power.py",
    "agent/test_worn_card.py",
    "agent/test_worst_cut.py",
    "collector/test_clusters.py",
    "collector/test_collector.py::test_a_broker_that_is_restarted_or_killed_costs_nothing",
    "collector/test_collector.py::test_a_database_that_goes_away_under_load_misses_nothing_and_has_nothing_twice",
    "collector/test_collector.py::test_a_full_disk_acknowledges_nothing_until_there_is_room",
    "collector/test_collector.py::test_nothing_acknowledged_is_missing_after_kills_at_random_moments",
    "collector/test_collector.py::test_results_on_their_way_when_told_to_stop_are_stored_or_come_again",
    "collector/test_journal.py::test_what_was_acknowledged_survives_a_kill_at_any_moment",
    "collector/test_power.py",
    "collector/test_renumbered.py",
    "collector/test_scale.py::test_two_collectors_share_the_work_and_one_killed_under_load_costs_nothing",
    "collector/test_writer.py",
    "journeys/test_bad_days.py::test_a_full_disk_under_the_journal_acknowledges_nothing_it_does_not_hold",
    "journeys/test_bad_days.py::test_a_full_disk_under_the_spool_loses_nothing",
    "journeys/test_gaps.py",
    "journeys/test_known_again.py",
    "journeys/test_lost_power.py",
    "journeys/test_torture.py",
)
"""What is marked `once`: where a result that was lost, or is there twice, would show."""
_final: Final = list[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-vm", action="store_true", help="skip the tests that boot a virtual machine, and say so")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.partition("[")[0].removeprefix("tests/").startswith(ONCE):
            item.add_marker(pytest.mark.once)
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="NOT SHOWN: needs root for namespaces; run scripts/check as root"))
        if item.get_closest_marker("vm") and config.getoption("--no-vm"):
            item.add_marker(pytest.mark.skip(reason="NOT SHOWN: --no-vm was given"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    judged = call.excinfo is not None and call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
    if report.failed and judged and item.get_closest_marker("once") is not None:
        report.final = True  # travels to xdist's controller with the rest
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if getattr(report, "final", False):
        _final.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _final and session.exitstatus == pytest.ExitCode.TESTS_FAILED and not hasattr(session.config, "workerinput"):
        session.exitstatus = FINAL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _final:
        terminalreporter.section("no second try: what was lost once is a defect, whatever comes of another run")
        terminalreporter.write_line("\n".join(_final))
