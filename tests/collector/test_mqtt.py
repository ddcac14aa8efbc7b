"""The packets of MQTT 3.1.1 that the collector reads and writes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.broker import Credentials
from collector import mqtt
from collector.mqtt import Arrival, Connack, ProtocolError, Puback, Reader, Suback

MAX_BYTES, KEPT_BYTES = 5000, 100


def reader() -> Reader:
    return Reader(MAX_BYTES, KEPT_BYTES)


def read(data: bytes, size: int) -> list[mqtt.Packet]:
    one = reader()
    return [packet for place in range(0, len(data), size) for packet in one.feed(data[place : place + size])]


def qos_0(topic: bytes, payload: bytes) -> bytes:
    body = len(topic).to_bytes(2) + topic + payload
    assert len(body) < 128
    return bytes([0x30, len(body)]) + body


@given(
    st.lists(st.tuples(st.text("ab/é", max_size=30), st.binary(max_size=400), st.integers(1, 65535)), max_size=6),
    st.integers(1, 600),
)
def test_messages_are_read_as_they_were_written_however_the_bytes_arrive(
    messages: list[tuple[str, bytes, int]], size: int
) -> None:
    stream = b"".join(mqtt.publish(*message) for message in messages)
    assert read(stream, size) == [Arrival(topic, payload, len(payload), 1, mid) for topic, payload, mid in messages]


@pytest.mark.parametrize("size", [1, 7, 4096, 1_000_000])
def test_a_payload_too_large_is_cut_and_its_neighbours_are_whole(size: int) -> None:
    huge = b"x" * (MAX_BYTES + 70_000)
    large = b"y" * (MAX_BYTES + 1)
    stream = b"".join(
        mqtt.publish(f"t{number}", payload, number + 1)
        for number, payload in enumerate((b"a", huge, huge, large, huge, b"b" * MAX_BYTES))
    )
    assert read(stream, size) == [
        Arrival("t0", b"a", 1, 1, 1),
        Arrival("t1", huge[:KEPT_BYTES], len(huge), 1, 2),
        Arrival("t2", huge[:KEPT_BYTES], len(huge), 1, 3),
        Arrival("t3", large[:KEPT_BYTES], len(large), 1, 4),
        Arrival("t4", huge[:KEPT_BYTES], len(huge), 1, 5),
        Arrival("t5", b"b" * MAX_BYTES, MAX_BYTES, 1, 6),
    ]


def test_a_message_that_grows_without_end_costs_bounded_memory() -> None:
    one = reader()
    one.feed(b"\x32\xff\xff\xff\x7f\x00\x01t\x00\x01")
    for _ in range(300):
        assert one.feed(b"x" * 100_000) == []
    assert len(one._rest) <= 2 + 65535 + 2 + KEPT_BYTES


def test_the_brokers_answers_are_told_apart() -> None:
    answers = (
        b"\x20\x02\x01\x00",
        b"\x20\x02\x00\x05",
        b"\x90\x05\x00\x01\x01\x01\x01",
        b"\x90\x05\x00\x01\x01\x80\x01",
        b"\xd0\x00",
        b"\x40\x02\x00\x09",
    )
    assert read(b"".join(answers), 3) == [
        Connack(session_present=True, refusal=""),
        Connack(session_present=False, refusal="Not authorized"),
        Suback(refused=False),
        Suback(refused=True),
        Puback(9),
    ]


def test_a_topic_that_is_no_text_is_still_a_message() -> None:
    (arrival,) = read(qos_0(b"\xff\xfe", b"x"), 100)
    assert arrival == Arrival("\ufffd\ufffd", b"x", 1)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x32\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x32\x03\x00\x01t",  # QoS 1 without a number
        b"\x32\x01\x00",
        b"\x30\x00",
        b"\x30\x02\x00\x05",  # a topic that is longer than its packet
        b"\x34\x05\x00\x01t\x00\x01",  # QoS 2 was not asked for
        b"\x10\x00",  # CONNECT
        b"\x20\x01\x00",
        b"\x20\xff\xff\xff\x7fxx",  # a CONNACK of 256 MB
    ],
)
def test_what_no_broker_sends_is_named(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(stream, 100)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_raise_anything_else(stream: bytes, size: int) -> None:
    with contextlib.suppress(ProtocolError):
        read(stream, size)


def test_connect_asks_for_a_session_that_lasts_and_gives_the_password() -> None:
    packet = mqtt.connect("me", 30, Credentials("collector", "secret"))
    assert packet == b"\x10\x21\x00\x04MQTT\x04\xc0\x00\x1e\x00\x02me\x00\x09collector\x00\x06secret"
    assert mqtt.connect("me", 30, None) == b"\x10\x0e\x00\x04MQTT\x04\x00\x00\x1e\x00\x02me"
    assert mqtt.subscribe(1, ["a", "b/c"]) == b"\x82\x0c\x00\x01\x00\x01a\x01\x00\x03b/c\x01"
    assert mqtt.pubacks([1, 65535]) == b"\x40\x02\x00\x01\x40\x02\xff\xff"
