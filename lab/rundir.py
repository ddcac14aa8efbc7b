"""The folder of one lab run, and the certainty that nothing of the run outlives it.

The owner holds a lock (flock) on the folder as long as it lives, so that the leftovers of an owner that was killed can
be told from a living neighbour's: `RunDir()` sweeps them away before it begins. A process belongs to the run if its
working directory is in the folder and its session is the owner's: somebody who looks around in there from another
terminal is none of it, nor is the shell that the lab was started from.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Final, Self

import psutil

log = logging.getLogger(__name__)

PREFIX: Final = "probe-lab-run-"
_SESSION: Final = "session"
_GONE_WITHIN_S: Final = 5.0


class RunDir:
    """A private folder under $TMPDIR; a context manager whose end kills what works in there and removes it."""

    def __init__(self) -> None:
        sweep()
        self._lock = -1
        while self._lock < 0:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock = _locked(self.path)
        (self.path / _SESSION).write_text(str(os.getsid(0)))

    def folder(self, name: str) -> Path:
        """Make a folder in it."""
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def close(self) -> None:
        """Kill every process that works in there, remove the folder, let go of it; can be repeated."""
        if self._lock >= 0:
            _remove(self.path)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep() -> list[Path]:
    """Remove the folders whose owner is dead, and the processes still at work in them; return which."""
    orphans = []
    for path in sorted(Path(tempfile.gettempdir()).glob(PREFIX + "*")):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                log.info("removing %s, left behind by a run that was killed", path)
                _remove(path)
                orphans.append(path)
            finally:
                os.close(lock)
    return orphans


def processes_in(folder: Path) -> list[int]:
    """Name the processes of the run in this folder (proc(5), /proc/PID/cwd; setsid(2))."""
    try:
        session = int((folder / _SESSION).read_text())
    except (OSError, ValueError):
        return []  # its owner died before it started anything
    spared = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            cwd = str(Path(f"/proc/{pid}/cwd").readlink())
            if Path(cwd).is_relative_to(folder) and os.getsid(pid) == session and pid not in spared:
                found.append(pid)
    return found


def _locked(path: Path) -> int:
    """Lock a folder just made; return its descriptor, or -1 if somebody's sweep came before the lock."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    fcntl.flock(lock, fcntl.LOCK_EX)
    if path.exists():
        return lock
    os.close(lock)
    return -1


def _remove(path: Path) -> None:
    deadline_s = time.monotonic() + _GONE_WITHIN_S
    while pids := processes_in(path):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline_s:
            log.warning("%s: processes %s do not die", path, pids)
            break
        time.sleep(0.02)
    shutil.rmtree(path, ignore_errors=True)
