"""One log format for every command: for journald without a time stamp, for a terminal with one."""

from __future__ import annotations

import logging
import os
import sys


def set_up(*, verbose: bool = False) -> None:
    """Send log lines to standard error; under systemd with its priority prefix (sd-daemon(3))."""
    handler = logging.StreamHandler(sys.stderr)
    under_systemd = "JOURNAL_STREAM" in os.environ
    handler.setFormatter(_Journal() if under_systemd else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)


class _Journal(logging.Formatter):
    """`<n>message`, with n as in syslog(3)."""

    _PRIORITY = (
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.NOTSET, 7),
    )

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in self._PRIORITY if record.levelno >= level)
        return f"<{priority}>" + super().format(record).replace("\n", " | ")
