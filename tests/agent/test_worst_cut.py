"""The worst power cut leaves nothing that was not fsynced. What the spool has taken in must be there all the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, TypeVar

from agent.spool import Spool
from lab.torture.disk import Disk, build_shim
from wire.codec import decode_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

One = TypeVar("One")

FILLS = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from agent.spool import Spool
from wire.measured import Failed
from wire.reasons import Reason
from wire.results import Result
spool = Spool(Path(sys.argv[1]), max_bytes=10**9)
for number in range(20):
    outcome = Failed(reason=Reason.BUSY)
    fields = dict(probe_id="p1", site="s1", link="v", agent_version="0", started_at=datetime.now(UTC))
    spool.append(Result(**fields, elapsed_s=float(number), outcome=outcome))
os.kill(os.getpid(), 9)
"""


class Worst(random.Random):
    """Chance, always against us: of what was not fsynced, neither a name nor a sector is left."""

    def choice(self, seq: Sequence[One]) -> One:  # type: ignore[override]  # of what `Disk` gives it
        return seq[0]

    def randrange(self, *_bounds: int) -> int:  # type: ignore[override]  # the same
        return 0

    def random(self) -> float:
        return 0.999


def test_whatever_the_spool_has_taken_in_is_there_after_the_worst_power_cut(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "data", build_shim(tmp_path), tmp_path / "scratch")
    command = [sys.executable, "-c", FILLS, str(disk.folder / "spool.db")]
    done = subprocess.run(command, env={**os.environ, **disk.environment}, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    disk.cut_power(Worst())
    spool = Spool(disk.folder / "spool.db", max_bytes=10**9)
    try:
        kept = [decode_result(row.payload).elapsed_s for row in spool.oldest(100)]
    finally:
        spool.close()
    assert kept == [float(number) for number in range(20)]
    assert [file.name for file in disk.folder.iterdir() if "damaged" in file.name] == []
