"""Quarantine: of what could not be taken, the beginning, while there is room; the rest is counted. Journal tables."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

KEPT_BYTES_PER_ROW: Final = 4096
"""How much of a quarantined payload is kept."""
_ROW_OVERHEAD_BYTES: Final = 512
_MAX_DETAIL_CHARS: Final = 300

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS quarantine (
  id INTEGER PRIMARY KEY AUTOINCREMENT, stage TEXT NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL,
  detail TEXT NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, times INTEGER NOT NULL,
  payload_bytes INTEGER NOT NULL, payload BLOB NOT NULL, digest BLOB NOT NULL, UNIQUE (stage, topic, digest));
CREATE TABLE IF NOT EXISTS not_kept (
  stage TEXT NOT NULL, reason TEXT NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (stage, reason)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine_size (only INTEGER PRIMARY KEY CHECK (only = 1), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO quarantine_size VALUES (1, 0);
"""


class Stage(StrEnum):
    """Where a thing was stopped."""

    INTAKE = "intake"
    JOURNAL = "journal"
    SINK = "sink"


class Cause(StrEnum):
    """Why it was stopped; a closed list, so that it can be counted."""

    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    FOREIGN_PROBE = "foreign_probe"
    BAD_IDENTITY = "bad_identity"
    STRAY_TOPIC = "stray_topic"
    CONFLICT = "conflict"
    REJECTED = "rejected"


class Parked(NamedTuple):
    """Something for quarantine; `size` is its whole length where `payload` is only its beginning."""

    stage: Stage
    topic: str
    reason: Cause
    detail: str
    payload: bytes
    size: int


def park(connection: sqlite3.Connection, now_us: int, parked: Sequence[Parked], *, max_bytes: int) -> None:
    """Keep the beginning of each while there is room, count the rest; the same thing again adds to its row."""
    if not parked:
        return
    (held,) = connection.execute("SELECT bytes FROM quarantine_size").fetchone()
    for one in parked:
        kept = one.payload[:KEPT_BYTES_PER_ROW]
        digest = hashlib.blake2b(b"%d:" % one.size + one.payload, digest_size=16).digest()
        seen = connection.execute(
            "UPDATE quarantine SET times = times + 1, last_us = ? WHERE stage = ? AND topic = ? AND digest = ?",
            (now_us, one.stage, one.topic, digest),
        )
        if seen.rowcount:
            continue
        if held >= max_bytes:
            connection.execute(
                "INSERT INTO not_kept VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                (one.stage, one.reason),
            )
            continue
        connection.execute(
            "INSERT INTO quarantine (stage, topic, reason, detail, first_us, last_us, times, payload_bytes,"
            " payload, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1, ?6, ?7, ?8)",
            (one.stage, one.topic, one.reason, one.detail[:_MAX_DETAIL_CHARS], now_us, one.size, kept, digest),
        )
        held += len(kept) + _ROW_OVERHEAD_BYTES
    connection.execute("UPDATE quarantine_size SET bytes = ?", (held,))
