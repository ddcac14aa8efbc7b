"""The disk that loses power: what was fsynced is there, of the rest anything may be."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab.torture.disk import Disk, ShimError, build_shim

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "disk", build_shim(tmp_path), tmp_path / "scratch")


def run(disk: Disk, script: str) -> None:
    code = f"import os, sqlite3\nos.chdir({str(disk.folder)!r})\nroot = {str(disk.folder)!r} + '/'\n{script}"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **disk.environment}, check=True)


def after_cuts(disk: Disk, name: str, script: str, *, cuts: int = 12) -> set[bytes | None]:
    """Run a script as often, cut the power each time, and see what can become of a file."""
    seen: set[bytes | None] = set()
    for seed in range(cuts):
        for file in disk.folder.iterdir():
            file.unlink()
        disk.adopt()
        run(disk, script)
        disk.cut_power(random.Random(seed))
        file = disk.folder / name
        seen.add(file.read_bytes() if file.exists() else None)
    return seen


SYNCED = """
f = os.open(root + "a", os.O_RDWR | os.O_CREAT)
os.write(f, b"1" * 2048)
os.fsync(f)
d = os.open(root, os.O_RDONLY); os.fsync(d)
"""


def test_what_was_fsynced_with_its_folder_stays(disk: Disk) -> None:
    assert after_cuts(disk, "a", SYNCED, cuts=4) == {b"1" * 2048}


def test_what_was_written_since_may_stay_in_part(disk: Disk) -> None:
    seen = after_cuts(disk, "a", SYNCED + 'os.pwrite(f, b"2" * 2048, 0)')
    assert b"1" * 2048 in seen
    assert any(one and b"1" in one and b"2" in one for one in seen), "torn between two sectors"
    assert all(one is not None and len(one) == 2048 for one in seen)


def test_a_name_is_sure_only_after_the_folder_was_fsynced(disk: Disk) -> None:
    seen = after_cuts(disk, "b", SYNCED + 'os.rename(root + "a", root + "b")')
    assert seen == {None, b"1" * 2048}
    assert after_cuts(disk, "b", SYNCED + 'os.rename(root + "a", root + "b"); os.fsync(d)', cuts=4) == {b"1" * 2048}


def test_a_disk_that_is_full_or_read_only_says_so(disk: Disk) -> None:
    run(disk, SYNCED)
    refused = """
try:
    os.write(os.open(root + "a", os.O_RDWR | os.O_APPEND), b"3")
except OSError as error:
    assert error.strerror == WORDS, error
else:
    raise AssertionError
"""
    disk.full()
    run(disk, "WORDS = 'No space left on device'" + refused)
    disk.read_only()
    run(disk, "WORDS = 'Read-only file system'" + refused)
    disk.fine()
    run(disk, 'os.write(os.open(root + "a", os.O_RDWR), b"3")')


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ShimError, match="apt-get install gcc"):
        build_shim(tmp_path)


def test_a_database_that_does_not_fsync_loses_what_it_called_committed(disk: Disk) -> None:
    """The model must be able to find such a thing, or it proves nothing."""
    script = """
db = sqlite3.connect(root + "a.db", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=FULL")
db.execute("CREATE TABLE t (n)")
db.execute("PRAGMA synchronous=LEVEL")
for n in range(20):
    db.execute("INSERT INTO t VALUES (?)", (n,))
os.kill(os.getpid(), 9)
"""
    look = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT COUNT(*) FROM t').fetchone()[0])"
    found: dict[str, set[str]] = {"FULL": set(), "NORMAL": set()}
    for level, counts in found.items():
        for seed in range(4):
            for file in disk.folder.iterdir():
                file.unlink()
            disk.adopt()
            with pytest.raises(subprocess.CalledProcessError):
                run(disk, script.replace("LEVEL", level))
            disk.cut_power(random.Random(seed))
            shown = subprocess.run(
                [sys.executable, "-c", look, str(disk.folder / "a.db")], capture_output=True, text=True, check=True
            )
            counts.add(shown.stdout.strip())
    assert found["FULL"] == {"20"}
    assert found["NORMAL"] != {"20"}
