"""The witness: sees what happens beside a test, holds back uploads, and never gets in the way."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agent.machine import Computer
from agent.measurements.base import MeasurementFailed
from agent.settings import Link
from agent.witness import Witness
from wire.measured import Machine
from wire.radio import RadioReading, Technology
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINK = Link(name="viettel", interface="wwan0")
LTE, UMTS = RadioReading(technology=Technology.LTE), RadioReading(technology=Technology.UMTS)
PATIENCE_S = 10.0


class Watched:
    """A modem whose looks the test decides; it knows whether its port is held."""

    def __init__(self, *says: RadioReading | Exception) -> None:
        self.says = list(says)
        self.held = False
        self.done = threading.Event()

    @contextmanager
    def watch(self, link: Link) -> Iterator[Callable[[], RadioReading]]:
        assert link is LINK
        self.held = True
        try:
            yield self.look
        finally:
            self.held = False
            self.done.set()

    def look(self) -> RadioReading:
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if len(self.says) == 1:
            self.done.set()
        if isinstance(said, Exception):
            raise said
        return said


def test_what_the_modem_says_during_the_test_is_kept_and_the_port_is_free_after_it() -> None:
    modems = Watched(LTE, UMTS, LTE)
    with Witness(LINK, modems=modems, every_s=0.01) as witness:
        assert modems.done.wait(PATIENCE_S)
        time.sleep(0.05)
    assert not modems.held
    assert witness.radio[:3] == [LTE, UMTS, LTE]


@pytest.mark.parametrize("failure", [MeasurementFailed(Reason.MODEM_SILENT, "x"), ValueError("a defect")])
def test_a_modem_that_falls_silent_or_a_defect_ends_the_watch_and_not_the_test(failure: Exception) -> None:
    modems = Watched(LTE, failure)
    with Witness(LINK, modems=modems, every_s=0.01) as witness:
        assert modems.done.wait(PATIENCE_S)
    assert not modems.held
    assert witness.radio == [LTE]


def test_a_modem_that_cannot_be_watched_and_a_link_without_one_are_left_alone() -> None:
    with Witness(LINK, modems=object()) as witness:
        pass
    assert witness.radio == []
    modems = Watched(LTE)
    with Witness(Link(name="a", interface="b", modem=None), modems=modems):
        pass
    assert not modems.done.is_set()


def test_the_port_is_free_and_uploads_go_on_also_when_the_test_fails() -> None:
    modems, told = Watched(LTE), list[str]()

    @contextmanager
    def quiet() -> Iterator[None]:
        told.append("quiet")
        try:
            yield
        finally:
            told.append("aloud" if not modems.held else "aloud, with the port still held")

    def fails() -> None:
        with Witness(LINK, modems=modems, quiet=quiet, every_s=0.01):
            assert modems.done.wait(PATIENCE_S)
            raise MeasurementFailed(Reason.LINK_LOST)

    with pytest.raises(MeasurementFailed):
        fails()
    assert told == ["quiet", "aloud"]


def test_a_pi_that_is_throttled_for_a_moment_is_seen(tmp_path: Path) -> None:
    flags = tmp_path / "get_throttled"
    flags.write_text("0\n")
    with Witness(LINK, computer=Computer(throttled=flags), every_s=0.01) as witness:
        flags.write_text("50005\n")
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(witness._flags) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        flags.write_text("50000\n")
    assert witness.machine is not None
    assert witness.machine.throttled is True


def test_another_machine_says_nothing_of_throttling(tmp_path: Path) -> None:
    with Witness(LINK, computer=Computer(throttled=tmp_path / "none", tool=lambda: None)) as witness:
        time.sleep(0.05)
    assert isinstance(witness.machine, Machine)
    assert witness.machine.throttled is None


def test_the_wall_clock_is_held_against_the_steady_one() -> None:
    offsets = iter([100.0, 100.0 - 3600.0])
    with Witness(LINK, offset_s=lambda: next(offsets)) as witness:
        assert witness.clock_step_s is None
    assert witness.clock_step_s == -3600.0
