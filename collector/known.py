"""Which status of a probe is the newest. An older one that comes again, or late, changes nothing of what is known.

The rule, for a status that arrives at R by the collector's clock:

- A life is one process of an agent, known by its `started_at`. The probe's present life is the one that was believed
  last.
- A clock is known to be set if it says so (`synchronised`), or has been set back since its life began; not if its time
  (`at`) is more than seconds after R. What such a clock says is believed if it is newer than all that set clocks of the
  probe have said, in whatever life.
- Any other clock tells no more than the order within its own life: it is believed if its life was never heard before,
  or has said nothing as new. However far it is ahead, and however late it is heard, it holds off no clock that is set.
- A last will has no time: the broker says it for the probe. It belongs to its life: of the present one it is believed,
  of an earlier one it is not, and of a life never heard before it counts as said when that began.
- What has neither time nor life (an agent whose disk refuses, others' clients) is believed as it comes.

What cannot be told: the will of the present life is the same bytes at every loss of the connection, so one that is
said again looks like a new loss. The probe's next status, within 15 minutes, puts that right. Nor can be told that a
clock which nobody calls set was set back, if by less than its life has lasted: it is believed again once it passes what
it had said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from collector.instants import is_ahead, microseconds
from wire import codec
from wire.status import Status

if TYPE_CHECKING:
    import sqlite3

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS lives (probe_id TEXT PRIMARY KEY, lives BLOB NOT NULL) WITHOUT ROWID;
"""
_LIVES_REMEMBERED: Final = 8
_NEVER: Final = -(2**63)


class Life(msgspec.Struct, array_like=True):
    """One process of an agent, in µs since 1970: its begin, the newest said by a clock that is set, and by another."""

    began_us: int
    set_us: int = _NEVER
    unset_us: int = _NEVER


class Lives(msgspec.Struct, array_like=True):
    """The last lives of one probe, the present one at the end."""

    lives: list[Life] = []

    def believe(self, status: Status, received_us: int) -> bool:
        """Take a status in, in the order of arrival; whether it is newer than what is known, by the rule above."""
        if status.started_at is None and status.at is None:
            return True
        began_us = microseconds(status.started_at) if status.started_at is not None else _NEVER
        life = next((one for one in self.lives if one.began_us == began_us), None)
        if life is not None and status.at is None:
            return life is self.lives[-1]
        at_us = microseconds(status.at) if status.at is not None else began_us
        is_set = (status.clock.synchronised is True or at_us < began_us) and not is_ahead(at_us, received_us)
        if is_set:
            newer = at_us > max([one.set_us for one in self.lives], default=_NEVER)
        else:
            newer = life is None or at_us > max(life.set_us, life.unset_us)
        if newer:
            life = life or Life(began_us)
            if is_set:
                life.set_us = at_us
            else:
                life.unset_us = at_us
            self.lives = [*[one for one in self.lives if one is not life][1 - _LIVES_REMEMBERED :], life]
        return newer


def store(connection: sqlite3.Connection, probe_id: str, payload: bytes, received_us: int) -> bool:
    """Keep a readable status if it is newer than what is known of the probe; return whether it is."""
    row = connection.execute("SELECT lives FROM lives WHERE probe_id = ?", (probe_id,)).fetchone()
    lives = msgspec.json.decode(row[0], type=Lives) if row is not None else Lives()
    if not lives.believe(codec.decode(payload, Status), received_us):
        return False
    connection.execute(
        "INSERT INTO lives VALUES (?1, ?2) ON CONFLICT DO UPDATE SET lives = ?2", (probe_id, msgspec.json.encode(lives))
    )
    connection.execute(
        "INSERT INTO probes VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET received_us = ?2, status = ?3",
        (probe_id, received_us, payload),
    )
    return True
