"""What `probe-responder status` believes: a file of a responder that runs, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from responder_helpers import wait_until

from responder import cli, standing
from responder.standing import STALE_AFTER_S, Standing, StandingError
from wire.status import ResponderStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from responder_helpers import Probe, Responder

NOW = datetime(2026, 6, 15, 8, 0, tzinfo=UTC)


def written(path: Path, *, age_s: float = 2.0, pid: int | None = None) -> Path:
    at = NOW - timedelta(seconds=age_s)
    standing.write(path, Standing(at=at, pid=pid or os.getpid(), status=ResponderStatus(responder="r")))
    return path


def test_what_a_running_responder_wrote_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "status.json")
    assert standing.read(path, now=NOW).status.responder == "r"
    assert standing.read(written(path, pid=1), now=NOW).pid == 1, "somebody else's process runs too"


def test_what_is_dated_in_the_future_is_not_believed_for_ever(tmp_path: Path) -> None:
    with pytest.raises(StandingError, match=r"dated 86400 s from now, so the clock was set back; ask again in 2 s"):
        standing.read(written(tmp_path / "status.json", age_s=-86400), now=NOW)


def test_what_is_old_or_of_a_process_that_has_ended_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(StandingError, match="does not run any more"):
        standing.read(written(path, age_s=STALE_AFTER_S + 1), now=NOW)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with pytest.raises(StandingError, match="written 2 s ago by a responder that does not run any more"):
        standing.read(written(path, pid=ended.pid), now=NOW)


def test_a_responder_killed_with_9_is_not_taken_for_a_running_one(
    responder: Callable[..., Responder],
    probe: Callable[..., Probe],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serving, config = responder(), str(tmp_path / "responder.yaml")
    serving.wait_until_heard(probe())
    wait_until(lambda: cli.run(["status", "--config", config]) == 0)
    serving.end(signal.SIGKILL)
    capsys.readouterr()
    assert cli.run(["status", "--config", config]) == 1
    assert "a responder that does not run any more" in capsys.readouterr().err
