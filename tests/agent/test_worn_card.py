"""A card that wears out: its file system turns read-only while the spool is in use."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.spool import Spool
from base.durable import StorageError
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """Make an ext4 file system in a file and mount it."""
    image, folder = tmp_path / "image", tmp_path / "card"
    with image.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    run("mkfs.ext4", "-q", "-F", str(image))
    folder.mkdir()
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("no loop devices here")
    yield folder
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def test_a_card_that_turns_read_only_keeps_what_it_took(card: Path, tmp_path: Path) -> None:
    result = Result(
        probe_id="p1",
        site="s1",
        started_at=datetime(2026, 6, 15, 8, 0, tzinfo=UTC),
        agent_version="0.1.0",
        outcome=Failed(reason=Reason.BUSY),
    )
    spool = Spool(card / "spool.db", max_bytes=10**9)
    taken = [spool.append(result).seq for _ in range(20)]
    run("mount", "-o", "remount,abort", str(card))  # what ext4 does with itself when it cannot write (ext4(5))
    for _ in range(3):
        with pytest.raises(StorageError, match=r"turned read-only|make it writable"):
            spool.append(result)
    assert [row.seq for row in spool.oldest(100)] == taken, "what waits can be sent all the same"
    with pytest.raises(StorageError):
        spool.acknowledge(spool.spool_id, [(1, 20)])
    spool.close()
    run("umount", str(card))
    shutil.copy(tmp_path / "image", tmp_path / "again")  # another loop device: this one is spoilt for good
    checked = subprocess.run(["e2fsck", "-p", str(tmp_path / "again")], check=False, capture_output=True)
    assert checked.returncode <= 1
    run("mount", "-o", "loop", str(tmp_path / "again"), str(card))
    spool = Spool(card / "spool.db", max_bytes=10**9)
    assert [row.seq for row in spool.oldest(100)] == taken
    assert spool.append(result).seq == 21
    spool.close()
