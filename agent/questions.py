"""Questions for servers that wait for their answers: over MQTT, and whoever sends and hears is another's affair."""

from __future__ import annotations

import queue
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wire.codec import decode_lease_reply, encode
from wire.leases import LeaseReply, LeaseRequest

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from agent.lease import Wish


class Questions:
    """Asked on the thread that measures, answered on the one that hears."""

    def __init__(self, probe_id: str, connected: threading.Event, send: Callable[[bytes], object]) -> None:
        """Take who asks, whether there is a broker now, and what sends it an encoded `LeaseRequest`."""
        self._probe_id = probe_id
        self._connected = connected
        self._send = send
        self._answers: dict[str, queue.SimpleQueue[LeaseReply]] = {}

    @contextmanager
    def ask(self, wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        """Ask for servers; inside, each call gives the next answer, or None if none comes within so many seconds.

        While the broker is away nothing is asked: the first call waits for it, within its time.
        """
        request = LeaseRequest(request_id=secrets.token_hex(8), probe_id=self._probe_id, **wish._asdict())
        answers: queue.SimpleQueue[LeaseReply] = queue.SimpleQueue()
        asked = False

        def next_answer(timeout_s: float) -> LeaseReply | None:
            nonlocal asked
            deadline_s = time.monotonic() + timeout_s
            if not asked:
                if not self._connected.wait(timeout_s):
                    return None
                self._send(encode(request))
                asked = True
            try:
                return answers.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                return None

        self._answers[request.request_id] = answers
        try:
            yield next_answer
        finally:
            del self._answers[request.request_id]

    def hear(self, payload: bytes) -> None:
        """Take an answer to whoever waits for it; raise wire.codec.Undecodable."""
        reply = decode_lease_reply(payload)
        if (answers := self._answers.get(reply.request_id)) is not None:
            answers.put(reply)
