"""What a journey saw, step by step: written inside the virtual machine, judged outside.

One JSON object a line, each on disk before the journey goes on, so that a journey that breaks off tells how far it got.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BROKE_OFF: Final = "broke off"
_LOOK_EVERY_S: Final = 0.1


class GaveUp(Exception):
    """Something did not come about in time; the text says what was waited for, and how long."""


class Step(msgspec.Struct, frozen=True):
    """One thing that was seen, `at_s` seconds after the journey began. `facts` is what JSON can say."""

    name: str
    at_s: float
    facts: dict[str, Any]


class Diary:
    """Keeps the steps of one journey, in a file and on standard output."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun_s = time.monotonic()

    def tell(self, step: str, **facts: object) -> None:
        """Write down a step; its name is its key, so it happens once."""
        line = msgspec.json.encode(Step(step, round(time.monotonic() - self._begun_s, 2), facts)).decode()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(f"{self._path.parent.name}: {step}", flush=True)  # noqa: T201  # the transcript of the virtual machine


def read(path: Path) -> dict[str, Step]:
    """Return the steps by name, in their order; empty if the journey never began."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    steps = [msgspec.json.decode(line, type=Step) for line in lines]
    return {step.name: step for step in steps}


def until(holds: Callable[[], object], what: str, *, within_s: float) -> None:
    """Look every tenth of a second whether it holds; raise GaveUp if it does not within `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise GaveUp(f"waited {within_s:g} s for {what}")
        time.sleep(_LOOK_EVERY_S)
