"""The dialogue of one session, bounded, for the story of a failure: no PIN, no identity is ever in it."""

from __future__ import annotations

from collections import deque
from typing import Final

from agent.modem.at import masked
from agent.modem.reading import without_identity

_MAX_ENTRIES: Final = 300
_MAX_CHARACTERS: Final = 300


class Transcript:
    """The last 300 entries; `>` sent, `<` received, `!` unsolicited, `#` a remark; seconds in front."""

    def __init__(self) -> None:
        self._entries: deque[str] = deque(maxlen=_MAX_ENTRIES)

    def add(self, at_s: float, mark: str, text: str) -> None:
        """Keep one line, cut to 300 characters, secrets and identities taken out."""
        clean = without_identity(masked(text))[:_MAX_CHARACTERS]
        self._entries.append(f"{at_s:7.3f} {mark} {clean}")

    def lines(self) -> tuple[str, ...]:
        """Return the entries, oldest first."""
        return tuple(self._entries)
