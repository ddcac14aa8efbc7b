"""The same words in the log, no more often than every so often."""

from __future__ import annotations

import time
from typing import Final

SAME_WORDS_EVERY_S: Final = 600.0
"""What goes wrong again and again in the same way is logged no more often."""


class Seldom:
    """Remembers what was said lately; for several threads."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}

    def may_say(self, words: str) -> bool:
        """Whether this was not said within SAME_WORDS_EVERY_S; it then counts as said."""
        now_s = time.monotonic()
        recent = {text: at_s for text, at_s in self._said_s.items() if now_s - at_s < SAME_WORDS_EVERY_S}
        self._said_s = {words: now_s} | recent  # never changed in place: two threads may come at once
        return words not in recent
