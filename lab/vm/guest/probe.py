"""The agent as the systemd unit runs it, keeping one link up and measuring on it; its spool is read as it fills."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from agent.service import SPOOL_FILE
from agent.spool import Spool
from lab.vm.diary import until
from wire.codec import decode_result

if TYPE_CHECKING:
    from pathlib import Path

    from wire.results import Outcome, Result

_SPOOL_MB: Final = 10
_ENDS_WITHIN_S: Final = 30.0
_ALERT_AFTER_FAILURES: Final = 2
_NOBODY: Final = {"host": "127.0.0.1", "port": 9, "tls": None}  # no broker: what is measured waits in the spool


def run_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of probe-agent to its end."""
    command = [sys.executable, "-m", "agent.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


class Probe:
    """`probe-agent run` on one link called `viettel`, on its own data folder. A context manager."""

    def __init__(self, folder: Path, *, interface: str, server: str, server_port: int) -> None:
        self._config = folder / "agent.yaml"
        self._log = folder / "agent.log"
        document: dict[str, Any] = {
            "probe_id": "serial-link",
            "site": {"id": "virtual-machine"},
            "data_dir": str(folder / "data"),
            "broker": _NOBODY,
            "spool": {"max_mb": _SPOOL_MB},
            "links": [
                {
                    "name": "viettel",
                    "modem": "auto",
                    "interface": interface,
                    "bring_up": {"write_apn": True},
                    "recovery": {"after_failures": _ALERT_AFTER_FAILURES},
                }
            ],
            "servers": [{"host": server, "port": server_port}],
            "jobs": [
                {
                    "name": "light",
                    "measurement": "throughput",
                    "every_s": 5,
                    "options": {"duration_s": 2, "omit_s": 0, "streams": 1, "connect_timeout_s": 3},
                }
            ],
        }
        self._config.write_text(yaml.safe_dump(document), encoding="utf-8")
        (folder / "data").mkdir()
        self._spool = Spool(folder / "data" / SPOOL_FILE, max_bytes=_SPOOL_MB * 1_000_000)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "agent.cli", "run", "--config", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._spool.close()

    def stop(self) -> int:
        """Stop the agent as systemd would; return its exit status."""
        assert self._process is not None  # noqa: S101  # __enter__ started it
        self._process.terminate()
        return self._process.wait(_ENDS_WITHIN_S)

    @property
    def log(self) -> str:
        """What the agent has logged."""
        return self._log.read_text(encoding="utf-8")

    @property
    def results(self) -> list[Result]:
        """What waits in the spool, oldest first."""
        return [decode_result(waiting.payload) for waiting in self._spool.oldest(1000)]

    def wait_for(self, outcome: type[Outcome], *, after_seq: int, within_s: float) -> Result:
        """Return the first result of this kind with a sequence number above `after_seq`; raise GaveUp."""
        found: list[Result] = []

        def came() -> bool:
            found.extend(r for r in self.results if r.seq > after_seq and isinstance(r.outcome, outcome))
            return bool(found)

        until(came, f"a result of kind {outcome.__name__}", within_s=within_s)
        return found[0]
