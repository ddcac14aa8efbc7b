"""The parent's side of `agent.measurements.http_child`: a job out, an answer back, within a deadline."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from agent.measurements.base import MeasurementFailed, run_killable
from wire.reasons import Reason

if TYPE_CHECKING:
    from pathlib import Path

    from agent.path import LinkPath

Url = Annotated[str, msgspec.Meta(pattern=r'^https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!"$-~]*)?\Z', max_length=500)]
"""An address of the web as it is asked for: no user, no fragment, other than ASCII letters percent-encoded."""

_CHILD: Final = (sys.executable, "-P", "-m", "agent.measurements.http_child")
_PORTS: Final = {"http": 80, "https": 443}
_KILL_AFTER_S: Final = 2.0
PINGS_LONGEST_S: Final = 60.0
"""No ping begins later than this after the first."""


class Target(NamedTuple):
    """A URL, taken apart."""

    tls: bool
    host: str
    port: int
    authority: str
    target: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the child says: of a page the times in ms, of a ping its round trips in ms, null for those that failed."""

    connect_ms: float | None = None
    tls_ms: float | None = None
    ttfb_ms: float | None = None
    total_ms: float | None = None
    status: int | None = None
    body_bytes: int = 0
    capped: bool = False
    rtts_ms: tuple[float | None, ...] = ()
    failure: Reason | None = None
    detail: str = ""


def parts_of(url: str) -> Target:
    """Take a URL apart; raise ValueError where its port is none."""
    split = urlsplit(url)
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return Target(
        split.scheme == "https", split.hostname or "", split.port or _PORTS[split.scheme], split.netloc, target
    )


def fetch(
    path: LinkPath, url: str, address: str, *, timeout_s: float, max_bytes: int, ca_file: Path | None = None
) -> Answer:
    """Fetch a page from `address`, over the link; raise MeasurementFailed (TOOL_FAILED) if the child breaks."""
    job = _job(path, url, address, ca_file) | {"do": "page", "timeout_s": timeout_s, "max_bytes": max_bytes}
    return _run(job, deadline_s=timeout_s)


def ping(
    path: LinkPath,
    url: str,
    address: str,
    *,
    count: int,
    interval_s: float,
    timeout_s: float,
    ca_file: Path | None = None,
) -> Answer:
    """Make `count` round trips on one kept connection; raise MeasurementFailed (TOOL_FAILED) if the child breaks."""
    job = _job(path, url, address, ca_file) | {"do": "ping", "count": count, "interval_s": interval_s}
    job |= {"timeout_s": timeout_s, "longest_s": PINGS_LONGEST_S}
    return _run(job, deadline_s=PINGS_LONGEST_S + interval_s + timeout_s)


def _job(path: LinkPath, url: str, address: str, ca_file: Path | None) -> dict[str, Any]:
    return {
        **parts_of(url)._asdict(),
        "address": address,
        "device": path.interface,
        "source": path.source_address,
        "ca_file": str(ca_file) if ca_file is not None else None,
    }


def _run(job: dict[str, Any], *, deadline_s: float) -> Answer:
    done = run_killable(_CHILD, deadline_s=deadline_s + _KILL_AFTER_S, stdin=json.dumps(job).encode())
    if done.overran:
        return Answer(failure=Reason.TIMEOUT, detail="no end in time")
    try:
        return msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError as error:
        detail = f"the child ended without an answer: {done.complaint or done.status}"
        raise MeasurementFailed(Reason.TOOL_FAILED, detail) from error
