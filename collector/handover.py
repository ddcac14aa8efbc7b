"""The lines of what was journalled a moment ago: so that the writer need not read and decode it again.

Bounded, and a short cut only: what found no room here, or came when the writer had fallen behind, is in the journal.
One thread puts, another looks; a lock keeps them apart.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from collector.journal import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_LINES: Final = 20_000


class _Block(NamedTuple):
    ids: range
    lines: Sequence[str]


class Handover:
    """Blocks of lines by the ascending ids of their results; the writer's place says which of them are done."""

    def __init__(self, most: int = MOST_LINES) -> None:
        """Hold at most so many lines."""
        self._most = most
        self._held = 0
        self._blocks: deque[_Block] = deque()
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether there is room, so that building lines is worth while."""
        return self._held < self._most

    @property
    def first(self) -> int:
        """The first id that is held; MAX_ID if none is."""
        with self._lock:
            return self._blocks[0].ids[0] if self._blocks else MAX_ID

    def put(self, ids: range, lines: Sequence[str]) -> None:
        """Hand over the lines of results that the journal holds under these ids, one each; else none of them."""
        with self._lock:
            room = min(len(ids), self._most - self._held)
            if room > 0 and len(ids) == len(lines) and all(lines):
                self._blocks.append(_Block(ids[:room], lines[:room]))
                self._held += room

    def after(self, written: int, most: int) -> Sequence[str]:
        """Return what follows this id without a gap, at most so many lines; forget what does not come after it."""
        found: list[str] = []
        with self._lock:
            while self._blocks and self._blocks[0].ids[-1] <= written:
                self._held -= len(self._blocks.popleft().ids)
            for ids, lines in self._blocks:
                following = written + 1 + len(found)
                if following not in ids or len(found) == most:
                    break
                skip = following - ids[0]
                found += lines[skip : skip + most - len(found)]
        return found
