"""What a process costs, and what has arrived in InfluxDB."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import psutil

from lab.collecting import content
from lab.collecting.contenders import DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lab.servers import Influxd

_POLL_SHARE: Final = 0.1
"""Counting may take so much of the time, of one core."""
_POLL_AT_LEAST_S: Final = 0.02


class StalledError(Exception):
    """Nothing has arrived for too long; the text says how far it came. `count` had arrived at `at_s` (monotonic)."""

    def __init__(self, text: str, *, count: int = 0, at_s: float = 0.0) -> None:
        super().__init__(text)
        self.count = count
        self.at_s = at_s


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, all its threads."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def peak_rss_mb(pid: int) -> float:
    """Most memory that a process ever had resident, in MB of 10^6 bytes: the kernel's own mark (proc(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


class Spent(NamedTuple):
    """CPU seconds by process."""

    before: Mapping[str, float]
    pids: Mapping[str, int]

    @classmethod
    def begin(cls, pids: Mapping[str, int]) -> Self:
        """Count from now on."""
        return cls({name: cpu_s(pid) for name, pid in pids.items()}, pids)

    def since(self) -> dict[str, float]:
        """Return what each has used since."""
        return {name: cpu_s(pid) - self.before[name] for name, pid in self.pids.items()}


def stored(influxd: Influxd, condition: str = "") -> int:
    """Count the results in InfluxDB, by query; what is no result has no number."""
    rows = influxd.query(f"SELECT COUNT(seq) FROM /.*/ {condition}", DATABASE)  # noqa: S608  # ours
    return sum(row["count"] for row in rows)


def wait_until_stored(
    influxd: Influxd, total: int, *, stalled_s: float, seen: Callable[[int], None] = lambda _: None
) -> float:
    """Wait for so many results; return when the last was there (monotonic); raise StalledError."""
    count, moved_s = -1, time.monotonic()
    while True:
        begun_s = time.monotonic()
        found = stored(influxd)
        now_s = time.monotonic()
        if found != count:
            count, moved_s = found, now_s
            seen(found)
        if found >= total:
            return now_s
        if now_s - moved_s > stalled_s:
            raise StalledError(
                f"{found} of {total} results are in InfluxDB, and no more have come for {stalled_s:.0f} s",
                count=found,
                at_s=moved_s,
            )
        time.sleep(max((now_s - begun_s) / _POLL_SHARE, _POLL_AT_LEAST_S))


class Load:
    """The load process (lab.collecting.load): connected inside the context, publishing on `go`."""

    def __init__(
        self,
        port: int,
        *,
        probes: int,
        results: int,
        per_message: int = 1,
        first_probe: int = 0,
        window: int | None = None,
        config: Path = content.EXAMPLE,
    ) -> None:
        """Start it; it writes its packets and connects while we go on."""
        arguments = {
            "port": port,
            "first-probe": first_probe,
            "probes": probes,
            "results": results,
            "per-message": per_message,
            "config": config,
            "window": window,
        }
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "lab.collecting.load"),
                *(part for name, value in arguments.items() if value is not None for part in (f"--{name}", str(value))),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        try:
            ready = self._answer() == "ready"
        except KeyboardInterrupt:
            self.__exit__()
            raise
        if not ready:
            self.__exit__()
            raise StalledError("the load could not connect to the broker")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def go(self) -> dict[str, Any]:
        """Publish everything; return when the broker has all: begun_s, sent_s, cpu_s, messages, bytes."""
        self._say()
        said: dict[str, Any] = json.loads(self._answer() or "{}")
        return said

    def stop(self) -> dict[str, Any]:
        """Return what was acknowledged by a collector: acked, acked_at_s."""
        self._say()
        said: dict[str, Any] = json.loads(self._answer() or "{}")
        return said

    def _say(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def _answer(self) -> str:
        return self._process.stdout.readline().strip() if self._process.stdout is not None else ""
