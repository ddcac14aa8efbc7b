"""Ctrl-C at any moment, once: the first signal interrupts, later ones cannot disturb the cleaning up."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into KeyboardInterrupt and ignore those after it. Main thread only."""
    with _handled(_interrupt_once):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let these signals wait for nothing and change nothing, for a while; without effect in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_ignore):
        yield


@contextlib.contextmanager
def _handled(by: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, by) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    for number in _ENDING:
        signal.signal(number, _ignore)
    raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN this is not inherited by the tools that clean up."""
