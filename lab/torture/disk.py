"""What a power cut leaves of a folder whose programs ran under `shim.c`: all that was fsynced, and some of the rest.

The model is POSIX's promise and no more (fsync(2)). Of a file, what was written before an fsync that came back stays;
of what was written since, any part may be, in 512-byte sectors and in any order. A name that was made, moved or removed
since the folder's last fsync may be so or not; of several such changes a beginning holds (a journalling file system).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SECTOR: Final = 512
_HEAD: Final = struct.Struct("<BIIQQ")
_SOURCE: Final = Path(__file__).with_name("shim.c")
_FINE, _FULL, _READ_ONLY = 0, 1, 2


class ShimError(Exception):
    """The shim cannot be built; the text says what is missing."""


class _Record(NamedTuple):
    what: str
    path: str
    file: int
    offset: int
    data: bytes


@dataclass
class _File:
    """What is certainly on the disk, and the writes (offset, data) and truncations (length, None) since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    syncing: dict[int, int] = field(default_factory=dict)

    def settle(self, thread: int) -> None:
        """Take for durable what was written before this thread's fsync began."""
        count = self.syncing.pop(thread, 0)
        for offset, data in self.pending[:count]:
            _apply(self.durable, offset, data)
        del self.pending[:count]
        self.syncing = {other: max(before - count, 0) for other, before in self.syncing.items()}

    def after_a_cut(self, chance: random.Random) -> bytes:
        content = bytearray(self.durable)
        kept = chance.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        first = chance.randrange(len(self.pending) + 1) if chance.random() < 0.5 else len(self.pending)  # noqa: PLR2004
        for offset, data in self.pending[:first]:
            if data is None:
                if chance.random() < kept:
                    _apply(content, offset, None)
                continue
            for at in range(0, len(data), SECTOR):
                if chance.random() < kept:
                    _apply(content, offset + at, data[at : at + SECTOR])
        return bytes(content)


@dataclass(frozen=True)
class _Renaming:
    path: str
    to: str | None  # None: removed
    made: _File | None = None


class Disk:
    """The disk under one folder. Programs that run with `environment` are on it; `follow` keeps up with them."""

    def __init__(self, folder: Path, shim: Path, scratch: Path) -> None:
        """Put a disk under `folder`, whose files are safe as they are; `scratch` holds its log and is not on it."""
        self.folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        self._log = scratch / "disk.log"
        self._control = scratch / "disk.state"
        self._shim = shim
        self.refusals = 0
        """How often it has refused to write."""
        self._control.write_bytes(bytes([_FINE]))
        self.adopt()

    @property
    def environment(self) -> dict[str, str]:
        """What to start a program with."""
        return {
            "LD_PRELOAD": str(self._shim),
            "TORTURE_FOLDER": str(self.folder),
            "TORTURE_LOG": str(self._log),
            "TORTURE_CONTROL": str(self._control),
        }

    def fine(self) -> None:
        """Let it take everything again."""
        self._set(_FINE)

    def full(self) -> None:
        """No file grows and none is made."""
        self._set(_FULL)

    def read_only(self) -> None:
        """Nothing is written at all."""
        self._set(_READ_ONLY)

    def adopt(self) -> None:
        """Take the folder's files for safe, as after a long rest; no program may be at work in it."""
        self._log.unlink(missing_ok=True)
        self._read = 0
        self._files: dict[int, _File] = {}
        self._names: dict[str, _File] = {}
        self._renamings: list[_Renaming] = []
        self._syncing_names: dict[int, int] = {}
        for path in self.folder.iterdir():
            if path.is_file() and not path.name.endswith("-shm"):
                file = _File(bytearray(path.read_bytes()))
                self._files[path.stat().st_ino] = file
                self._names[str(path)] = file

    def follow(self) -> None:
        """Read what was written since the last time."""
        for record in self._records():
            self._take(record)

    def cut_power(self, chance: random.Random) -> int:
        """Leave of the folder what a power cut would; its programs are dead already. Return how many bytes differ."""
        self.follow()
        for renaming in self._renamings[: chance.randrange(len(self._renamings) + 1)]:
            _rename(self._names, renaming)
        lost = 0
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name, file in self._names.items():
            lost += sum(len(data or b"") for _, data in file.pending)
            Path(name).write_bytes(file.after_a_cut(chance))
        self.adopt()
        return lost

    def _set(self, state: int) -> None:
        with self._control.open("r+b") as control:
            control.write(bytes([state]))

    def _records(self) -> Iterator[_Record]:
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._read)
            while len(head := log.read(_HEAD.size)) == _HEAD.size:
                what, path_bytes, data_bytes, file, offset = _HEAD.unpack(head)
                path, data = log.read(path_bytes), log.read(data_bytes)
                if len(data) < data_bytes:
                    return  # still being written
                self._read = log.tell()
                yield _Record(chr(what), path.decode(), file, offset, data)

    def _take(self, record: _Record) -> None:
        if record.what == "x":
            self.refusals += 1
            return
        if record.what in "cur":
            made = _File() if record.what == "c" else None
            if made is not None:
                self._files[record.file] = made
            self._renamings.append(_Renaming(record.path, record.data.decode() or None, made))
            return
        file = self._files.setdefault(record.file, _File())  # a folder has nothing pending, and none of it is asked for
        match record.what:
            case "w":
                file.pending.append((record.offset, record.data))
            case "t":
                file.pending.append((record.offset, None))
            case "s":
                self._syncing_names[record.offset] = len(self._renamings)
                file.syncing[record.offset] = len(file.pending)
            case "S":
                file.settle(record.offset)
            case "D":
                count = self._syncing_names.pop(record.offset, 0)
                for renaming in self._renamings[:count]:
                    _rename(self._names, renaming)
                del self._renamings[:count]
                self._syncing_names = {t: max(before - count, 0) for t, before in self._syncing_names.items()}


def build_shim(folder: Path) -> Path:
    """Compile the shim; raise ShimError."""
    shim = folder / "shim.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(_SOURCE)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ShimError("no C compiler: apt-get install gcc libc6-dev") from error
    except subprocess.CalledProcessError as error:
        raise ShimError(f"{_SOURCE} does not compile: {error.stderr.strip()[:500]}") from error
    return shim


def _rename(names: dict[str, _File], renaming: _Renaming) -> None:
    if renaming.made is not None:
        names[renaming.path] = renaming.made
        return
    file = names.pop(renaming.path, None)
    if file is not None and renaming.to is not None:
        names[renaming.to] = file


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write data at an offset, or cut off there (grow with zeros to there)."""
    if data is None:
        del content[offset:]
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is not None:
        content[offset : offset + len(data)] = data
