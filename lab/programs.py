"""Our own programs as child processes: each in a process group of its own, its words in a file.

They run as a user would start them (`python -m agent.cli run --config FILE`); what starts them is all they share with
the lab.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STOP_TIMEOUT_S: Final = 30.0


class ProgramError(Exception):
    """A program of ours ended when it should not have; the text ends with the last lines of its log."""


class Program:
    """One of our commands. `prefix` runs it elsewhere, such as `("ip", "netns", "exec", "core")`; it must exec."""

    def __init__(self, name: str, module: str, config: Path, *, prefix: Sequence[str] = ()) -> None:
        """Plan `python -m <module> run --config <config>`; all it writes is in the config's folder."""
        self.name = name
        self.config = config
        self.log_file = config.parent / "log"
        self.prefix = tuple(prefix)
        self._command = [*prefix, sys.executable, "-P", "-m", module, "run", "--config", str(config)]
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    @property
    def pid(self) -> int | None:
        """The running process, or None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it; returns at once. Does nothing if it runs. Raise ProgramError if it cannot be started."""
        if self.pid is None:
            try:
                with self.log_file.open("ab") as log:
                    self._process = subprocess.Popen(
                        self._command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=self.config.parent,
                        env={
                            **os.environ,
                            "TMPDIR": str(self.config.parent),
                        },  # what it leaves when killed goes with us
                        process_group=0,
                    )
            except OSError as error:
                raise ProgramError(f"{self.name} cannot be started: {error}") from error
        self._wanted = True

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once: a second one might meet a program that has just put its signal handlers away."""
        wanted, self._wanted = self._wanted, False
        if wanted and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int | None:
        """Send SIGTERM and wait for the end, at most STOP_TIMEOUT_S; return the exit status, None if it did not run."""
        self.ask_to_stop()
        return self._wait()

    def kill(self) -> None:
        """SIGKILL, as a power cut would, to it and its children; returns when it is gone."""
        self._wanted = False
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart(self) -> None:
        """Stop, then start again."""
        self.stop()
        self.start()

    def check(self) -> None:
        """Raise ProgramError if it was started, not stopped, and is gone."""
        if self._wanted and self.pid is None and self._process is not None:
            raise ProgramError(f"{self.name} ended with status {self._process.returncode}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 8) -> str:
        """Return the end of what it has written."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _wait(self) -> int | None:
        process = self._process
        if process is None:
            return None
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return process.returncode
