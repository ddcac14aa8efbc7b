"""Boots the image with a job and brings back what the job left; nothing of the machine outlives the call.

Emulated processor always (`-accel tcg`): on some hosts /dev/kvm exists but Debian's kernel hangs silently on it.
"""

from __future__ import annotations

import subprocess
import tarfile
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from lab.rundir import RunDir
from lab.vm import image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_RESULTS_MB: Final = 64
_MEMORY_MB: Final = 768
_APPEND: Final = "root=/dev/vda rw console=ttyS0 quiet mitigations=off nokaslr panic=-1"
_TAIL_LINES: Final = 30


class GuestFailed(Exception):
    """The virtual machine did not come to an end, or brought nothing back; the text has the end of what it said."""


class Outcome(NamedTuple):
    """What a job left: its exit status, its files in `folder`, and all that it printed."""

    status: int
    folder: Path
    transcript: str
    took_s: float


def run(job: bytes, folder: Path, *, within_s: float, say: Callable[[str], None] = image.say) -> Outcome:
    """Boot, run the job (a tar with an executable `run`), unpack its results into `folder`, power off.

    Takes some 15 s beside the job itself. Raise GuestFailed, or what `image.ready` raises.
    """
    found = image.ready(say)
    say(f"Booting Debian in a virtual machine (at most {within_s:.0f} s) ...")
    begun_s = time.monotonic()
    with RunDir() as run_dir:
        here = run_dir.path
        (here / "job").write_bytes(job)
        with (here / "results").open("wb") as results:
            results.truncate(_RESULTS_MB * 1_000_000 // 512 * 512)
        try:
            complaint = subprocess.run(
                _command(found), cwd=here, capture_output=True, text=True, check=False, timeout=within_s
            ).stderr
        except subprocess.TimeoutExpired:
            complaint = f"did not end within {within_s:.0f} s"
        took_s = time.monotonic() - begun_s
        transcript = _text(here / "transcript")
        try:
            with tarfile.open(here / "results") as tar:
                # Debian 12's Python 3.11.2 has no filters yet; the way that the tarfile documentation names for both.
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
                tar.extractall(folder)  # noqa: S202  # what comes out of our own guest
            status = int((folder / "exit-status").read_text(encoding="ascii"))
        except (OSError, tarfile.TarError, ValueError) as error:
            last = "\n".join((_text(here / "console") + transcript).splitlines()[-_TAIL_LINES:])
            what = complaint.strip() or f"ended without results ({error})"
            raise GuestFailed(f"the virtual machine {what}; it said at last:\n{last or '(nothing)'}") from error
    say(f"... the virtual machine is off after {took_s:.0f} s")
    return Outcome(status, folder, transcript, took_s)


def _command(found: image.Image) -> list[str]:
    """Disks in order: the image, never changed; the job; the results. Serial ports: console, transcript."""
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", str(_MEMORY_MB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(found.kernel), "-initrd", str(found.initrd), "-append", _APPEND),
        *("-drive", f"file={found.disk},format=raw,if=virtio,snapshot=on"),
        *("-drive", "file=job,format=raw,if=virtio,readonly=on"),
        *("-drive", "file=results,format=raw,if=virtio,cache=unsafe"),
        *("-serial", "file:console", "-serial", "file:transcript"),
    ]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
