"""DNS messages: what other code writes is read, and nothing that a stranger sends does any harm."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_servers import CNAME, A, message, record, written

from agent import dns_message
from agent.dns_message import Kind, Malformed, NotAName, Reply

OWN = bytes([10, 9, 0, 1])
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?){0,4}", fullmatch=True)


def test_a_question_is_as_the_standard_writes_it() -> None:
    # RFC 1035 section 4.1: id, RD, one question; 3www7example3com0, type A, class IN
    expected = bytes.fromhex("1234 0100 0001 0000 0000 0000 03777777 076578616d706c65 03636f6d 00 0001 0001")
    assert dns_message.query(0x1234, "www.example.com", Kind.A) == expected
    assert dns_message.query(0x1234, "www.example.com.", Kind.AAAA) == expected[:-4] + bytes.fromhex("001c 0001")


def test_vietnamese_names_are_asked_for_in_their_ascii_form() -> None:
    question = dns_message.query(1, "việtnam.vn", Kind.A)
    assert question[12] == len(b"xn--vitnam-jk8b")
    assert question[13:28] == b"xn--vitnam-jk8b"


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "a b", "-h", "a" * 64, ".".join(["abcdefgh"] * 40), "a/b", "a\0b", "é" * 70]
)
def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(NotAName):
        dns_message.query(1, name, Kind.A)


@given(name=names, ident=st.integers(0, 0xFFFF), ttl_s=st.integers(0, 0x7FFFFFFF))
def test_an_answer_is_read(name: str, ident: int, ttl_s: int) -> None:
    reply = message(ident, name, record(name, A, OWN, ttl_s))
    assert dns_message.read(reply, ident, name.upper(), Kind.A) == Reply(0, addresses=("10.9.0.1",), ttl_s=ttl_s)


def test_aliases_are_followed_and_the_shortest_life_counts() -> None:
    records = [
        record("c.test", A, OWN, 300),
        record("a.test", CNAME, written("b.test"), 600),
        record("b.test", CNAME, written("c.test"), 20),
        record("other.test", A, bytes(4)),
    ]
    reply = dns_message.read(message(1, "a.test", *records), 1, "a.test", Kind.A)
    assert reply == Reply(0, addresses=("10.9.0.1",), ttl_s=20)


def test_aliases_in_a_circle_lead_nowhere() -> None:
    records = [record("a.test", CNAME, written("b.test")), record("b.test", CNAME, written("a.test"))]
    assert dns_message.read(message(1, "a.test", *records), 1, "a.test", Kind.A) == Reply(0)


def test_names_may_point_back() -> None:
    pointed = message(1, "www.vn", b"\xc0\x0c" + struct.pack("!2HIH", A, 1, 5, 4) + OWN)
    assert dns_message.read(pointed, 1, "www.vn", Kind.A) == Reply(0, addresses=("10.9.0.1",), ttl_s=5)


def test_ipv6_addresses_are_read() -> None:
    address = bytes.fromhex("20010db8000000000000000000000007")
    reply = message(1, "www.vn", record("www.vn", 28, address), kind=28)
    assert dns_message.read(reply, 1, "www.vn", Kind.AAAA) == Reply(0, addresses=("2001:db8::7",), ttl_s=60)


def test_a_life_with_its_sign_set_is_none() -> None:
    reply = dns_message.read(message(1, "a", record("a", A, OWN, 0x80000001)), 1, "a", Kind.A)
    assert reply is not None
    assert reply.ttl_s == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        message(2, "a.test", record("a.test", A, OWN)),
        message(1, "b.test", record("b.test", A, OWN)),
        message(1, "a.test", kind=28),
        message(1, "a.test", record("a.test", A, OWN), flags=0x0100),
    ],
    ids=["nothing", "another number", "another name", "another kind", "a question"],
)
def test_what_is_no_answer_to_the_question_is_passed_over(reply: bytes) -> None:
    assert dns_message.read(reply, 1, "a.test", Kind.A) is None


@pytest.mark.parametrize(
    "records",
    [
        b"\xc0\xff" + bytes(20),
        b"\xc0\x20" + struct.pack("!2HIH", A, 1, 5, 4) + OWN,
        b"\x01",
        written("a.test") + struct.pack("!2HIH", A, 1, 5, 400),
        record("a.test", A, bytes(3)),
        b"\x80a",
        (b"\x3f" + b"a" * 63) * 5 + b"\0" + bytes(20),
    ],
    ids=["out", "forwards", "a label cut off", "a record cut off", "3 bytes of address", "a label's kind", "long"],
)
def test_a_damaged_answer_is_malformed(records: bytes) -> None:
    with pytest.raises(Malformed):
        dns_message.read(message(1, "a.test", records), 1, "a.test", Kind.A)


def test_an_error_and_a_truncated_answer_are_answers() -> None:
    assert dns_message.read(message(1, "a.test", rcode=3), 1, "a.test", Kind.A) == Reply(3)
    assert dns_message.read(message(1, "a.test", flags=0x8380), 1, "a.test", Kind.A) == Reply(0, truncated=True)
    without_question = struct.pack("!6H", 1, 0x8185, 0, 0, 0, 0)
    assert dns_message.read(without_question, 1, "a.test", Kind.A) == Reply(5)


@given(data=st.binary(max_size=200), head=st.booleans(), count=st.integers(0, 0xFFFF))
def test_arbitrary_bytes_are_malformed_or_not_for_us(data: bytes, head: bool, count: int) -> None:  # noqa: FBT001  # drawn
    if head:
        data = message(7, "a.test")[:6] + struct.pack("!H", count) + message(7, "a.test")[8:] + data
    try:
        reply = dns_message.read(data, 7, "a.test", Kind.A)
    except Malformed:
        return
    assert reply is None or reply.addresses == () or reply.ttl_s is not None


@given(data=st.data())
def test_a_flipped_bit_never_makes_more_than_another_answer(data: st.DataObject) -> None:
    records = [record("www.a.test", CNAME, written("b.test")), record("b.test", A, OWN)]
    whole = bytearray(message(7, "www.a.test", *records))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(Malformed):
        dns_message.read(bytes(whole), 7, "www.a.test", Kind.A)
