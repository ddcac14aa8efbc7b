"""Opens the spool's file; one that is damaged is rebuilt from all of it that can still be read, and kept aside.

The rebuilt file is made beside the damaged one, and only when whole put in its place, so that a power cut at any moment
leaves either the one or the other. Results keep the numbers they had: what the collector has already, it knows again.
New results get a new spool's numbers, since nobody can say any more which of the old ones were given out.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections import Counter
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import lives, numbering, worn
from base import carve
from base.durable import StorageError, explain, log_is_damaged, open_database, sync_folder
from wire.codec import CHECK_CHARS, Undecodable, check, decode, decode_result, encode, is_intact
from wire.events import Damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import UnionType

    from wire.results import Result

_Columns = tuple[carve.Value, ...]

log = logging.getLogger(__name__)

DAMAGE: Final = "damage"
"""The key in `meta` of a report that waits for the next result."""
_BELIEVED_AHEAD: Final = 1000
_KEPT_ASIDE: Final = 3
"""Damaged files; a card that wears out must not fill itself with them."""
_CACHE_KIB: Final = 512
"""A backlog fills whatever SQLite is given, and the agent's memory with it."""
_SUFFIXES: Final = ("-wal", "-shm", "")  # the main file last: while it is there, the swap is not done
_TRANSIENT: Final = ("-wal", "-shm", "-journal", "")


class Found(NamedTuple):
    """One result that could be read: whose it is, and its bytes as they were to travel."""

    spool_id: str
    seq: int
    kind: str
    rank: int
    payload: bytes
    formerly: tuple[str, int] | None


class _Told(NamedTuple):
    """What SQL still says of numbers: the spool that was written, the last number, what came before each life."""

    spool_id: str
    last_number: int
    before: dict[str, int]

    def number(self, one: Found) -> int:
        """Return a result's number in the file."""
        return self.before.get(one.spool_id, 0) + one.seq


def open_spool(path: Path, schema: str, *, version: int, rank: Callable[[Result], int]) -> sqlite3.Connection:
    """Open or create the file, rebuilding it if need be; raise StorageError."""
    try:
        return _open_or_rebuild(path, schema, version=version, rank=rank)
    except (OSError, sqlite3.Error) as error:
        raise explain(path, error) from error


def _open_or_rebuild(path: Path, schema: str, *, version: int, rank: Callable[[Result], int]) -> sqlite3.Connection:
    rebuilt = path.with_name(path.name + ".rebuilt")
    if rebuilt.exists():  # the power went during the swap
        _swap(path, rebuilt)
    log_before = _bytes(path, "-wal")  # opening writes over what looks like the rest of a power cut
    db, verdict = _open_sound(path, schema, version)
    if db is not None:
        return db
    verdict = " ".join(verdict.split())
    log.error("%s is damaged (%s)", path, verdict)
    by_page = [row.columns for row in carve.rows(_bytes(path), log_before)]
    _rebuild(path, rebuilt, verdict, by_page, schema, version=version, rank=rank)
    _swap(path, rebuilt)
    return open_database(path, schema, user_version=version, cache_kib=_CACHE_KIB)


def _open_sound(path: Path, schema: str, version: int) -> tuple[sqlite3.Connection | None, str]:
    """Open the file if it is sound, else say what is wrong with it and leave it alone; raise StorageError."""
    if log_is_damaged(path, "last_seq", "SELECT value FROM meta WHERE key='last_seq'"):
        return None, f"{path}-wal: wrong checksums in the middle, or nothing beside it"
    db: sqlite3.Connection | None = None
    try:
        db = open_database(path, schema, user_version=version, cache_kib=_CACHE_KIB)
        db.text_factory = worn.text
        verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict == "ok":
            verdict = numbering.fault(db) or verdict
        if verdict == "ok":
            return db, verdict
    except (StorageError, sqlite3.Error) as error:
        if not is_damage(error):
            if db is not None:
                db.close()
            raise error if isinstance(error, StorageError) else explain(path, error) from error
        verdict = str(error)
    if db is not None:
        db.close()
    return None, verdict


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is not what it should be, or a number was given twice."""
    signs = ("damaged", "malformed", "not a database", "UNIQUE constraint failed: results.seq")
    return any(sign in str(error) for sign in signs)


def report_of(db: sqlite3.Connection) -> Damaged | None:
    """Read the report that waits for the next result; a fresh one where it is not what was written."""
    row = db.execute("SELECT value FROM meta WHERE key=?", (DAMAGE,)).fetchone()
    if row is None:
        return None
    try:
        return decode(row[0], Damaged)
    except (Undecodable, TypeError):
        worn.say("the damage of the spool")
        return Damaged(saved=0, unreadable=0, detail="what was noted of the damage has changed on the card")


def rescued(db: sqlite3.Connection) -> set[bytes]:
    """Read the results of a file that has just been rebuilt, as they were before they had numbers; else none."""
    if db.execute("SELECT 1 FROM meta WHERE key=?", (DAMAGE,)).fetchone() is None:
        return set()
    rows = db.execute("SELECT payload, crc FROM results").fetchall()
    found = (decode_result(payload) for payload, known in rows if is_intact(payload, known))
    return {encode(msgspec.structs.replace(result, spool_id="", seq=0)) for result in found}


def _rebuild(
    path: Path,
    rebuilt: Path,
    verdict: str,
    by_page: list[_Columns],
    schema: str,
    *,
    version: int,
    rank: Callable[[Result], int],
) -> None:
    _make_room_aside(path)
    under_way = path.with_name(path.name + ".rebuilding")
    for suffix in _TRANSIENT:
        under_way.with_name(under_way.name + suffix).unlink(missing_ok=True)
    with _copy(path) as copy, closing(open_database(under_way, schema, user_version=version)) as db:
        db.execute("BEGIN IMMEDIATE")
        _copy_tables(copy, db)
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        told = _Told(meta.get("spool_id", ""), max(meta.get("last_seq", 0), _highest(copy)), lives.all_of(db))
        found, lost = _results(by_page, copy, rank, told)
        numbers = _place(db, found, told.last_number)
        counts = Counter(result.kind for result in found)
        aside = _free_name(path)
        report = Damaged(
            saved=len(found), unreadable=lost, counts=dict(counts), detail=verdict[:300], kept_as=str(aside)
        )
        db.execute("INSERT OR REPLACE INTO meta VALUES ('last_seq', ?)", (numbers,))
        db.execute("DELETE FROM meta WHERE key='spool_id'")  # the one who opens the file begins a new spool
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (DAMAGE, encode(report)))
        db.execute("COMMIT")
    under_way.replace(rebuilt)
    sync_folder(path.parent)
    log.error(
        "%s: %d results saved, %d known to be lost; the damaged file is kept as %s",
        path,
        len(found),
        lost,
        aside,
    )


@contextmanager
def _copy(path: Path) -> Iterator[Path]:
    """Make a copy for SQLite to read; it changes what it reads, and deletes a log that it has no use for."""
    copy = path.with_name(path.name + ".reading")
    try:
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(_bytes(path, suffix))
        yield copy
    finally:
        for suffix in _TRANSIENT:
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _place(db: sqlite3.Connection, found: list[Found], last_seq: int) -> int:
    """Store what was found under its old numbers; return the last number of the file."""
    known = lives.all_of(db)
    numbers = {known[one.spool_id] + one.seq: one.spool_id for one in found if one.spool_id in known}
    numbered = [name for name, columns in _tables(db).items() if "seq" in columns]
    if any(lives.of(db, number)[0] != spool_id for number, spool_id in numbers.items()):
        known.clear()  # this table is damaged too, so what goes by these numbers elsewhere means nothing
        for name in ("lives", *numbered):
            db.execute(f"DELETE FROM {name}")  # noqa: S608  # names of ours
    else:  # what said which number was the last may be older than they are, or gone
        believed = (last_seq + _BELIEVED_AHEAD if last_seq else worn.MOST,)
        query = "SELECT COALESCE(MAX(seq), 0) FROM {} WHERE seq <= ?"
        given = [db.execute(query.format(name), believed).fetchone()[0] for name in numbered]
        last_seq = max(last_seq, *known.values(), *numbers, *given, 0)
    for spool_id in dict.fromkeys(result.spool_id for result in found):
        if spool_id not in known:
            known[spool_id] = last_seq if known else 0
            db.execute("INSERT INTO lives VALUES (?, ?)", (spool_id, known[spool_id]))
        longest = max(result.seq for result in found if result.spool_id == spool_id)
        last_seq = max(last_seq, known[spool_id] + longest)
    db.executemany(
        "INSERT INTO results (seq, rank, kind, payload, crc) VALUES (?, ?, ?, ?, ?)",
        [(known[r.spool_id] + r.seq, r.rank, r.kind, r.payload, check(r.payload)) for r in found],
    )
    return last_seq


def _results(
    by_page: list[_Columns], copy: Path, rank: Callable[[Result], int], told: _Told
) -> tuple[list[Found], int]:
    """Find every result that waits, by SQL and page by page; and how many are known to be lost.

    Where SQL still sees the whole table or its index, it knows which numbers wait: an older one that is found besides
    was acknowledged, and its page not wiped since. What was given out after SQL lost sight is found page by page only,
    and so is what belongs to a life that SQL does not see: of its numbers nothing is known.
    """
    by_sql, whole = _as_far_as_it_comes(copy, "SELECT payload, crc FROM results")
    indexed, index_whole = _as_far_as_it_comes(copy, "SELECT seq FROM results INDEXED BY results_by_rank")
    waiting, spoilt = _known(by_sql, rank)
    carved, torn = _known(by_page, rank)
    moved = {one.formerly for one in (*carved.values(), *waiting.values()) if one.formerly is not None}
    carved = {key: one for key, one in carved.items() if key not in moved}  # it travels under its other number
    numbers = {number for (number,) in indexed if isinstance(number, int)} if index_whole else set()
    unknown = {key for key, one in carved.items() if not told.spool_id or one.spool_id not in told.before}
    later = {key: one for key, one in carved.items() if key in unknown or told.number(one) > told.last_number}
    if whole:
        found, lost = later | waiting, spoilt
    elif index_whole:
        found = later | {key: one for key, one in carved.items() if told.number(one) in numbers} | waiting
        lost = len(numbers - {told.number(one) for one in found.values()})
    else:
        found = carved | waiting
        placed = {told.number(one) for one in found.values()}
        span = (min(placed, default=0), max(placed, default=0), told.last_number)
        lost = max(torn, max(span[1:]) + 1 - span[0] - len(placed) if placed else 0)
    if whole or index_whole:
        placed = {told.number(one) for key, one in later.items() if key not in unknown}
        last = max([told.last_number, *placed, *_last_numbers(by_page, max(placed, default=told.last_number))])
        lost += max(last - told.last_number - len(later), 0)
    return sorted(found.values(), key=lambda one: (one.spool_id, one.seq)), max(lost, 0)


def _highest(copy: Path) -> int:
    """Return the highest number of what waits, as far as SQL sees it."""
    rows, _ = _as_far_as_it_comes(copy, "SELECT MAX(seq) FROM results")
    return max((number for (number,) in rows if worn.is_whole(number)), default=0)


def _last_numbers(rows: list[_Columns], about: int) -> Iterator[int]:
    """Find what `meta` said was the last number, on whatever page it stands; one far from `about` is damaged itself."""
    for columns in rows:
        match columns:
            case ("last_seq", int(number)) if number <= about + _BELIEVED_AHEAD:
                yield number


def _as_far_as_it_comes(copy: Path, query: str) -> tuple[list[_Columns], bool]:
    """Return the rows up to where SQLite meets damage, and whether it met none."""
    rows: list[_Columns] = []
    try:
        with closing(sqlite3.connect(copy)) as db:
            for row in db.execute(query):
                rows.append(row)  # noqa: PERF402  # an error must leave what came before it
    except (sqlite3.Error, UnicodeDecodeError) as error:
        log.warning("%s: %s", query, error)
        return rows, False
    return rows, True


def _known(rows: Iterable[_Columns], rank: Callable[[Result], int]) -> tuple[dict[tuple[str, int], Found], int]:
    """Take the results out of rows of any table, each once, and count those that are not what they were."""
    found: dict[tuple[str, int], Found] = {}
    spoilt = 0
    for columns in rows:
        for one in _in_row(columns, rank):
            if one is None:
                spoilt += 1
            else:
                found.setdefault((one.spool_id, one.seq), one)
    return found, spoilt


def _in_row(columns: _Columns, rank: Callable[[Result], int]) -> Iterator[Found | None]:
    """Find a result with its check in a row of whatever table; None for one that is not what it was."""
    for payload, beside in pairwise(columns):
        if not (isinstance(payload, bytes) and isinstance(beside, str) and len(beside) == CHECK_CHARS):
            continue
        if check(payload) != beside:
            yield None
            continue
        with suppress(Undecodable):
            result = decode_result(payload)
            if result.spool_id and result.seq > 0:
                kind = str(type(result.outcome).__struct_config__.tag)
                first = (result.formerly.spool_id, result.formerly.seq) if result.formerly is not None else None
                yield Found(result.spool_id, result.seq, kind, rank(result), payload, first)


def _copy_tables(copy: Path, db: sqlite3.Connection) -> None:
    """Copy what the other tables (books, runs, meta) still tell, from both ends towards the damage."""
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(sqlite3.connect(copy)) as old:
        for name, columns in _tables(db).items():
            marks = ", ".join("?" * len(columns))
            for order in ("", " ORDER BY 1 DESC"):
                with suppress(sqlite3.Error, UnicodeDecodeError):
                    for row in old.execute(f"SELECT {', '.join(columns)} FROM {name}{order}"):  # noqa: S608  # names of ours
                        if all(map(_plausible, row, columns.values())):
                            db.execute(f"INSERT OR IGNORE INTO {name} VALUES ({marks})", row)  # noqa: S608  # as above
    not_whole = f"NOT (typeof(value) = 'integer' AND value BETWEEN 0 AND {worn.MOST})"
    db.execute(f"DELETE FROM meta WHERE key IN ('last_seq', 'made', 'refiled', 'deferred') AND {not_whole}")  # noqa: S608  # as above
    db.execute(f"DELETE FROM lives WHERE {not_whole.replace('value', 'before')}")  # noqa: S608  # as above
    db.execute("DELETE FROM meta WHERE key = 'spool_id' AND typeof(value) != 'text'")


def _tables(db: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Name every table but that of the results, and the declared types of its columns."""
    names = db.execute("SELECT name FROM sqlite_master WHERE type='table' AND name != 'results'").fetchall()
    return {name: {row[1]: row[2] for row in db.execute(f"PRAGMA table_info({name})")} for (name,) in names}


def _plausible(value: object, declared: str) -> bool:
    """Whether a value may stand in a column; what stands in blobs is JSON."""
    kinds: dict[str, type | UnionType] = {"INTEGER": int, "REAL": int | float, "TEXT": str}
    if value is None or not declared:
        return True
    if declared in kinds:
        return isinstance(value, kinds[declared])
    try:
        return isinstance(value, bytes) and msgspec.json.decode(value) is not None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _swap(path: Path, rebuilt: Path) -> None:
    """Put what is left of the damaged file aside, and the rebuilt one in its place; can be repeated."""
    with closing(sqlite3.connect(rebuilt)) as db:  # made whole by closing it, so it has no log
        report = report_of(db)
    name = Path(report.kept_as).name if report is not None else ""
    aside = path.with_name(name) if name else _free_name(path)
    for suffix in _SUFFIXES:
        if (part := path.with_name(path.name + suffix)).exists():
            part.replace(aside.with_name(aside.name + suffix))
    rebuilt.replace(path)
    sync_folder(path.parent)


def _bytes(path: Path, suffix: str = "") -> bytes:
    file = path.with_name(path.name + suffix)
    return file.read_bytes() if file.exists() else b""


def _free_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged-{max(_set_aside(path), default=0) + 1}")


def _set_aside(path: Path) -> dict[int, list[Path]]:
    """Find the damaged files that were kept, by number, each with its log."""
    named = re.compile(re.escape(path.name) + r"\.damaged-([1-9][0-9]*)(-wal|-shm)?")
    found: dict[int, list[Path]] = {}
    for file in path.parent.iterdir():
        if match := named.fullmatch(file.name):
            found.setdefault(int(match[1]), []).append(file)
    return found


def _make_room_aside(path: Path) -> None:
    """Remove the oldest of the damaged files that were kept, so that with the next one there are no more than few."""
    kept = _set_aside(path)
    for number in sorted(kept)[: 1 - _KEPT_ASIDE]:
        for file in kept[number]:
            log.warning("%s: removed, there are later ones", file)
            file.unlink(missing_ok=True)
