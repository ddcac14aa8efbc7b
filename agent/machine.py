"""How the probe's computer does while it measures: processors, and the firmware's word on heat and voltage.

All of it is read from /proc and /sys, and what is not there is None.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from wire.measured import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Raspberry Pi documentation, `vcgencmd get_throttled`: bits 0-3 are now (too little voltage, frequency capped,
# throttled, soft temperature limit), bits 16-19 the same since the boot.
_NOW: Final = 0xF
_SINCE_BOOT: Final = 0xF0000
_SYSFS: Final = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_VCGENCMD: Final = ("vcgencmd", "get_throttled")
_TOOL_WITHIN_S: Final = 2.0
_FLAGS: Final = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})")
_STAT: Final = Path("/proc/stat")


class Core(NamedTuple):
    """Time of one core, or of all, since the boot, in ticks (proc(5), /proc/stat). `total` counts each tick once."""

    total: int
    idle: int
    interrupts: int
    stolen: int

    def __sub__(self, earlier: Core) -> Core:
        """Count what went by since `earlier`."""
        return Core(*(now - then for now, then in zip(self, earlier, strict=True)))


def parse_stat(text: str) -> dict[str, Core]:
    """Read /proc/stat: `cpu` is all cores together. Guest time is inside user time already."""
    cores: dict[str, Core] = {}
    for line in text.splitlines():
        name, *figures = line.split()
        if name.startswith("cpu") and len(figures) >= 8:  # noqa: PLR2004  # steal came with Linux 2.6.11
            user, nice, system, idle, waiting, irq, softirq, stolen = map(int, figures[:8])
            total = user + nice + system + idle + waiting + irq + softirq + stolen
            cores[name] = Core(total, idle + waiting, irq + softirq, stolen)
    return cores


def load(before: dict[str, Core], after: dict[str, Core]) -> Machine:
    """Say what the processors did between two readings; None where too little time went by to tell."""
    spans = {name: now - before[name] for name, now in after.items() if name in before}
    spans = {name: span for name, span in spans.items() if span.total > 0}
    whole = spans.pop("cpu", None)
    if whole is None:
        return Machine()
    interrupts = [100 * core.interrupts / core.total for core in spans.values()]
    return Machine(
        cpu_percent=round(100 * (whole.total - whole.idle) / whole.total, 1),
        irq_percent=round(max(interrupts), 1) if interrupts else None,
        steal_percent=round(100 * whole.stolen / whole.total, 1),
    )


def parse_throttled(text: str) -> int | None:
    """Read `throttled=0x50005` (vcgencmd) or `50005` (sysfs, hexadecimal); None if it is something else."""
    found = _FLAGS.fullmatch(text.strip())
    return int(found[1], 16) if found else None


def was_throttled(seen: Sequence[int]) -> bool | None:
    """Judge the flags that were read before, during and after a test: whether they stood at any look, or in between."""
    if not seen:
        return None
    return any(flags & _NOW for flags in seen) or bool(seen[-1] & ~seen[0] & _SINCE_BOOT)


class Computer:
    """This machine. The arguments are there for tests."""

    def __init__(
        self, *, stat: Path = _STAT, throttled: Path = _SYSFS, tool: Callable[[], str | None] | None = None
    ) -> None:
        """Take where to look; nothing is read."""
        self._stat = stat
        self._throttled = throttled
        self._tool = tool or _vcgencmd
        self._deaf = False

    def cores(self) -> dict[str, Core]:
        """Read the processors' counters; empty where there are none."""
        try:
            return parse_stat(self._stat.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return {}

    def throttled(self) -> int | None:
        """Ask the firmware of a Raspberry Pi; None on other machines, which are not asked again."""
        if self._deaf:
            return None
        try:
            text: str | None = self._throttled.read_text(encoding="ascii")
        except (OSError, ValueError):
            text = self._tool()
        flags = parse_throttled(text) if text is not None else None
        self._deaf = flags is None
        return flags


def _vcgencmd() -> str | None:
    try:
        done = subprocess.run(_VCGENCMD, capture_output=True, timeout=_TOOL_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("ascii", "replace") if done.returncode == 0 else None
