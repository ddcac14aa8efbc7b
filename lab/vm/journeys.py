"""One boot, all journeys: made the first time anybody asks, and told from what they left behind ever after."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.vm import diary, machine, payload
from lab.vm.diary import BROKE_OFF
from lab.vm.machine import GuestFailed, Outcome

if TYPE_CHECKING:
    from lab.vm.diary import Step

__all__ = ["GuestFailed", "Outcome", "make", "steps_of"]

_WITHIN_S: Final = 300.0
_LAST_WORDS: Final = 3000


def make(folder: Path) -> Outcome:
    """Boot and make every journey; their files are in `folder`. Raise GuestFailed, Unavailable, BuildFailed."""
    return machine.run(payload.pack(), folder, within_s=_WITHIN_S)


@functools.cache
def _made_once() -> tuple[Outcome, dict[str, dict[str, Step]]]:
    with tempfile.TemporaryDirectory() as folder:
        outcome = make(Path(folder))
        return outcome, {path.parent.name: diary.read(path) for path in Path(folder).glob("*/diary.jsonl")}


def steps_of(journey: str) -> dict[str, Step]:
    """Return what a journey told; raise GuestFailed with its last words if it broke off."""
    outcome, told = _made_once()
    steps = told.get(journey, {})
    if not steps or BROKE_OFF in steps:
        words = steps[BROKE_OFF].facts["traceback"] if steps else outcome.transcript[-_LAST_WORDS:]
        raise GuestFailed(
            f"{journey} broke off after {[*steps]}; `python -m lab.vm run FOLDER` keeps its logs:\n{words}"
        )
    return steps
