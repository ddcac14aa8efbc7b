"""A data call: what comes on the line after CONNECT goes to a hook's socket, and back."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class DataCall:
    """One call. The hook gets a stream socket and runs, in a thread of its own, until it has seen its end."""

    def __init__(self, hook: Callable[[socket.socket], None] | None, name: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)  # noqa: FBT003  # the library's signature

        def carry() -> None:
            with theirs, contextlib.suppress(ConnectionError):
                (hook or _swallow)(theirs)

        self.thread = threading.Thread(target=carry, name=f"data call of {name}", daemon=True)
        self.thread.start()

    def send(self, data: bytes) -> None:
        """Send to the network; a full pipe loses bytes, as radio does."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.socket.send(data)

    def receive(self) -> bytes | None:
        """Return what the network sent, b"" if nothing, None when it has hung up."""
        try:
            return self.socket.recv(16384) or None
        except BlockingIOError:
            return b""
        except ConnectionError:
            return None

    def close(self) -> None:
        """Hang up. The hook sees the end of its socket."""
        self.socket.close()


def _swallow(data: socket.socket) -> None:
    """Be a network that says nothing."""
    while data.recv(65536):
        pass
