"""Scenario files: what happens when, and every mistake in one go."""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from base.configfile import ConfigError
from lab.modem.scenario import Deed, Event, Scenario, load_scenario
from wire.radio import Registration

if TYPE_CHECKING:
    from pathlib import Path

STORY = """
events:
  - {at_s: 0, fault: {kind: slow, command: "+CSQ", delay_s: 1.5}}
  - {at_s: 10, fault: {kind: denied}}
  - {at_s: 20, clear: denied}
  - {at_s: 30, do: unplug}
  - {at_s: 40, do: replug}
  - at_s: 50
    cell:
      {mcc: "452", mnc: "05", long_name: Vietnamobile, short_name: VNMOBILE, tac: 11, cell_id: 22, pci: 3, band: 8,
       earfcn: 3600, bandwidth_mhz: 5.0, rsrp_dbm: -110.0}
"""


def test_a_story_is_played_at_its_times(tmp_path: Path, plug_in, clock, eventually) -> None:
    path = tmp_path / "story.yaml"
    path.write_text(STORY)
    modem = plug_in(clock=clock, scenario=load_scenario(path), register_s=1.0)

    def at(second: float) -> Registration | None:
        clock.now_s = 1000.0 + second
        return modem.radio_now().registration  # asking makes the modem look at its clock

    assert at(9) is Registration.HOME
    assert eventually(lambda: at(11) is Registration.DENIED)
    assert eventually(lambda: at(20.5) is Registration.SEARCHING)
    assert eventually(lambda: at(22) is Registration.HOME)
    assert at(30.5)
    assert eventually(lambda: modem.tty is None)
    assert at(40.5)
    assert eventually(lambda: modem.tty is not None)
    assert at(50.5)
    assert eventually(lambda: modem.cell.cell_id == 22)


def test_every_mistake_of_a_scenario_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "repeat_s: 60\n"
        "events:\n"
        "  - {at_s: 5}\n"
        "  - {at_s: 90, clear: denied}\n"
        "  - {at_s: 6, fault: {kind: sleepy}}\n"
        "  - {at_s: 7, falt: {kind: slow}}\n"
        "  - {at_s: -1, do: unplug}\n"
    )
    with pytest.raises(ConfigError) as refusal:
        load_scenario(path)
    complaints = str(refusal.value)
    for part in (
        ":3: events[0]: one of fault, clear, cell, do must stand beside at_s",
        ":4: events[1].at_s: is never reached: the scenario repeats after 60 s",
        ":5: events[2].fault.kind: ",
        ":6: events[3].falt: unknown key; did you mean 'fault'?",
        ":7: events[4].at_s: ",
    ):
        assert part in complaints


def test_an_impossible_cell_in_a_scenario_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(STORY.replace("earfcn: 3600", "earfcn: 100"))
    with pytest.raises(ConfigError, match=r"events\[5\]\.cell: .*channel 100 is not in band 8"):
        load_scenario(path)


@given(
    times=st.lists(st.floats(0, 50), min_size=1, max_size=8),
    repeat_s=st.none() | st.floats(50, 100),
    steps=st.lists(st.floats(0.01, 40), max_size=30),
)
def test_however_time_is_cut_every_event_is_due_once(
    times: list[float], repeat_s: float | None, steps: list[float]
) -> None:
    scenario = Scenario(events=tuple(Event(at_s=at_s, do=Deed.UNPLUG) for at_s in times), repeat_s=repeat_s)
    now_s, in_steps = -1.0, 0
    for step_s in steps:
        in_steps += len(scenario.due(now_s, now_s + step_s))
        now_s += step_s
    assert in_steps == len(scenario.due(-1.0, now_s))


@given(times=st.lists(st.floats(0, 50), min_size=1, max_size=8), repeat_s=st.none() | st.floats(50, 100))
@example(times=[0.0], repeat_s=50.29355268846738)  # whose multiples, divided by it, miss whole numbers
def test_the_next_event_is_due_when_promised(times: list[float], repeat_s: float | None) -> None:
    scenario = Scenario(events=tuple(Event(at_s=at_s, do=Deed.UNPLUG) for at_s in times), repeat_s=repeat_s)
    now_s = -1.0
    for _ in range(12):
        next_s = scenario.next_s(now_s)
        if next_s is None:
            assert scenario.due(now_s, now_s + 1000) == []
            return
        assert scenario.due(now_s, next_s)
        now_s = next_s
