"""Network namespaces: a link whose modem lives in one of its own (`links[].namespace`) is measured from inside it.

The calling thread moves in; sockets it opens and programs it starts meanwhile belong there, and /proc/net shows it as
long as the thread is the process's first one, on which the agent measures. The other threads, the way to the broker
among them, stay where they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.measurements.base import MeasurementFailed
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED: Final = Path("/run/netns")  # ip-netns(8)
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h


@contextlib.contextmanager
def inside(name: str | None) -> Iterator[None]:
    """Be in the named namespace until the block ends; None is where the process is. Raise MeasurementFailed.

    Needs CAP_SYS_ADMIN, and a unit without RestrictNamespaces.
    """
    if name is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there = os.open(_NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MeasurementFailed(
                Reason.LINK_DOWN, f"no network namespace {name}: {error.strerror}; `ip netns add {name}` makes one"
            ) from error
        try:
            _enter(there, name)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home, "of the agent")
    finally:
        os.close(home)


def _enter(namespace: int, name: str) -> None:
    """setns(2); os.setns came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
        raise MeasurementFailed(
            Reason.LINK_DOWN, f"the network namespace {name} cannot be entered: {why}; this needs root"
        )
