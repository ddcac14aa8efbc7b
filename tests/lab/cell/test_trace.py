"""Traces: read strictly, repeated for ever, and never more through the gate than they allow."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.cell import trace
from lab.cell.trace import OPPORTUNITY_BYTES, Gate, Trace, TraceError

TRACES = Path(os.environ.get("PROBEFLEET_TRACES", Path(__file__).parents[4] / "shared" / "data" / "traces"))

# Length in s and mean in Mbps of Mahimahi's LTE traces, counted by others: a line as 1504 bytes, which is a packet with
# the four bytes its TUN device puts before it. Ours counts the packet.
PUBLISHED = {
    "TMobile-LTE-short.down": (140, 16.7),
    "TMobile-LTE-short.up": (140, 13.4),
    "Verizon-LTE-short.down": (140, 5.0),
    "Verizon-LTE-short.up": (140, 6.0),
}

a_trace = st.builds(
    lambda gaps, last, scale: Trace(
        times_ms=tuple(time / scale for time in [*_running(gaps), _running(gaps)[-1] + last]),
        period_ms=(_running(gaps)[-1] + last) / scale,
    ),
    gaps=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    last=st.integers(1, 20),
    scale=st.sampled_from([0.5, 1.0, 3.0, 7.3]),
)


def _running(gaps: list[int]) -> list[int]:
    return [sum(gaps[: index + 1]) for index in range(len(gaps))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trace_has_its_published_mean_at_any_scale(name: str) -> None:
    path = TRACES / f"{name}.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} there: set PROBEFLEET_TRACES to a folder with Mahimahi's traces")
    length_s, mean_mbps = PUBLISHED[name]
    read = trace.read(path)
    assert read.period_ms / 1e3 == pytest.approx(length_s, abs=0.5)
    assert read.mean_mbps * 1504 / OPPORTUNITY_BYTES == pytest.approx(mean_mbps, abs=0.05)
    assert trace.read(path, scale=4).mean_mbps == pytest.approx(4 * read.mean_mbps)


def test_opportunities_are_counted_and_the_trace_repeats() -> None:
    read = trace.parse(b"1\n1\n4\n10\n")
    assert [read.opportunities(at) for at in (-5, 0, 0.9, 1, 3.9, 4, 9, 10, 10.5, 11, 20, 1000)] == [
        *(0, 0, 0, 2, 2, 3, 3, 4, 4, 6, 8, 400)
    ]
    assert [read.next_ms(after) for after in (0, 1, 4, 10, 11, 19)] == [1, 4, 10, 11, 14, 20]
    assert read.mean_mbps == pytest.approx(4 * 1500 * 8 / 10e3)


def test_scaling_divides_the_times() -> None:
    assert trace.parse(b"2\n10\n", scale=4) == Trace(times_ms=(0.5, 2.5), period_ms=2.5)


def test_a_trace_is_read_plain_or_packed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.down", tmp_path / "a.down.gz"
    plain.write_bytes(b"1\n2\n")
    packed.write_bytes(gzip.compress(b"1\n2\n"))
    assert trace.read(plain) == trace.read(packed) == Trace(times_ms=(1.0, 2.0), period_ms=2.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "lets nothing through"),
        (b"0\n0\n", "lets nothing through"),
        (b"1\n2.5\n", "line 2: b'2.5' is not a whole number"),
        (b"1\n-2\n", "line 2"),
        (b"5\n4\n", "line 2: 4 comes after 5"),
        (b"\x00\xff\n", "line 1"),
        (b"9" * 5000, "line 1"),
    ],
)
def test_what_is_not_a_trace_is_refused_by_line(text: bytes, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint):
        trace.parse(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nothing\.gz: cannot be read: .*No such file"):
        trace.read(tmp_path / "nothing.gz")
    half = tmp_path / "half.gz"
    half.write_bytes(gzip.compress(b"1\n2\n" * 1000)[:-20])
    with pytest.raises(TraceError, match=r"half\.gz: cannot be read"):
        trace.read(half)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"\n" * 70_000_000, compresslevel=1))
    with pytest.raises(TraceError, match="longer than"):
        trace.read(bomb)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), 1e6])
def test_a_scale_out_of_reason_is_refused(scale: float) -> None:
    with pytest.raises(TraceError, match="scaled by"):
        trace.parse(b"1\n", scale=scale)


@given(a_trace, st.floats(0, 500), st.floats(0, 500))
def test_capacity_never_runs_backwards_and_next_is_the_next(read: Trace, one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert read.opportunities(early) <= read.opportunities(late)
    following = read.next_ms(early)
    assert following > early
    assert read.opportunities(following + 1e-6) > read.opportunities(early)
    assert read.opportunities((early + following) / 2) == read.opportunities(early)


a_life = st.lists(
    st.tuples(st.floats(0, 40), st.lists(st.integers(1, 1500), max_size=8)),  # (ms later, packets that then arrive)
    max_size=40,
)


@given(a_trace, a_life, st.integers(1500, 6000))
def test_no_more_bytes_cross_than_the_trace_has_opportunities(
    read: Trace, life: list[tuple[float, list[int]]], room: int
) -> None:
    gate: Gate[int] = Gate(read, room)
    now_ms, crossed_bytes, number = 0.0, 0, 0
    accepted: list[int] = []
    sizes: dict[int, int] = {}
    out: list[int] = []
    for later_ms, packets in life:
        now_ms += later_ms
        fresh = gate.release(now_ms)
        for size in packets:
            number += 1
            sizes[number] = size
            if gate.offer(now_ms, size, number):
                accepted.append(number)
        assert gate.release(now_ms) == []  # what comes now waits for an opportunity to come
        out += fresh
        crossed_bytes += sum(sizes[item] for item in fresh)
        assert crossed_bytes <= read.opportunities(now_ms) * OPPORTUNITY_BYTES
        assert sum(sizes[item] for item in accepted[len(out) :]) <= room
    assert out == accepted[: len(out)]  # in order, none lost, none twice
    assert out + gate.drain() == accepted


def test_a_queue_that_is_never_empty_uses_every_opportunity() -> None:
    read = trace.parse(b"1\n1\n3\n10\n")
    gate: Gate[int] = Gate(read, 10**9)
    for number in range(1000):
        assert gate.offer(0, 1500, number)
    assert [len(gate.release(at)) for at in (1, 2, 3, 10, 100)] == [2, 0, 1, 1, 36]


def test_an_opportunity_nobody_waits_for_is_lost() -> None:
    gate: Gate[str] = Gate(trace.parse(b"1\n2\n3\n4\n"), 10_000)
    assert gate.release(3) == []
    assert gate.offer(3, 1500, "late")
    assert gate.next_ms(3) == 4
    assert gate.release(3.9) == []
    assert gate.release(4) == ["late"]
    assert gate.next_ms(4) is None


def test_short_packets_share_an_opportunity_and_a_long_one_takes_two() -> None:
    gate: Gate[str] = Gate(trace.parse(b"1\n2\n3\n"), 10_000)
    for name, size in (("a", 700), ("b", 700), ("c", 1500), ("d", 100)):
        assert gate.offer(0, size, name)
    assert gate.release(1) == ["a", "b"]
    assert gate.release(2) == ["c", "d"]
    assert gate.offer(2, 2000, "long")
    assert gate.release(3) == []
    assert gate.release(4) == ["long"]


def test_a_full_queue_drops_what_comes() -> None:
    gate: Gate[str] = Gate(trace.parse(b"1\n"), 2000)
    assert gate.offer(0, 1500, "first")
    assert not gate.offer(0, 501, "too much")
    assert gate.offer(0, 500, "last")
