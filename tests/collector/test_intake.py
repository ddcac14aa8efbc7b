from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
from collector_helpers import failed, message, radio, result
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.acks import Acks
from collector.intake import MAX_RESULTS_PER_MESSAGE, MAX_SEQ, Arrival, Intake
from collector.quarantine import Cause
from wire import codec
from wire.delivery import Ack, Refusal
from wire.results import Number, Result
from wire.status import ResponderStatus, Status

if TYPE_CHECKING:
    from collector.journal import Entry

TOPIC = "probefleet/v1/p1/result"


def take(*payloads: bytes, topic: str = TOPIC) -> Intake:
    intake = Intake()
    for payload in payloads:
        intake.take(Arrival(topic, payload, len(payload)))
    return intake


def acks(intake: Intake, conflicts: list[Entry]) -> list[tuple[str, Ack]]:
    said = Acks()
    said.note(intake, conflicts)
    return said.take()


def causes(intake: Intake) -> list[Cause]:
    return [parked.reason for parked in intake.parked]


def test_a_batch_is_split_into_results_whose_bytes_are_kept() -> None:
    sent = [codec.encode(one) for one in (result(1), radio(2), failed(3))]
    intake = take(codec.pack(sent))
    assert [entry.payload for entry in intake.results] == sent
    assert [(entry.probe_id, entry.spool_id, entry.seq, entry.kind) for entry in intake.results] == [
        ("p1", "s1", 1, "throughput"),
        ("p1", "s1", 2, "radio"),
        ("p1", "s1", 3, "failed"),
    ]
    checks = "".join(codec.check(entry.payload) for entry in intake.results)
    assert acks(intake, []) == [("p1", Ack(spool_id="s1", stored=((1, 3),), checks=checks))]


def test_one_bad_result_spoils_no_other_and_is_refused_by_its_number() -> None:
    bad = codec.encode(result(2)).replace(b'"throughput"}', b'"speed"}').replace(b'"kind":"throughput"', b'"kind":"?"')
    intake = take(codec.pack([codec.encode(result(1)), bad, b"17", codec.encode(result(3))]))
    assert [entry.seq for entry in intake.results] == [1, 3]
    assert causes(intake) == [Cause.UNDECODABLE, Cause.UNDECODABLE]
    [(probe, ack)] = acks(intake, [])
    assert (probe, ack.spool_id, ack.stored) == ("p1", "s1", ((1, 1), (3, 3)))
    assert [refusal.seq for refusal in ack.refused] == [2]


def test_a_result_of_another_probe_is_parked_and_who_sent_it_is_told() -> None:
    intake = take(message(result(1, probe="p2")))
    assert (intake.results, causes(intake)) == ([], [Cause.FOREIGN_PROBE])
    [(probe, ack)] = acks(intake, [])
    assert (probe, ack.stored, [refusal.seq for refusal in ack.refused]) == ("p1", (), [1])


def test_a_broken_result_that_names_another_probe_is_not_refused_to_that_one() -> None:
    intake = take(b'[{"probe_id": "p2", "spool_id": "s1", "seq": 7, "outcome": 3}]')
    assert causes(intake) == [Cause.UNDECODABLE]
    assert [probe for probe, _ in acks(intake, [])] == ["p1"]


def test_a_result_without_a_number_of_its_spool_is_refused() -> None:
    intake = take(message(result(0), result(1, spool=""), result(2, spool="with space"), result(3)))
    assert causes(intake) == [Cause.BAD_IDENTITY] * 3
    assert [entry.seq for entry in intake.results] == [3]


def test_a_number_beyond_64_bits_is_parked_and_kept_out_of_the_ack() -> None:
    payload = codec.encode(result(7)).replace(b'"seq":7', b'"seq":%d' % 10**30)
    intake = take(payload)
    assert causes(intake) == [Cause.BAD_IDENTITY]
    for _, ack in acks(intake, []):
        codec.encode(ack)


def test_a_number_that_no_probe_reaches_is_refused_and_who_sent_it_is_told() -> None:
    numbered = [
        msgspec.structs.replace(result(1), seq=seq, formerly=Number(spool_id="s0", seq=first) if first else None)
        for seq, first in ((MAX_SEQ + 1, 0), (2**63 - 1, 0), (5, MAX_SEQ + 1), (MAX_SEQ, MAX_SEQ))
    ]
    intake = take(message(*numbered))
    assert causes(intake) == [Cause.BAD_IDENTITY] * 3
    assert [entry.seq for entry in intake.results] == [MAX_SEQ]
    [(_, ack)] = acks(intake, [])
    assert [refusal.seq for refusal in ack.refused] == [MAX_SEQ + 1, 2**63 - 1, 5]


def test_a_compression_bomb_is_one_parked_message() -> None:
    bomb = zlib.compress(b"[" + b" " * 50_000_000 + b"]")
    assert len(bomb) < codec.MAX_PAYLOAD_BYTES
    assert causes(take(bomb)) == [Cause.UNDECODABLE]


def test_more_results_than_a_message_may_hold_are_one_parked_message() -> None:
    assert causes(take(zlib.compress(b"[" + b"1," * MAX_RESULTS_PER_MESSAGE + b"1]"))) == [Cause.TOO_LARGE]


def test_a_message_cut_for_its_size_is_parked_with_its_whole_length() -> None:
    intake = Intake()
    intake.take(Arrival(TOPIC, b"x" * 100, 1_000_000))
    assert (causes(intake), intake.parked[0].size) == ([Cause.TOO_LARGE], 1_000_000)


def test_a_status_is_taken_from_its_own_probe_only() -> None:
    status = codec.encode(Status(probe_id="p1", online=True))
    assert take(status, topic="probefleet/v1/p1/status").statuses == [("p1", status)]
    assert causes(take(status, topic="probefleet/v1/p2/status")) == [Cause.FOREIGN_PROBE]
    assert causes(take(b"online", topic="probefleet/v1/p1/status")) == [Cause.UNDECODABLE]
    assert causes(take(b"", topic="probefleet/v1/p1/status")) == []


def test_a_conflict_is_refused_and_not_acknowledged() -> None:
    intake = take(message(result(1), result(2), result(3)))
    [(_, ack)] = acks(intake, [intake.results[1]])
    assert ack.stored == ((1, 1), (3, 3))
    why = "conflict: another result holds this number"
    assert ack.refused == (Refusal(seq=2, reason=why, check=codec.check(intake.results[1].payload)),)


def test_a_field_of_tomorrow_is_kept_in_the_bytes() -> None:
    payload = codec.encode(result(1))[:-1] + b',"from_the_future":{"a":[1]}}'
    intake = take(payload)
    assert intake.results[0].payload == payload


topic_names = st.one_of(
    st.text(max_size=40),
    st.builds("probefleet/v1/{}/{}".format, st.text(max_size=10), st.sampled_from(["result", "status", "ack", "x/y"])),
    st.just(TOPIC),
    st.just("probefleet/v1/p1/status"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
mutated = st.builds(
    lambda key, value: msgspec.json.encode(
        msgspec.json.decode(codec.encode(result(1)), type=dict[str, object]) | {key: value}
    ),
    st.sampled_from(Result.__struct_fields__),
    json_values.filter(lambda value: not isinstance(value, int) or abs(value) < 2**63),
)
payloads = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(zlib.compress),
    json_values.map(lambda value: repr(value).encode("utf-8", "surrogatepass")),
    mutated,
    st.lists(mutated, max_size=3).map(codec.pack),
    st.integers(0, 3000).map(lambda depth: b"[" * depth),
    st.integers(0, 3000).map(
        lambda depth: codec.encode(result(1))[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    ),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(topic_names, payloads), max_size=4))
def test_nothing_that_arrives_breaks_the_intake(arrivals: list[tuple[str, bytes]]) -> None:
    intake = Intake()
    for topic, payload in arrivals:
        before = len(intake.results) + len(intake.statuses) + len(intake.parked)
        intake.take(Arrival(topic, payload, len(payload)))
        after = len(intake.results) + len(intake.statuses) + len(intake.parked)
        assert after > before or payload == b"" or topic.endswith("/result"), "nothing vanishes"
    for entry in intake.results:
        assert codec.decode_result(entry.payload).seq == entry.seq
        assert 1 <= entry.seq <= MAX_SEQ
    for probe_id, ack in acks(intake, []):
        assert probe_id == "p1" or f"probefleet/v1/{probe_id}/result" in [topic for topic, _ in arrivals]
        codec.encode(ack)


def test_a_responders_status_is_taken_from_its_own_branch_only() -> None:
    status = ResponderStatus(responder="r1", ports=6, testing=2)
    assert take(codec.encode(status), topic="probefleet/v1/r1/responder").responders == [status]
    forged = take(codec.encode(status), b"garbage", topic="probefleet/v1/r2/responder")
    assert forged.responders == []
    assert causes(forged) == [Cause.FOREIGN_PROBE, Cause.UNDECODABLE]
    assert take(b"", topic="probefleet/v1/r1/responder").parked == [], "a retained status that was cleared"


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(0, 30))
def test_what_was_noted_in_parts_is_said_as_if_it_had_come_at_once(numbers: list[int], cut: int) -> None:
    payloads = [codec.encode(result(number)) for number in numbers]
    said = Acks()
    for some in (payloads[:cut], payloads[cut:]):
        said.note(take(*some), [])
    assert said.take() == acks(take(*payloads), [])
    assert said.take() == [], "once"
