"""What a responder does right now, as a small file for `probe-responder status`. Written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from wire.status import ResponderStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from responder.lender import Lender

log = logging.getLogger(__name__)

WRITE_EVERY_S: Final = 2.0
STALE_AFTER_S: Final = 15.0
_AHEAD_S: Final = 1.0
"""Further ahead of the clock no running responder writes: the clock was set back, and what stands there is old."""


class StandingError(Exception):
    """There is no word of a running responder; the text says what to do."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One lease: who tests, or waits for its turn."""

    probe: str
    link: str
    ports: tuple[int, ...]
    starts_in_s: float
    ends_in_s: float
    mbps: float
    cell: str | None = None
    clients: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    at: datetime
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**22)]  # proc(5): PID_MAX_LIMIT
    status: ResponderStatus
    testing: tuple[Holder, ...] = ()
    waiting: tuple[Holder, ...] = ()


def take(lender: Lender, now_s: float) -> Standing:
    """Describe the lender at this moment of its clock."""
    holders = [
        (
            lease.running,
            Holder(
                probe=lease.probe_id,
                link=lease.link,
                ports=lease.ports,
                starts_in_s=0.0 if lease.running else round(max(lease.starts_s - now_s, 0.0), 1),
                ends_in_s=round(lease.expires_s - now_s, 1),
                mbps=lease.mbps,
                cell=lease.cell,
                clients=lender.clients(lease),
            ),
        )
        for lease in lender.leases
    ]
    now = datetime.now(UTC)
    return Standing(
        at=now,
        pid=os.getpid(),
        status=msgspec.structs.replace(lender.status(), at=now),
        testing=tuple(holder for running, holder in holders if running),
        waiting=tuple(holder for running, holder in holders if not running),
    )


def write(path: Path, standing: Standing) -> None:
    """Replace the file in one step; raise OSError. For everybody to read: it holds no password."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(standing))
    new.chmod(0o644)
    new.replace(path)


def remove(path: Path) -> None:
    """Take the file away, so that nobody takes a responder that has ended for a running one."""
    with contextlib.suppress(OSError):  # whatever stands there is not ours
        path.unlink()


@contextlib.contextmanager
def sole_use(path: Path) -> Iterator[None]:
    """Keep a second responder off this file, and so off the name and the ports; raise StandingError.

    Where no file can be made, nobody is kept off: `write` will say what is wrong.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("%s: %s; a second responder would not be noticed", lock, error.strerror)
        yield
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise StandingError(
            f"{path}: another responder runs with this status_file; one by hand beside the service's? "
            "Stop it, or give this one a responder_id, ports and status_file of its own"
        ) from error
    try:
        yield
    finally:
        os.close(held)


def read(path: Path, *, now: datetime) -> Standing:
    """Read what a running responder wrote last; raise StandingError if there is none."""
    try:
        standing = msgspec.json.decode(path.read_bytes(), type=Standing)
    except FileNotFoundError as error:
        raise StandingError(
            f"{path}: not there; is a responder running? systemctl status probefleet-responder"
        ) from error
    except OSError as error:
        raise StandingError(f"{path}: {error.strerror}; run it as root or as the responder's user") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StandingError(f"{path}: not written by this release's responder: {error}") from error
    age_s = (now - standing.at).total_seconds()
    if age_s < -_AHEAD_S:
        raise StandingError(
            f"{path}: dated {-age_s:.0f} s from now, so the clock was set back; ask again in {WRITE_EVERY_S:.0f} s: "
            "a responder that runs has written it anew by then"
        )
    if age_s > STALE_AFTER_S or not _is_running(standing.pid):
        raise StandingError(f"{path}: written {age_s:.0f} s ago by a responder that does not run any more")
    return standing


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as somebody else
    return True
