"""What the collector names in a spool that lives its second life: any number may come, and none breaks it."""

from __future__ import annotations

import tempfile
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.lives import Span
from agent.spool import Spool
from wire.codec import check, decode_result
from wire.delivery import Refusal
from wire.measured import Throughput, Transfer
from wire.results import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 2**63 - 1
IN_EACH = 4
SEQ = st.one_of(st.integers(1, 2 * IN_EACH), st.integers(1, LARGEST), st.just(LARGEST))
RANGES = st.lists(st.tuples(SEQ, SEQ), min_size=1, max_size=4)


def result() -> Result:
    """Make one of a kind that is archived."""
    return Result(
        probe_id="p1",
        site="s1",
        started_at=datetime(2026, 6, 15, 8, tzinfo=UTC),
        agent_version="0",
        outcome=Throughput(download=Transfer(steady_mbps=41.5, payload_bytes=26_000_000, elapsed_s=5.0)),
    )


@contextmanager
def two_lives() -> Iterator[tuple[Spool, str, str]]:
    """Make a spool with results 1 to IN_EACH in each of two lives."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Spool(Path(folder) / "spool.db", max_bytes=10**9)) as spool,
    ):
        first = spool.spool_id
        for _ in range(IN_EACH + 1):
            spool.append(result())
        spool.refuse(first, [Refusal(seq=IN_EACH + 1, reason="conflict: an old copy")])  # it is the second's number 1
        for _ in range(IN_EACH - 1):
            spool.append(result())
        yield spool, first, spool.spool_id


def waiting(spool: Spool, spool_id: str) -> set[int]:
    """Tell which numbers of a life wait."""
    results = [decode_result(row.payload) for row in spool.oldest(100)]
    return {one.seq for one in results if one.spool_id == spool_id}


def meant(ranges: list[tuple[int, int]], known: int) -> set[int]:
    return {seq for seq in range(1, known + 1) if any(first <= seq <= last for first, last in ranges)}


@settings(max_examples=40)
@given(ranges=RANGES, second=st.booleans(), checked=st.booleans())
def test_an_ack_lets_go_what_it_names_of_its_own_life(
    ranges: list[tuple[int, int]], *, second: bool, checked: bool
) -> None:
    with two_lives() as (spool, first_id, second_id):
        mine, other = (second_id, first_id) if second else (first_id, second_id)
        checks = ""
        if checked:
            ranges = [(first, min(last, 2 * IN_EACH)) for first, last in ranges if first <= 2 * IN_EACH]
            payloads = [(decode_result(row.payload), row.payload) for row in spool.oldest(100)]
            known = {one.seq: check(payload) for one, payload in payloads if one.spool_id == mine}
            checks = "".join(known.get(seq, "----") for first, last in ranges for seq in range(first, last + 1))
        before = waiting(spool, mine)
        named = meant(ranges, 2 * IN_EACH) & before
        assert spool.acknowledge(mine, ranges, checks) == len(named)
        assert waiting(spool, mine) == before - named
        assert waiting(spool, other) == set(range(1, IN_EACH + 1))


@settings(max_examples=40)
@given(ranges=RANGES, second=st.booleans())
def test_what_is_asked_for_again_comes_again_and_belongs_to_its_own_life(
    ranges: list[tuple[int, int]], *, second: bool
) -> None:
    with two_lives() as (spool, first_id, second_id):
        mine, other = (second_id, first_id) if second else (first_id, second_id)
        for spool_id in (first_id, second_id):
            spool.acknowledge(spool_id, [(1, LARGEST)])
        lost = spool.resend(mine, ranges)
        assert waiting(spool, mine) == meant(ranges, IN_EACH)
        assert waiting(spool, other) == set()
        assert meant(lost, 2 * IN_EACH) <= {IN_EACH + 1}, "that one has another number now"


@given(first=SEQ, last=SEQ, before=st.integers(0, 10**6), length=st.one_of(st.just(2**62), st.integers(0, 100)))
def test_numbers_in_the_file_are_of_the_life_and_small_enough(first: int, last: int, before: int, length: int) -> None:
    low, high = Span(before, before + length).numbers(first, last)
    assert before < low <= LARGEST
    assert high <= before + length
    for seq in range(1, min(length, 100) + 1):
        assert (first <= seq <= last) == (low <= before + seq <= high)
