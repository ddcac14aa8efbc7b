"""Mahimahi traces of a link's capacity: a line is the millisecond at which one 1500-byte packet may cross.

`Trace` says how many opportunities a span of time held, `Gate` lets a queue of packets through by them. No clock:
time is an argument, in milliseconds since the replay began. Format: Mahimahi's `mm-link`, man page and `traces/`; a
trace repeats after its last line.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

OPPORTUNITY_BYTES: Final = 1500
_MOST_TEXT_BYTES: Final = 64 * 1024 * 1024
_MOST_OPPORTUNITIES: Final = 5_000_000

Item = TypeVar("Item")


class TraceError(ValueError):
    """A trace cannot be read; the text names the file, the line and what is wrong."""


@dataclass(frozen=True)
class Trace:
    """When packets may cross: ascending times in ms, all within (0, period_ms]; repeats after period_ms."""

    times_ms: tuple[float, ...]
    period_ms: float

    def opportunities(self, until_ms: float) -> int:
        """How many there have been in [0, until_ms]."""
        if until_ms < 0:
            return 0
        rounds, rest_ms = divmod(until_ms, self.period_ms)
        return int(rounds) * len(self.times_ms) + bisect_right(self.times_ms, rest_ms)

    def next_ms(self, after_ms: float) -> float:
        """When the first one later than `after_ms` comes."""
        rounds, rest_ms = divmod(max(after_ms, 0.0), self.period_ms)
        index = bisect_right(self.times_ms, rest_ms)
        if index < len(self.times_ms):
            return rounds * self.period_ms + self.times_ms[index]
        return (rounds + 1) * self.period_ms + self.times_ms[0]

    @property
    def mean_mbps(self) -> float:
        """Mean capacity of one period, in packets of 1500 bytes."""
        return len(self.times_ms) * OPPORTUNITY_BYTES * 8 / self.period_ms / 1e3


def read(path: Path, scale: float = 1.0) -> Trace:
    """Read a trace, plain or gzip, `scale` times as fast (every time stamp divided by it); raise TraceError."""
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = _unzip(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    return parse(raw, scale, name=str(path))


def parse(text: bytes, scale: float = 1.0, *, name: str = "trace") -> Trace:
    """Turn the lines of a trace into a Trace; raise TraceError."""
    if not 0.01 <= scale <= 1000:  # noqa: PLR2004 # a typing mistake, not a link
        raise TraceError(f"{name}: a trace can be scaled by 0.01 to 1000, not by {scale:g}")
    if len(text) > _MOST_TEXT_BYTES:
        raise TraceError(f"{name}: longer than {_MOST_TEXT_BYTES} bytes; not a trace of one link")
    times: list[float] = []
    last = 0
    for number, line in enumerate(text.split(b"\n"), start=1):
        word = line.strip()
        if not word:
            continue
        if not word.isdigit() or len(word) > 12:  # noqa: PLR2004 # 12 digits of ms are 30 years
            raise TraceError(f"{name}, line {number}: {word[:20]!r} is not a whole number of milliseconds")
        now = int(word)
        if now < last:
            raise TraceError(f"{name}, line {number}: {now} comes after {last}; times must not go back")
        last = now
        times.append(now / scale)
        if len(times) > _MOST_OPPORTUNITIES:
            raise TraceError(f"{name}: more than {_MOST_OPPORTUNITIES} lines; cut it")
    if last == 0:
        raise TraceError(f"{name}: lets nothing through: it needs a time above 0")
    return Trace(times_ms=tuple(times), period_ms=last / scale)


class Gate(Generic[Item]):
    """A bounded first-in-first-out queue that drains by a trace.

    An opportunity is 1500 bytes of credit. Credit lasts while packets wait (a long packet takes several opportunities,
    several short ones share one) and is gone once nobody waits: what is not used when it comes is lost, as on the air.
    """

    def __init__(self, trace: Trace, most_bytes: int) -> None:
        self._trace = trace
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[int, Item]] = deque()
        self._waiting_bytes = 0
        self._credit_bytes = 0
        self._counted = 0  # opportunities already turned into credit or lost

    def offer(self, now_ms: float, size_bytes: int, item: Item) -> bool:
        """Queue a packet; False if it does not fit and is dropped. Call `release(now_ms)` first."""
        if self._waiting_bytes + size_bytes > self._most_bytes:
            return False
        if not self._waiting:
            self._counted = max(self._counted, self._trace.opportunities(now_ms))
        self._waiting.append((size_bytes, item))
        self._waiting_bytes += size_bytes
        return True

    def release(self, now_ms: float) -> list[Item]:
        """Take out what may cross by now, in order."""
        counted = max(self._counted, self._trace.opportunities(now_ms))
        self._credit_bytes += (counted - self._counted) * OPPORTUNITY_BYTES
        self._counted = counted
        out: list[Item] = []
        while self._waiting and self._waiting[0][0] <= self._credit_bytes:
            size_bytes, item = self._waiting.popleft()
            self._waiting_bytes -= size_bytes
            self._credit_bytes -= size_bytes
            out.append(item)
        if not self._waiting:
            self._credit_bytes = 0
        return out

    def drain(self) -> list[Item]:
        """Take out everything, whatever the trace says: the replay is over."""
        out = [item for _, item in self._waiting]
        self._waiting.clear()
        self._waiting_bytes = self._credit_bytes = 0
        return out

    def next_ms(self, now_ms: float) -> float | None:
        """When `release` may next have something; None while nothing waits."""
        return self._trace.next_ms(now_ms) if self._waiting else None


def _unzip(raw: bytes) -> bytes:
    """Unpack with a bound, so that a bomb stays small."""
    inflater = zlib.decompressobj(wbits=31)
    text = inflater.decompress(raw, _MOST_TEXT_BYTES + 1)
    if not inflater.eof and len(text) <= _MOST_TEXT_BYTES:
        raise EOFError("the compressed data ends early")
    return text
