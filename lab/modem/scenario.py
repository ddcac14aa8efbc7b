"""A scenario file: at what second which bad (or good) thing happens to a simulated modem. YAML, typed, closed."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from base.configfile import load
from lab.modem.cells import Cell
from lab.modem.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_ACTIONS: Final = ("fault", "clear", "cell", "do")


class Deed(StrEnum):
    """What a hand at the plug does."""

    UNPLUG = "unplug"
    REPLUG = "replug"
    POWER_CYCLE = "power-cycle"
    CLEAR_ALL = "clear-all"


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change, `at_s` seconds after the modem started: exactly one of the other keys."""

    at_s: Annotated[float, msgspec.Meta(ge=0)]
    fault: Fault | None = None
    clear: FaultKind | None = None
    cell: Cell | None = None
    do: Deed | None = None


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The events, in any order; with `repeat_s` the whole begins anew after so many seconds."""

    events: Annotated[tuple[Event, ...], msgspec.Meta(min_length=1)]
    repeat_s: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def due(self, since_s: float, until_s: float) -> list[Event]:
        """Return the events after `since_s`, up to and with `until_s` (seconds since the start), in order."""
        if self.repeat_s is None:
            return sorted((event for event in self.events if since_s < event.at_s <= until_s), key=lambda e: e.at_s)
        turns = range(max(0, int(since_s // self.repeat_s) - 1), int(until_s // self.repeat_s) + 2)
        timed = [(event.at_s + turn * self.repeat_s, event) for turn in turns for event in self.events]
        return [event for at_s, event in sorted(timed, key=lambda pair: pair[0]) if since_s < at_s <= until_s]

    def next_s(self, since_s: float) -> float | None:
        """Return when the next event after `since_s` is due, in seconds since the start."""
        repeat_s = self.repeat_s or 0.0
        turn = max(0, int(since_s // repeat_s)) if repeat_s else 0
        turns = range(max(0, turn - 1), turn + 3) if repeat_s else (0,)
        later = [event.at_s + turn * repeat_s for turn in turns for event in self.events]
        return min((at_s for at_s in later if at_s > since_s), default=None)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario; raises base.configfile.ConfigError with every mistake in it."""
    return load(path, Scenario, _check)


def _check(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    events = document.get("events")
    repeat_s = document.get("repeat_s")
    for index, event in enumerate(events if isinstance(events, list) else []):
        if not isinstance(event, dict):
            continue
        if sum(action in event for action in _ACTIONS) != 1:
            yield f"events[{index}]", f"one of {', '.join(_ACTIONS)} must stand beside at_s, and only one"
        at_s = event.get("at_s")
        if isinstance(repeat_s, int | float) and isinstance(at_s, int | float) and at_s > repeat_s:
            yield f"events[{index}].at_s", f"is never reached: the scenario repeats after {repeat_s} s"
