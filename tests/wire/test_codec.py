"""The wire: what is written can be read, what is not ours is refused, and nothing makes it blow up."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import topics
from wire.codec import MAX_PAYLOAD_BYTES, MAX_UNPACKED_BYTES, Undecodable, decode, decode_result, encode, pack, unpack
from wire.messages import Ack, Failed, Radio, Reason, Refusal, Result
from wire.radio import RadioReading, Technology

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.json"))


def result(seq: int) -> Result:
    return Result(
        probe_id="p1",
        spool_id="0123456789abcdef",
        seq=seq,
        site="s1",
        started_at=datetime(2026, 6, 15, 8, 0, tzinfo=UTC),
        agent_version="0.1.0",
        outcome=Failed(reason=Reason.TIMEOUT),
    )


@given(count=st.integers(0, 60))
def test_a_batch_is_read_as_it_was_written(count: int) -> None:
    results = [result(seq) for seq in range(count)]
    assert [decode_result(raw) for raw in unpack(pack([encode(r) for r in results]))] == results


def test_one_bad_result_does_not_spoil_its_mates() -> None:
    raws = unpack(pack([encode(result(1)), b'{"probe_id":7}', encode(result(3))]))
    assert decode_result(raws[0]).seq == 1
    with pytest.raises(Undecodable, match="probe_id"):
        decode_result(raws[1])
    assert decode_result(raws[2]).seq == 3


@given(payload=st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(payload: bytes) -> None:
    try:
        for raw in unpack(payload):
            decode_result(raw)
    except Undecodable:
        pass


def test_a_compression_bomb_stays_folded() -> None:
    bomb = zlib.compress(b"[" + b" " * (20 * MAX_UNPACKED_BYTES) + b"]", 9)
    assert len(bomb) < MAX_PAYLOAD_BYTES
    with pytest.raises(Undecodable, match="unpacks to more than"):
        unpack(bomb)


def test_a_message_of_a_megabyte_is_refused_by_its_size() -> None:
    with pytest.raises(Undecodable, match="at most"):
        unpack(b"x" * 1_000_000)


def test_a_field_of_a_newer_version_is_tolerated() -> None:
    document = msgspec.json.decode(encode(result(1)))
    document["a_field_of_tomorrow"] = {"x": 1}
    assert decode_result(msgspec.json.encode(document)) == result(1)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(Undecodable, match="started_at"):
        decode_result(encode(result(1)).replace(b"08:00:00Z", b"08:00:00"))


def test_a_result_is_small_on_the_wire() -> None:
    reading = Radio(reading=RadioReading(technology=Technology.LTE, rsrp_dbm=-97))
    assert b"null" not in encode(msgspec.structs.replace(result(1), outcome=reading)), "what is not known is left out"


def test_an_ack_names_what_is_stored_and_what_is_refused() -> None:
    ack = Ack(spool_id="a", stored=((1, 5), (7, 7)), refused=(Refusal(seq=6, reason="no"),))
    assert decode(encode(ack), Ack) == ack


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_payloads_of_released_versions_stay_readable(path: Path) -> None:
    payload = path.read_bytes().strip()
    assert encode(decode_result(payload)) == payload


def test_there_are_golden_payloads() -> None:
    kinds = {"throughput", "latency", "radio", "failed", "dropped", "recovery", "plan"}
    assert {path.stem.partition("-")[2] for path in GOLDEN} >= kinds


@given(
    probe=st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20})", fullmatch=True),
    leaf=st.sampled_from(["result", "lease/request"]),
)
def test_a_topic_is_read_as_it_was_named(probe: str, leaf: str) -> None:
    assert topics.parse(topics.topic(probe, leaf)) == (probe, leaf)


@pytest.mark.parametrize(
    "name", ["", "probefleet/v1", "probefleet/v1//result", "probefleet/v1/p1/", "probefleet/v2/p1/result"]
)
def test_other_topics_are_not_ours(name: str) -> None:
    assert topics.parse(name) is None
