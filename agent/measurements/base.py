"""What every measurement shares: how it fails, and how it runs a foreign program that must not outlive its deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.path import LinkPath
    from wire.measured import Hop


class MeasurementFailed(Exception):
    """A run without figures. It becomes a result: `reason` for counting, `detail` for the person who looks at it.

    `begun` says whether test data had begun to flow: a run that was turned away at the door may be tried elsewhere, one
    that has spent the SIM's bytes may not. `trace`: the way to the server, where somebody looked for it afterwards.
    `pace_bytes_per_s`: that of a transfer's payload, where the data plan ended one and it is known.
    """

    def __init__(self, reason: Reason, detail: str = "", *, begun: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.begun = begun
        self.trace: tuple[Hop, ...] = ()
        self.pace_bytes_per_s: float | None = None


def require_up(path: LinkPath) -> None:
    """Raise MeasurementFailed (LINK_DOWN) if nothing can be sent over the link."""
    if not path.up:
        what = "is down" if path.exists else "does not exist"
        raise MeasurementFailed(Reason.LINK_DOWN, f"interface {path.interface} {what}")


def require_usable(path: LinkPath) -> str:
    """Return the link's own IPv4 address; raise MeasurementFailed (LINK_DOWN, NO_ADDRESS) if it cannot be used."""
    require_up(path)
    if path.source_address is None:
        raise MeasurementFailed(Reason.NO_ADDRESS, f"interface {path.interface} has no IPv4 address")
    return path.source_address


class Finished(NamedTuple):
    """How a program ended. `overran`: its deadline came first and it was killed; the output is what there was."""

    status: int
    stdout: bytes
    stderr: bytes
    elapsed_s: float
    overran: bool

    @property
    def complaint(self) -> str:
        """The last line it wrote to standard error."""
        lines = self.stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


@contextlib.contextmanager
def started(command: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the body, in a process group of its own, with its output in pipes.

    However the body ends (an exception raised by a signal handler, say), nothing of the group stays behind. Raise
    MeasurementFailed where the program is not installed (TOOL_MISSING) or cannot be started (TOOL_FAILED).
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            process_group=0,
        )
    except FileNotFoundError as error:
        raise MeasurementFailed(Reason.TOOL_MISSING, f"{command[0]} is not installed") from error
    except OSError as error:
        raise MeasurementFailed(Reason.TOOL_FAILED, f"{command[0]}: {error.strerror or error}") from error
    with process:
        try:
            yield process
        finally:
            _kill_group(process)


def run_killable(command: Sequence[str], *, deadline_s: float, stdin: bytes = b"") -> Finished:
    """Run a program to its end, dead at the latest after `deadline_s`; raise MeasurementFailed as `started` does."""
    begun_s = time.monotonic()
    overran = False
    with started(command, stdin=subprocess.PIPE) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            overran = True
            _kill_group(process)
            stdout, stderr = process.communicate()
    return Finished(process.returncode, stdout, stderr, time.monotonic() - begun_s, overran)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and whatever it started; its number is still ours, or its group's, until it is waited for."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
