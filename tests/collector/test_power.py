"""The worst power cut: nothing is left of what was not fsynced. What was acknowledged must be there all the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

import pytest
from collector_helpers import Collector, Probe, collector_config, journalled, message, result, wait_until

from lab.torture.disk import Disk, build_shim

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.servers import Mosquitto

pytestmark = pytest.mark.journey

One = TypeVar("One")


class Worst(random.Random):
    """Chance, always against us: of what was not fsynced, neither a name nor a sector is left."""

    def choice(self, seq: Sequence[One]) -> One:  # type: ignore[override]  # of what `Disk` gives it
        return seq[0]

    def randrange(self, *_bounds: int) -> int:  # type: ignore[override]  # the same
        return 0

    def random(self) -> float:
        return 0.999


def test_whatever_was_acknowledged_is_there_after_the_worst_power_cut(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "data", build_shim(tmp_path), tmp_path / "scratch")
    config = collector_config(tmp_path, broker, {"kind": "none"}, journal=disk.folder / "journal.db")
    collector = Collector(config, disk.folder / "journal.db")
    with monkeypatch.context() as on_the_disk:
        for name, value in disk.environment.items():
            on_the_disk.setenv(name, value)
        collector.listen()
    try:
        with Probe(broker, "p1", tmp_path) as probe:
            for seq in range(1, 21):
                probe.send(message(result(seq)))
                wait_until(lambda seq=seq: seq in probe.acked())  # type: ignore[misc]  # bound at once
    finally:
        collector.kill()
    assert disk.cut_power(Worst()) >= 0
    assert journalled(disk.folder / "journal.db") == {"p1": list(range(1, 21))}
