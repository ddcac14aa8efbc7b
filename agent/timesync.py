"""Who says that the wall clock is right: chrony, systemd-timesyncd, the kernel. And what this boot knew of the time.

The daemons come first because they also tell how long ago they last heard the time. The kernel's own word is lost after
a day without (its estimated error passes 16 s), and chrony gives it to the kernel only where `rtcsync` is set.
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from wire.results import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOOD_FOR_S: Final = 86_400.0
"""A clock that was right so long ago is still right for our purpose: 100 ppm, a bad crystal, are 9 s a day."""
_CHRONY_WITHIN_S: Final = 2.0
_CHRONY_FIELDS: Final = 14
_LOCAL_REFERENCES: Final = {"00000000", "7F7F0101"}  # none, and chrony's own clock (`local`)
_TIME_ERROR: Final = 5  # adjtimex(2): "the system clock is not synchronized to a reliable server"


class Kernel(NamedTuple):
    """What adjtimex(2) says."""

    synchronised: bool
    estimated_error_ms: float


class Tracking(NamedTuple):
    """What `chronyc -c tracking` says. `reference_s`: Unix time at which chrony last updated its estimate."""

    synchronised: bool
    reference_s: float
    error_ms: float


class Boot(NamedTuple):
    """This boot of the machine, and how long it has lasted (CLOCK_BOOTTIME, which nobody sets)."""

    boot_id: str
    boottime_s: float


def ask_kernel() -> Kernel | None:
    """Read adjtimex(2); None where it cannot be asked."""
    timex = _Timex()
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (AttributeError, OSError):
        return None
    return Kernel(state != _TIME_ERROR, timex.esterror / 1000) if state >= 0 else None


def ask_chrony(command: Sequence[str] = ("chronyc",)) -> Tracking | None:
    """Ask chrony; None where it is not installed or does not run."""
    try:
        done = subprocess.run(
            [*command, "-c", "tracking"], capture_output=True, timeout=_CHRONY_WITHIN_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return parse_tracking(done.stdout) if done.returncode == 0 else None


def parse_tracking(text: str) -> Tracking | None:
    """Read `chronyc -c tracking`; None if it is something else.

    The error bound is |offset| + dispersion + delay / 2, as chronyc(1) gives it. chrony that follows its own clock
    only (`local`) is not synchronised.
    """
    fields = text.strip().split(",")
    if len(fields) != _CHRONY_FIELDS:
        return None
    try:
        reference_s, offset_s, delay_s, dispersion_s = (float(fields[index]) for index in (3, 4, 10, 11))
    except ValueError:
        return None
    synchronised = fields[0] not in _LOCAL_REFERENCES and fields[13] != "Not synchronised"
    return Tracking(synchronised, reference_s, round((abs(offset_s) + dispersion_s + delay_s / 2) * 1000, 3))


class Sources:
    """Where the state of the clock is read; the defaults are this machine's."""

    def __init__(
        self,
        *,
        kernel: Callable[[], Kernel | None] = ask_kernel,
        chrony: Callable[[], Tracking | None] = ask_chrony,
        timesync_dir: Path = Path("/run/systemd/timesync"),
    ) -> None:
        """Take where to ask; nothing is asked."""
        self._kernel = kernel
        self._chrony = chrony
        self._timesync_dir = timesync_dir

    def quality(self, now_s: float) -> Clock:
        """Say how far the wall clock can be trusted at `now_s` (Unix time, by that clock)."""
        kernel = self._kernel()
        heard_s: float | None = None
        error_ms = kernel.estimated_error_ms if kernel is not None and kernel.synchronised else None
        source = "kernel" if kernel is not None else None
        if (tracking := self._chrony()) is not None:
            source = "chrony"
            if tracking.synchronised:
                heard_s, error_ms = tracking.reference_s, tracking.error_ms
        elif self._timesync_dir.is_dir():
            source, heard_s = "timesyncd", self._stamp_s()
        age_s = max(0.0, now_s - heard_s) if heard_s is not None else None
        fresh = age_s is not None and age_s <= GOOD_FOR_S
        return Clock(
            synchronised=fresh or (kernel is not None and kernel.synchronised) if source is not None else None,
            estimated_error_ms=error_ms,
            source=source,
            age_s=round(age_s) if age_s is not None else None,
        )

    def _stamp_s(self) -> float | None:
        """When timesyncd last heard the time: it touches a file on each success (systemd-timesyncd.service(8))."""
        try:
            return (self._timesync_dir / "synchronized").stat().st_mtime
        except OSError:
            return None


def boot_now(boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")) -> Boot:
    """Name this boot and tell how long it has lasted."""
    try:
        boot_id = boot_id_file.read_text(encoding="ascii").strip()
    except OSError:
        boot_id = ""
    return Boot(boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


def boots_without_time(not_before_s: float, root: Path = Path("/")) -> bool:
    """Whether this is a board that boots without knowing the time: it has a device tree, and no RTC that kept running.

    A machine without a device tree is a PC, which has had a clock on battery since 1984, or a guest of one. A Pi 5 has
    an RTC and mostly no battery for it: then it begins at 1970, which is before `not_before_s`.
    """
    if not (root / "proc/device-tree/model").exists():
        return False
    try:
        return float((root / "sys/class/rtc/rtc0/since_epoch").read_text(encoding="ascii")) < not_before_s
    except (OSError, ValueError):
        return True


def installed_s(file: str = __file__) -> float:
    """When this program was put on the disk (Unix time): no clock may be earlier than that."""
    try:
        return Path(file).stat().st_mtime
    except OSError:
        return 0.0


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h, its head named; modes = 0 only reads."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )
