"""Work done in a child process: what it loads and leaves behind ends with it, and never weighs on the parent."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERRUPTED = 130  # as a shell says it of Ctrl-C


def answer_of(work: Callable[[], bytes]) -> bytes:
    """Return what `work` returns in a forked child. Raise SystemExit where it ends the child instead, as it did.

    For a process without threads: a fork copies only the calling one, and the others' locks as they stand.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what is still held would be printed twice
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_answer(work, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not answer:
        raise SystemExit(status if status >= 0 else 128 - status)
    return answer


def _answer(work: Callable[[], bytes], writer: int) -> int:
    """Be the child; return its exit status."""
    try:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(work())
        status: object = 0
    except SystemExit as end:
        status = end.code or 0
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        status = 1
    except Exception:  # noqa: BLE001  # nothing above here would print it
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status if isinstance(status, int) else 1
