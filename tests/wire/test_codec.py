"""The wire: what is written can be read, what is not ours is refused, and nothing makes it blow up."""

from __future__ import annotations

import lzma
import zlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import dictionary, topics
from wire.codec import MAX_PAYLOAD_BYTES, MAX_UNPACKED_BYTES, Undecodable, decode, decode_result, encode, pack, unpack
from wire.delivery import MAX_RESEND_RANGES, Ack, Refusal, Resend
from wire.measured import Failed, Radio
from wire.radio import RadioReading, Technology
from wire.reasons import Reason
from wire.results import Result

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.json"))
XZ_HEAD = b"\xfd7zXZ\x00"
BATCHED = {f"v0.1.0-{kind}" for kind in ("dropped", "failed", "latency", "plan", "radio", "recovery", "throughput")}


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


@given(payload=st.binary(max_size=2000) | st.binary(max_size=200).map(XZ_HEAD.__add__))
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


def test_a_bomb_of_the_other_kind_stays_folded_too() -> None:
    bomb = lzma.compress(b"[" + b" " * (20 * MAX_UNPACKED_BYTES) + b"]", check=lzma.CHECK_CRC32)
    with pytest.raises(Undecodable, match=r"unpacks to more than|damaged"):  # or asks for too much memory
        unpack(bomb)
    small_window = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 65536}]
    with pytest.raises(Undecodable, match="unpacks to more than"):
        unpack(lzma.compress(b"[" + b" " * (2 * MAX_UNPACKED_BYTES) + b"]", filters=small_window))
    whole = pack([encode(result(seq)) for seq in range(1000)])
    assert whole[0] == XZ_HEAD[0]
    assert len(unpack(whole)) == 1000
    with pytest.raises(Undecodable, match="cut short"):
        unpack(whole[:-10])
    with pytest.raises(Undecodable, match="damaged"):
        unpack(whole[:60] + bytes(8) + whole[68:])


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


@pytest.mark.parametrize("name", ["batch-zlib", "batch-dictionary-1", "batch-xz"])
def test_compressed_batches_of_released_versions_stay_readable(name: str) -> None:
    golden = [path.read_bytes().strip() for path in GOLDEN if path.stem in BATCHED]
    assert unpack((GOLDEN[0].parent / f"v0.1.0-{name}.bin").read_bytes()) == golden


def test_a_dictionary_that_has_travelled_is_never_changed() -> None:
    assert 0x839804C6 in dictionary.KNOWN, "add a new one under its own checksum, and keep this"
    assert {zlib.adler32(words) for words in dictionary.KNOWN.values()} == {*dictionary.KNOWN}


def test_a_dictionary_of_tomorrow_is_named_and_refused() -> None:
    squeezer = zlib.compressobj(level=9, zdict=b"words of tomorrow")
    with pytest.raises(Undecodable, match=f"{zlib.adler32(b'words of tomorrow'):08x}.*not known here"):
        unpack(squeezer.compress(b"[" + encode(result(1)) + b"]") + squeezer.flush())


def test_one_result_alone_travels_in_half_of_its_bytes() -> None:
    for path in GOLDEN:
        payload = path.read_bytes().strip()
        assert len(pack([payload])) < 0.5 * len(payload), path.stem


@given(first=st.integers(-5, 2**64), last=st.integers(-5, 2**64), spool=st.text(max_size=70), count=st.integers(0, 80))
def test_a_command_out_of_bounds_is_refused(first: int, last: int, spool: str, count: int) -> None:
    document = {"command": "resend", "spool_id": spool, "ranges": [[first, last]] * count}
    in_bounds = all(1 <= number < 2**63 for number in (first, last)) and 1 <= count <= MAX_RESEND_RANGES
    try:
        command = decode(msgspec.json.encode(document), Resend)
    except Undecodable:
        return
    assert in_bounds
    assert command.spool_id.isascii()


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**20])
def test_an_ack_of_numbers_that_no_spool_has_is_refused(number: int) -> None:
    payload = b'{"spool_id":"s1","stored":[[%d,%d]]}' % (number, number)
    with pytest.raises(Undecodable, match="stored"):
        decode(payload, Ack)


def test_there_is_no_other_command() -> None:
    for name in ("reboot", "run", "config", ""):
        with pytest.raises(Undecodable):
            decode(b'{"command":"%s","spool_id":"a","ranges":[[1,2]]}' % name.encode(), Resend)


def test_there_are_golden_payloads() -> None:
    kinds = {"throughput", "latency", "ping", "dns", "web", "radio", "failed", "dropped", "damaged", "recovery"}
    kinds |= {"plan", "missed", "capacity"}
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
