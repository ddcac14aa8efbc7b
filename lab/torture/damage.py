"""Damage to a spool's file and its log, and which results it cannot have touched: they have to be saved."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.torture import judge
from lab.torture.filler import SPOOL_FILE

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Iterator

_PAGE: Final = 4096
_LOG_HEADER: Final = 32
_FRAME: Final = 24 + _PAGE
_SUFFIXES: Final = ("", "-wal")
_UNTOLD_AT_MOST: Final = 3
"""Damage to the very end of a log looks like a power cut during its last commits."""


def strike(folder: Path, chance: random.Random) -> set[int]:
    """Damage the spool in a folder that nobody has open; return the tokens of which no damaged page held anything.

    A result that is longer than a page is none of them.
    """
    waiting = _waiting(folder)
    before, touched = b"", list[bytes]()
    for suffix in _SUFFIXES:
        file = folder / (SPOOL_FILE + suffix)
        if not file.exists():
            continue
        content = file.read_bytes()
        damaged = _damaged(content, chance, is_log=suffix == "-wal")
        file.write_bytes(damaged)
        before += content
        touched += [content[part] for part in _parts(content, suffix) if content[part] != damaged[part]]
    return {
        token
        for token, payload in waiting.items()
        if payload in before and not any(payload in content for content in touched)
    }


def complaints(at_risk: set[int], untouched: set[int], came: Counter[int], *, told: bool) -> list[str]:
    """Judge by what came in the end: all that the damage left was saved; where nobody told of it, little is gone."""
    gone = {token for token in at_risk if came[token] == 0}
    if not told:
        return [f"{len(gone)} results destroyed, and not a word"] if len(gone) > _UNTOLD_AT_MOST else []
    unsaved = gone & untouched
    of = len(at_risk & untouched)
    return [f"{len(unsaved)} of {of} results that the damage did not touch were not saved"] if unsaved else []


def _waiting(folder: Path) -> dict[int, bytes]:
    """Read what waits in the spool, by token, from a copy: SQLite changes what it reads."""
    with tempfile.TemporaryDirectory() as copy:
        for file in folder.glob(f"{SPOOL_FILE}*"):
            if file.name.removeprefix(SPOOL_FILE) in _SUFFIXES:
                shutil.copy(file, copy)
        with contextlib.closing(sqlite3.connect(Path(copy) / SPOOL_FILE)) as db:
            return {judge.token(payload): payload for (payload,) in db.execute("SELECT payload FROM results")}


def _parts(content: bytes, suffix: str) -> Iterator[slice]:
    """Give a file's pages, or a log's frames."""
    first, size = (_LOG_HEADER, _FRAME) if suffix else (0, _PAGE)
    return (slice(at, at + size) for at in range(first, len(content), size))


def _damaged(before: bytes, chance: random.Random, *, is_log: bool) -> bytes:
    """Flip bits, wipe a page, or cut the end off."""
    content = bytearray(before)
    if not content:
        return before
    # The end of the log is not cut off: nobody can tell that from a log that ended there.
    match chance.choice(["bits", "page", "nothing" if is_log else "end"]):
        case "bits":
            for _ in range(chance.randint(1, 30)):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case "page":
            at = chance.randrange(len(content)) // _PAGE * _PAGE
            content[at : at + _PAGE] = bytes(len(content[at : at + _PAGE]))
        case "end":
            del content[max(len(content) - chance.randint(1, 3 * _PAGE), 0) :]
    return bytes(content)
