"""Anything at all on the lease topic: it is read as a request within its bounds, or refused in words."""

from __future__ import annotations

import re

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from responder import desk
from responder.group import Group
from wire import codec, topics
from wire.leases import Claim, GroupWord, LeaseRequest

TOPIC = topics.topic("probe-1", topics.LEASE_REQUEST)
GOOD = LeaseRequest(
    request_id="1",
    probe_id="probe-1",
    link="viettel",
    length_s=30,
    window_s=60,
    expected_mbps=45,
    operator="452-04",
    cell="77",
)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=80),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
)
forged = st.dictionaries(st.sampled_from(LeaseRequest.__struct_fields__), values, max_size=4).map(
    lambda changes: msgspec.json.encode(msgspec.json.decode(codec.encode(GOOD)) | changes)
)
bent = st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=3)).map(
    lambda cut: codec.encode(GOOD)[: cut[0]] + cut[1] + codec.encode(GOOD)[cut[0] + len(cut[1]) :]
)
nested = st.integers(0, 3000).map(lambda depth: b'{"request_id":' + b"[" * depth)
topic_names = st.one_of(
    st.just(TOPIC), st.text(max_size=60), st.text(max_size=20).map(lambda name: topics.topic(name, "lease/request"))
)


@settings(max_examples=500)
@given(topic_names, st.one_of(forged, bent, nested, st.binary(max_size=3000)))
def test_a_request_is_within_its_bounds_or_refused_in_words(topic: str, payload: bytes) -> None:
    request = desk.read(topic, payload)

    if isinstance(request, str):
        assert request
        return
    assert topic == topics.topic(request.probe_id, topics.LEASE_REQUEST)
    assert NAME.fullmatch(request.probe_id)
    assert NAME.fullmatch(request.link)
    assert 0 <= request.transfers <= 4
    assert 0 < request.length_s <= 600
    assert 0 <= request.window_s <= 3600
    assert request.expected_mbps is None or 0 < request.expected_mbps <= 100_000
    assert all(text is None or len(text) <= 64 for text in (request.operator, request.cell))


WORD = GroupWord(responder="b", run="x", claims=(Claim(id=1, link="p/l", cell="c", starts_in_s=1, ends_in_s=9),))
forged_words = st.tuples(
    st.dictionaries(st.sampled_from(GroupWord.__struct_fields__), values, max_size=3),
    st.dictionaries(st.sampled_from(Claim.__struct_fields__), values, max_size=3),
).map(
    lambda changes: msgspec.json.encode(
        msgspec.to_builtins(WORD) | {"claims": [msgspec.to_builtins(WORD.claims[0]) | changes[1]]} | changes[0]
    )
)


@settings(max_examples=300)
@given(st.lists(st.one_of(forged_words, bent, st.binary(max_size=300)), max_size=5))
def test_whatever_stands_on_the_group_s_topic_no_claim_outlives_its_bound(payloads: list[bytes]) -> None:
    group = Group("a", "mine")
    group.connected(0.0)
    for payload in payloads:
        try:
            word = codec.decode(payload, GroupWord)
        except codec.Undecodable:
            continue
        group.hear(word, 0.0)
    assert all(taken.expires_s <= 10_000 for taken in group.elsewhere(0.0))
    assert group.elsewhere(10_001.0) == ()
