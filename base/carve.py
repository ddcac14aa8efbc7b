"""Rows out of a damaged SQLite file: every table leaf page that is still one is read by itself, by no index or tree.

File format: sqlite.org/fileformat2.html, sections 1.6 (b-tree pages), 2.1 (record format), 4.1 (WAL format). Pure:
bytes in, rows out. What is found may be old (a page that was freed keeps its rows until it is used again) and may be
wrong (nothing in the file's main part has a checksum): the caller must be able to tell a good row, and a row twice.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

Value = int | float | str | bytes | None

_TABLE_LEAF: Final = 0x0D
_INDEX_LEAF: Final = 0x0A
_FILE_HEADER: Final = 100
_LEAF_HEADER: Final = 8
_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_DEFAULT_PAGE: Final = 4096
_INTEGER_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_REAL: Final = 7
_ZERO, _ONE = 8, 9
_FIRST_BLOB: Final = 12


class Row(NamedTuple):
    """One row of some table: its rowid and its columns as stored (an INTEGER PRIMARY KEY column is None).

    An entry of an index, or a row of a table WITHOUT ROWID, has no rowid; of these only short ones are found.
    """

    rowid: int | None
    columns: tuple[Value, ...]


class _Torn(Exception):
    """This cell is not one."""


class _Pages:
    """Pages by number, for chains: the newest one in the log, else the one in the file."""

    def __init__(self, file: bytes | mmap, size: int) -> None:
        self._file = file
        self._size = size
        self._logged: dict[int, bytes] = {}

    def log(self, number: int, page: bytes) -> None:
        self._logged[number] = page

    def __getitem__(self, number: int) -> bytes:
        at = (number - 1) * self._size
        page = self._logged.get(number) or self._file[at : at + self._size]
        if number < 1 or not page:
            raise _Torn
        return page


def rows(file: bytes | mmap, wal: bytes = b"") -> Iterator[Row]:
    """Find every row of every table, in the file first and then in its write-ahead log."""
    size = _page_size(file, wal)
    pages = _Pages(file, size)
    logged: list[bytes] = []
    for at in range(_WAL_HEADER, len(wal) - size - _FRAME_HEADER + 1, size + _FRAME_HEADER):
        (number,) = struct.unpack_from(">I", wal, at)
        page = wal[at + _FRAME_HEADER : at + _FRAME_HEADER + size]
        logged.append(page)
        pages.log(number, page)
    for at in range(0, len(file), size):
        yield from _leaf(file[at : at + size], _FILE_HEADER if at == 0 else 0, pages, size)
    for page in logged:
        yield from _leaf(page, 0, pages, size)


class Break(NamedTuple):
    """Where a write-ahead log stops making sense though it goes on: a counter's last value there, and those behind."""

    before: int | None
    behind: frozenset[int]


def counter_at_break(wal: bytes, name: str) -> Break | None:
    """Find the first frame of a log whose checksum is wrong (sections 4.1, 4.2); None if nothing of it comes behind.

    SQLite leaves out that frame and all that follow, without a word. The counter is any row or entry (name, integer).
    """
    if len(wal) <= _WAL_HEADER:
        return None
    magic, _, size, _, *salts, first, second = struct.unpack_from(">8I", wal)
    order = {0x377F0682: "<", 0x377F0683: ">"}.get(magic, "")
    headless = not order or _checksum(wal[: _WAL_HEADER - 8], (0, 0), order) != (first, second)
    size = _page_size(b"", wal) if headless else size
    intact, behind, goes_on, sums, broken = list[bytes](), list[bytes](), False, (first, second), headless
    for at in range(_WAL_HEADER, len(wal) - size - _FRAME_HEADER + 1, size + _FRAME_HEADER):
        _, _, *frame_salts, first, second = struct.unpack_from(">6I", wal, at)
        page = wal[at + _FRAME_HEADER : at + _FRAME_HEADER + size]
        if frame_salts != salts and not headless:  # of an earlier log in this file, unless others of this one follow
            broken = True
            continue
        if not broken:
            sums = _checksum(page, _checksum(wal[at : at + 8], sums, order), order)
            broken = sums != (first, second)
        goes_on |= broken
        if name.encode() in page:
            (behind if broken else intact).append(page)
    if not goes_on:
        return None
    return Break(max(_counts(intact, name), default=None), frozenset(_counts(behind, name)))


def _counts(pages: list[bytes], name: str) -> Iterator[int]:
    for page in pages:
        for row in _leaf(page, 0, _Pages(b"", len(page)), len(page)):
            match row.columns:
                case (str(whose), int(value)) if whose == name:
                    yield value


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """Go on with a log's checksum: section 4.2, "Checksum Algorithm"."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def _page_size(file: bytes | mmap, wal: bytes) -> int:
    """Read it where either header tells it (a power of two from 512 to 65536)."""
    found = [struct.unpack_from(">H", file, 16)[0]] if len(file) >= _FILE_HEADER else []
    found += [struct.unpack_from(">I", wal, 8)[0]] if len(wal) >= _WAL_HEADER else []
    for size in found:
        if 512 <= size <= 65536 and size & (size - 1) == 0:  # noqa: PLR2004  # section 1.3.2
            return int(size)
    return 65536 if found and found[0] == 1 else _DEFAULT_PAGE


def _leaf(page: bytes, at: int, pages: _Pages, size: int) -> Iterator[Row]:
    if len(page) < at + _LEAF_HEADER or page[at] not in {_TABLE_LEAF, _INDEX_LEAF}:
        return
    read = _cell if page[at] == _TABLE_LEAF else _index_cell
    (count,) = struct.unpack_from(">H", page, at + 3)
    pointers = at + _LEAF_HEADER
    for index in range(min(count, (len(page) - pointers) // 2)):
        (cell,) = struct.unpack_from(">H", page, pointers + 2 * index)
        try:
            yield read(page, cell, pages, size)
        except (_Torn, IndexError, struct.error, UnicodeDecodeError):
            continue


def _cell(page: bytes, at: int, pages: _Pages, size: int) -> Row:
    length, at = _varint(page, at)
    rowid, at = _varint(page, at)
    most, least = size - 35, (size - 12) * 32 // 255 - 23
    if length <= most:
        payload = page[at : at + length]
    else:
        local = least + (length - least) % (size - 4)
        local = local if local <= most else least
        (following,) = struct.unpack_from(">I", page, at + local)
        payload = page[at : at + local] + _chain(following, length - local, pages, size)
    if len(payload) != length:
        raise _Torn
    return Row(rowid - (1 << 64) if rowid >> 63 else rowid, _record(payload))


def _index_cell(page: bytes, at: int, _: _Pages, size: int) -> Row:
    length, at = _varint(page, at)
    if length > (size - 12) * 64 // 255 - 23 or at + length > len(page):
        raise _Torn
    return Row(None, _record(page[at : at + length]))


def _chain(number: int, length: int, pages: _Pages, size: int) -> bytes:
    parts = []
    while length > 0:
        page = pages[number]
        (number,) = struct.unpack_from(">I", page, 0)
        parts.append(page[4 : 4 + min(length, size - 4)])
        length -= size - 4  # it shrinks with every page, so that a ring comes to an end
    return b"".join(parts)


def _record(payload: bytes) -> tuple[Value, ...]:
    head, at = _varint(payload, 0)
    types = []
    while at < head:
        kind, at = _varint(payload, at)
        types.append(kind)
    values: list[Value] = []
    at = head
    for kind in types:
        value, at = _value(payload, kind, at)
        values.append(value)
    if at != len(payload):
        raise _Torn
    return tuple(values)


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in {_ZERO, _ONE}:
        return kind - _ZERO, at
    if kind == _REAL:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if (width := _INTEGER_BYTES.get(kind)) is not None:
        return int.from_bytes(payload[at : at + width], "big", signed=True), at + width
    if kind < _FIRST_BLOB:
        raise _Torn
    width = (kind - _FIRST_BLOB) // 2
    raw = payload[at : at + width]
    if len(raw) != width:
        raise _Torn
    return (raw.decode() if kind % 2 else raw), at + width


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a variable-length integer: section 1.6, "1 to 9 bytes"."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004  # the highest bit says that more follow
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9
