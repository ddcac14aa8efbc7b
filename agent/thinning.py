"""Which looks at the radio become results: a change at once, and one in every few minutes. Pure.

A look that shows nothing new is folded: the next record counts it and has the extremes of its levels, so what a record
leaves out is where in between a level moved within less than the thresholds, and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from wire.measured import Radio
from wire.radio import RadioReading

Decibel = Annotated[float, msgspec.Meta(ge=0, le=50)]

_LEVELS: Final = {
    "rsrp_dbm": "rsrp_db",
    "rssi_dbm": "rsrp_db",
    "rsrq_db": "rsrq_db",
    "sinr_db": "sinr_db",
    "nr_rsrp_dbm": "rsrp_db",
    "nr_rsrq_db": "rsrq_db",
    "nr_sinr_db": "sinr_db",
}
"""Each level of a reading, and the threshold that it goes by."""
_NOT_COMPARED: Final = {"temperature_c"}
_WHO: Final = tuple(name for name in RadioReading.__struct_fields__ if name not in {*_LEVELS, *_NOT_COMPARED})


class Thinning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `thin:` section of a radio job: a record every `full_every_s`, and whenever a level has moved by so much.

    Levels are compared with the last record. Cell, band, technology, operator and registration count at once.
    """

    full_every_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 600
    rsrp_db: Decibel = 5.0
    rsrq_db: Decibel = 4.0
    sinr_db: Decibel = 7.0


class Thinner:
    """Folds the looks of one job on one link."""

    def __init__(self, thinning: Thinning) -> None:
        self._thinning = thinning
        self._record: RadioReading | None = None
        self._recorded_at_s = 0.0
        self._folded: list[RadioReading] = []

    def look(self, reading: RadioReading, at_s: float) -> Radio | None:
        """Return the record that this look makes, None if it is folded; `at_s` is of a clock that never steps."""
        due = at_s - self._recorded_at_s >= self._thinning.full_every_s
        if self._record is None or due or self._differs(self._record, reading):
            self._record, self._recorded_at_s = reading, at_s
            return self._take(reading)
        self._folded.append(reading)
        return None

    def failed(self) -> None:
        """Note that a look failed: the next one that does not is a record."""
        self._record = None

    def rest(self) -> Radio | None:
        """Make a record of what is folded, at the end of the agent; None if nothing is."""
        return self._take(self._folded.pop()) if self._folded else None

    def _take(self, reading: RadioReading) -> Radio:
        readings, self._folded = [*self._folded, reading], []
        if len(readings) == 1:
            return Radio(reading=reading)
        lowest, highest = {}, {}
        for name in _LEVELS:
            seen = [value for one in readings if (value := getattr(one, name)) is not None]
            if seen:
                lowest[name], highest[name] = min(seen), max(seen)
        return Radio(
            reading=reading,
            samples=len(readings),
            lowest=RadioReading(**lowest),
            highest=RadioReading(**highest),
        )

    def _differs(self, record: RadioReading, reading: RadioReading) -> bool:
        if any(getattr(record, name) != getattr(reading, name) for name in _WHO):
            return True
        for name, threshold in _LEVELS.items():
            before, now = getattr(record, name), getattr(reading, name)
            if (before is None) != (now is None):
                return True
            if before is not None and abs(now - before) >= getattr(self._thinning, threshold):
                return True
        return False
