"""A thread with an event loop: descriptors to watch, deeds for later, deeds asked for by other threads."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import select
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
EDGES: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class Loop:
    """One run of one thread, from construction to `stop()`; it then holds no descriptor.

    `turn` is called after every wait with the events by descriptor; `wait_s` says how long to wait at most.
    """

    def __init__(self, name: str, turn: Callable[[dict[int, int]], None], wait_s: Callable[[], float | None]) -> None:
        self._turn = turn
        self._wait_s = wait_s
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, deed: Callable[[], T]) -> T:
        """Have `deed` done by the thread; return its result or raise its exception."""
        if threading.current_thread() is self._thread:
            return deed()
        done: Future[T] = Future()

        def act() -> None:
            try:
                done.set_result(deed())
            except BaseException as error:  # noqa: BLE001  # handed to the caller, whatever it is
                done.set_exception(error)

        self._asked.put(act)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"!")
        return done.result()

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self.call(self._end)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def later(self, delay_s: float, deed: Callable[[], None]) -> None:
        """Do `deed` in `delay_s` seconds (own thread only)."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), deed))

    def watch(self, descriptor: int) -> None:
        """Wake on every change of `descriptor` (own thread only): edges, so whoever is woken must read it dry."""
        self._epoll.register(descriptor, EDGES)

    def unwatch(self, descriptor: int) -> None:
        """Watch it no more (own thread only)."""
        self._epoll.unregister(descriptor)

    def forget_events(self) -> None:
        """Drop the events that own deeds have just caused (own thread only)."""
        self._epoll.poll(0)
        self._asked.put(lambda: None)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _end(self) -> None:
        self._ended = True

    def _run(self) -> None:
        while not self._ended:
            waits = [self._wait_s()]
            if self._timers:
                waits.append(self._timers[0][0] - time.monotonic())
            wait_s = min((wait for wait in waits if wait is not None), default=None)
            events = dict(self._epoll.poll(None if wait_s is None else max(0.0, wait_s)))
            if events.pop(self._wake_read, 0):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            self._do_asked()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            if not self._ended:
                self._turn(events)
        self._do_asked()

    def _do_asked(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait()()
