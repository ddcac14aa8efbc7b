"""Who is not who: two agents under one probe id, and numbers that two results claim (an old or a copied card).

An agent is known by the instant it was started and the machine it runs on. One that is heard again after another of the
same id was heard, with a status made after that other one began, shares the id with it: a restart never brings an
earlier agent back. Where its clock says that the status was made before, it may have come late; if the other one speaks
and then it once more, it is the clock that is behind. Both are named, in the log, in the journal and as a point.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from base import durable, table
from collector.instants import microseconds, moment

if TYPE_CHECKING:
    from collector.journal import Journal
    from wire.status import Status

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS shared_ids (
  probe_id TEXT NOT NULL, started_us INTEGER NOT NULL, machine TEXT NOT NULL, spool_id TEXT NOT NULL,
  first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, times INTEGER NOT NULL,
  PRIMARY KEY (probe_id, started_us, machine)) WITHOUT ROWID;
"""
_AGENTS_REMEMBERED: Final = 8
_KEPT_PER_PROBE: Final = 50


class Agent(NamedTuple):
    """One process of an agent, by its last status: when it began, where, with which spool."""

    started_us: int
    machine: str
    spool_id: str

    def __str__(self) -> str:
        """Name it for a log line."""
        return f"spool {self.spool_id} on {self.machine or 'an unnamed machine'}"


class SharedId(NamedTuple):
    """Two agents that both say they are this probe."""

    probe_id: str
    one: Agent
    other: Agent


class Watch:
    """Hears every status and notices who comes back after another; remembers a few agents of each probe."""

    def __init__(self) -> None:
        self._heard: dict[str, dict[tuple[int, str], tuple[Agent, int]]] = {}  # by probe, the last one heard at the end
        self._late: dict[str, tuple[tuple[int, str], int]] = {}
        """By probe: who seemed late, and when the other one had last spoken."""

    def hear(self, status: Status) -> SharedId | None:
        """Take one status in, in the order of arrival; one that came before, or once came late, changes nothing."""
        if not status.online or status.at is None or status.started_at is None:
            return None
        agent = Agent(microseconds(status.started_at), status.machine, status.spool_id)
        at_us = microseconds(status.at)
        agents = self._heard.setdefault(status.probe_id, {})
        key = (agent.started_us, agent.machine)
        before, last = agents.get(key), next(reversed(agents.values()), None)
        if before is not None and at_us <= before[1]:
            return None
        shared = None
        if before is not None and last is not None and last is not before:
            if at_us <= last[0].started_us and not self._in_turns(status.probe_id, key, last[1]):
                agents[key] = (agent, at_us)  # in its old place: the other one is still the last
                return None
            shared = SharedId(status.probe_id, agent, last[0])
        agents.pop(key, None)
        agents[key] = (agent, at_us)
        if len(agents) > _AGENTS_REMEMBERED:
            del agents[next(iter(agents))]
        return shared

    def _in_turns(self, probe_id: str, key: tuple[int, str], other_at_us: int) -> bool:
        """Whether an agent that seems late seemed so before, and the other one has spoken since."""
        before = self._late.get(probe_id)
        self._late[probe_id] = (key, other_at_us)
        return before is not None and before[0] == key and before[1] < other_at_us


def note(journal: Journal, shared: SharedId, now_us: int) -> None:
    """Keep it for `probe-collector clashes`; a disk that refuses costs no more than this note."""
    with suppress(sqlite3.Error, durable.StorageError):
        journal.connection.executemany(
            "INSERT INTO shared_ids VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1)"
            " ON CONFLICT DO UPDATE SET times = times + 1, last_us = ?5, spool_id = ?4",
            [(shared.probe_id, *agent, now_us) for agent in (shared.one, shared.other)],
        )
        journal.connection.execute(
            "DELETE FROM shared_ids WHERE probe_id = ?1 AND last_us < (SELECT MIN(last_us) FROM (SELECT last_us"
            " FROM shared_ids WHERE probe_id = ?1 ORDER BY last_us DESC LIMIT ?2))",
            (shared.probe_id, _KEPT_PER_PROBE),
        )


class Sharer(msgspec.Struct):
    """One of the agents that were heard under one probe id in turns."""

    probe_id: str
    machine: str
    spool_id: str
    started: datetime
    first: datetime
    last: datetime
    times: int


class Refused(msgspec.Struct):
    """How many results of a probe came under numbers that others hold, and when the last one did."""

    probe_id: str
    times: int
    last: datetime


class Clashes(msgspec.Struct):
    """Everything that `probe-collector clashes` says."""

    shared_ids: list[Sharer]
    refused_numbers: list[Refused]


def collect(journal: Journal) -> Clashes:
    """Read what was noted; raise StorageError."""
    sharers = "SELECT probe_id, machine, spool_id, started_us, first_us, last_us, times FROM shared_ids"
    numbers = "SELECT topic, SUM(times), MAX(last_us) FROM quarantine WHERE reason = 'conflict' GROUP BY topic"
    try:
        return Clashes(
            [
                Sharer(probe_id, machine, spool_id, moment(started), moment(first), moment(last), times)
                for probe_id, machine, spool_id, started, first, last, times in journal.connection.execute(
                    f"{sharers} ORDER BY probe_id, last_us"
                )
            ],
            [
                Refused(probe_id, times, moment(last))
                for probe_id, times, last in journal.connection.execute(f"{numbers} ORDER BY topic")
            ],
        )
    except sqlite3.Error as error:
        raise durable.explain(journal.path, error) from error


def text(clashes: Clashes) -> str:
    """Write it for people."""
    parts = []
    if clashes.shared_ids:
        head = ("probe", "machine", "spool", "agent started", "first seen to share", "last", "times")
        rows = [
            (
                one.probe_id,
                one.machine,
                one.spool_id,
                _short(one.started),
                _short(one.first),
                _short(one.last),
                one.times,
            )
            for one in clashes.shared_ids
        ]
        parts.append("Agents that share a probe id:\n" + table.render(head, rows))
    if clashes.refused_numbers:
        rows_ = [(one.probe_id, one.times, _short(one.last)) for one in clashes.refused_numbers]
        title = "Results under numbers that others hold (an old or a copied card); they came again under new ones:\n"
        parts.append(title + table.render(("probe", "results", "last"), rows_))
    return "\n\n".join(parts) or "none: every probe id has one agent, every number one result"


def _short(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"
