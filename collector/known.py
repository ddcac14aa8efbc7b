"""Which status of a probe is the newest. An older one that comes again, or late, changes nothing of what is known.

The rule, for a status that arrives at R by the collector's clock:

- A life is one process of an agent, known by its `started_at`. The probe's present life is the one that was believed
  last.
- A status with a time of its own (`at`: births, what follows them, goodbyes) is believed if its life has said nothing
  as new before. If its life is not the present one, it must also be newer than all that the probe has said; only a life
  never heard before whose clock is not known to be set is believed without that, since an unset clock is behind.
- A time that is more than seconds after R is of a clock that is wrong. It is compared with such times of the same life
  alone, and counts as R: so it holds off nothing that a right clock says later, and does not come back either.
- A last will has no time: the broker says it for the probe. It belongs to its life: of the present one it is believed,
  of an earlier one it is not, and a life never heard before must have begun after all that the probe has said.
- What has neither time nor life (an agent whose disk refuses, others' clients) is believed as it comes.

What cannot be told: the will of the present life is the same bytes at every loss of the connection, so one that is
said again looks like a new loss. The probe's next status, within 15 minutes, puts that right.
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
    """One process of an agent, in µs since 1970: its begin, the newest that it said, the same where it was ahead."""

    began_us: int
    said_us: int = _NEVER
    ahead_us: int = _NEVER

    def hear(self, at_us: int, received_us: int) -> None:
        """Note when it spoke: by its own clock, but no later than it was heard."""
        if is_ahead(at_us, received_us):
            self.ahead_us = at_us
            self.said_us = max(self.said_us, received_us)
        else:
            self.said_us = at_us


class Lives(msgspec.Struct, array_like=True):
    """The last lives of one probe, the present one at the end."""

    lives: list[Life] = []

    def believe(self, status: Status, received_us: int) -> bool:
        """Take a status in, in the order of arrival; whether it is newer than what is known, by the rule above."""
        if status.started_at is None and status.at is None:
            return True
        began_us = microseconds(status.started_at) if status.started_at is not None else _NEVER
        at_us = microseconds(status.at) if status.at is not None else None
        life = next((one for one in self.lives if one.began_us == began_us), None)
        present = life is not None and life is self.lives[-1]
        newest_us = max([one.said_us for one in self.lives], default=_NEVER)
        if at_us is None:
            newer = present if life is not None else began_us > newest_us
        elif is_ahead(at_us, received_us):
            newer = life is None or at_us > life.ahead_us
        elif life is None:
            newer = status.clock.synchronised is not True or at_us > newest_us
        else:
            newer = at_us > (life.said_us if present else max(newest_us, life.ahead_us))
        if newer:
            life = life or Life(began_us)
            if at_us is not None:
                life.hear(at_us, received_us)
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
