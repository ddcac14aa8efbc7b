"""How many may share the test servers: the bounds of `share` in agent.yaml and of `probe-collector places`."""

from typing import Final

MAX_PLACES: Final = 100_000
"""Links in all."""
MAX_ROOM: Final = 1000
"""Tests at once."""
