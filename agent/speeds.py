"""How fast each link was at its last test, over restarts: the first lease after one asks for what it will take."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from agent.modem.durable_file import StorageError, read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

SPEEDS_FILE: Final = "speeds.json"
_WORTH_A_WRITE: Final = 0.2
"""A smaller change is not written, to spare the card."""


class _Kept(msgspec.Struct, frozen=True):
    mbps: dict[str, float] = {}


class Speeds(dict[str, float]):
    """Mbit/s by link. What the disk does not take is known until the end of the agent, and that is enough."""

    def __init__(self, path: Path) -> None:
        """Read what was kept; a file that cannot be read is none."""
        self._path = path
        try:
            kept = read_json(path, _Kept)
        except StorageError as error:
            log.warning("%s", error)
            kept = None
        self._written = dict(kept.mbps) if kept is not None else {}
        super().__init__(self._written)

    def __setitem__(self, link: str, mbps: float) -> None:
        """Note a speed, and write it where it has changed much."""
        super().__setitem__(link, mbps)
        before = self._written.get(link)
        if before is not None and abs(mbps - before) <= _WORTH_A_WRITE * before:
            return
        try:
            write_json(self._path, _Kept(dict(self)))
            self._written = dict(self)
        except StorageError as error:
            log.warning("%s", error)
