"""The wire: a pseudo-terminal whose other end any tool opens, under a name that stays; and bytes leaving in slices.

Closing the line hangs up on whoever has it open, as pulling a USB plug does: reads end, the name disappears.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import select
import termios
import tty
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

log = logging.getLogger(__name__)

_READ_BYTES: Final = 4096
_LONGEST_BACKLOG_BYTES: Final = 256 * 1024


class Line:
    """One pseudo-terminal pair, of which we hold the master only."""

    def __init__(self, link: Path, *, unlike: str | None = None) -> None:
        """Make a new pair, not named `unlike`, and point `link` at it; OSError if the link cannot be made."""
        self._link = link
        self.master, self.tty = _new_pair(unlike)
        self._poll = select.poll()
        self._poll.register(self.master, 0)
        try:
            self._point(link)
        except OSError:
            os.close(self.master)
            raise

    def _point(self, link: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() and not link.is_symlink():
            raise FileExistsError(errno.EEXIST, "is a file of somebody's: name another link", str(link))
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.tty)
        fresh.replace(link)

    @property
    def open_elsewhere(self) -> bool:
        """Somebody has the port open."""
        return not self._poll.poll(0)

    def read(self) -> bytes | None:
        """Return what has come; None when nobody has the port open any more."""
        data = b""
        while len(data) < _READ_BYTES:
            try:
                some = os.read(self.master, _READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return data or None
            if not some:
                break
            data += some
        return data

    def write(self, data: bytes) -> int:
        """Write what fits; return how much it was."""
        try:
            return os.write(self.master, data)
        except BlockingIOError:
            return 0

    def free(self) -> bool:
        """Take off the exclusive mark that the last opener set: on a real port its last close does that, here it stays.

        Returns False when only a new port can help (an unprivileged user may not open an exclusive one).
        """
        try:
            slave = os.open(self.tty, os.O_RDWR | os.O_NOCTTY)
        except OSError:
            return False
        try:
            fcntl.ioctl(slave, termios.TIOCNXCL)
            termios.tcflush(slave, termios.TCIFLUSH)
            tty.setraw(slave)
        finally:
            os.close(slave)
        return True

    def close(self) -> None:
        """Hang up, and take the name away unless it is another's by now."""
        with contextlib.suppress(OSError):
            if self._link.readlink() == Path(self.tty):
                self._link.unlink()
        os.close(self.master)


def _new_pair(unlike: str | None) -> tuple[int, str]:
    """Return the master of a raw pair and the other end's name; a number just given back would come round again."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    tty.setraw(slave)
    with contextlib.suppress(KeyError, OSError):  # as udev does for a serial port, where we may
        os.fchown(slave, -1, grp.getgrnam("dialout").gr_gid)
        os.fchmod(slave, 0o660)
    os.close(slave)
    if name == unlike:
        try:
            return _new_pair(None)
        finally:
            os.close(master)
    os.set_blocking(master, False)
    return master, name


class Outbox:
    """Bytes and deeds waiting for their time, in order; a slice of a message never overtakes another's."""

    def __init__(self, chance: random.Random, gap_s: float) -> None:
        self._chance = chance
        self._gap_s = gap_s
        self._queue: deque[tuple[float, bytes | Callable[[], None]]] = deque()
        self._bytes = 0

    def put(self, data: bytes, due_s: float) -> None:
        """Queue `data`, cut into slices of 1 to 32 bytes with small gaps between them."""
        if self._bytes > _LONGEST_BACKLOG_BYTES:
            log.debug("nobody reads: %d bytes dropped", len(data))
            return
        due_s = self._no_earlier(due_s)
        while data:
            length = self._chance.randint(1, 32)
            self._queue.append((due_s, data[:length]))
            self._bytes += len(data[:length])
            data = data[length:]
            due_s += self._chance.uniform(0, 2 * self._gap_s)

    def put_whole(self, data: bytes, due_s: float) -> None:
        """Queue `data` in one piece."""
        self._queue.append((self._no_earlier(due_s), data))
        self._bytes += len(data)

    def then(self, deed: Callable[[], None]) -> None:
        """Queue a deed behind what is queued already."""
        self._queue.append((self._no_earlier(0.0), deed))

    def _no_earlier(self, due_s: float) -> float:
        return max(due_s, self._queue[-1][0]) if self._queue else due_s

    @property
    def due_s(self) -> float | None:
        """When the next one is due."""
        return self._queue[0][0] if self._queue else None

    def take(self, now_s: float) -> bytes | Callable[[], None] | None:
        """Take the next one if it is due."""
        if not self._queue or self._queue[0][0] > now_s:
            return None
        _, item = self._queue.popleft()
        if isinstance(item, bytes):
            self._bytes -= len(item)
        return item

    def put_back(self, data: bytes) -> None:
        """Return to the front what could not be written."""
        self._queue.appendleft((0.0, data))
        self._bytes += len(data)

    def clear(self) -> None:
        """Forget everything: the port is gone."""
        self._queue.clear()
        self._bytes = 0
