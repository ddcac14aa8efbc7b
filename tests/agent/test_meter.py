"""The books of an interface: whatever its counters do, what they prove is counted."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.meter import FASTEST_BYTES_PER_S, WRAPS_AT, Meter, grown_bytes

BASE = Meter(boot_id="a", interface_index=3, uptime_s=1000.0, received_bytes=5000, sent_bytes=700)


def later(**changed: object) -> Meter:
    return msgspec.structs.replace(BASE, **{"uptime_s": BASE.uptime_s + 60} | changed)


def test_counters_that_rise_count_what_they_rose() -> None:
    assert grown_bytes(BASE, later(received_bytes=6000, sent_bytes=800)) == 1100


def test_a_reboot_begins_at_nothing() -> None:
    assert grown_bytes(BASE, later(boot_id="b", uptime_s=12.0, received_bytes=9000, sent_bytes=900)) == 9900


def test_an_interface_that_came_anew_begins_at_nothing() -> None:
    assert grown_bytes(BASE, later(interface_index=4, received_bytes=5100, sent_bytes=800)) == 5900


def test_a_counter_of_32_bits_that_wrapped_goes_on() -> None:
    before = msgspec.structs.replace(BASE, received_bytes=WRAPS_AT - 1000)
    assert grown_bytes(before, later(received_bytes=500)) == 1500


def test_a_wrap_that_no_modem_is_fast_enough_for_was_a_reset() -> None:
    before = msgspec.structs.replace(BASE, received_bytes=100_000_000)
    assert grown_bytes(before, later(received_bytes=400, sent_bytes=30)) == 430


def test_a_counter_that_has_counted_past_32_bits_does_not_wrap_there() -> None:
    before = msgspec.structs.replace(BASE, received_bytes=WRAPS_AT + 10)
    assert grown_bytes(before, later(received_bytes=10, uptime_s=10**6)) == 10 + BASE.sent_bytes


class _Step(NamedTuple):
    kind: str
    received: int
    sent: int
    after_s: float


_steps = st.lists(
    st.builds(
        _Step,
        st.sampled_from(["carry", "carry", "carry", "reboot", "replug", "reset"]),
        st.integers(0, 2_000_000_000),
        st.integers(0, 300_000_000),
        st.floats(60, 3600),
    ),
    max_size=40,
)


class Interface:
    """A modem's interface: counters of some width, that begin anew by themselves; and what truly crossed it."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.boot, self.index, self.uptime_s = 1, 3, 30.0
        self.received = self.sent = 0

    def step(self, step: _Step) -> int:
        """Do it; return the bytes carried since the counters began anew, which is what they can prove."""
        self.uptime_s += step.after_s
        if step.kind == "reboot":
            self.boot, self.uptime_s = self.boot + 1, 30.0
        if step.kind == "replug":
            self.index += 1
        if step.kind != "carry":
            self.received = self.sent = 0
        carried = min(step.received + step.sent, int(FASTEST_BYTES_PER_S * step.after_s))
        received = min(step.received, carried)
        self.received += received
        self.sent += carried - received
        return carried

    def read(self) -> Meter:
        wraps = 2**self.bits
        return Meter(
            boot_id=str(self.boot),
            interface_index=self.index,
            uptime_s=self.uptime_s,
            received_bytes=self.received % wraps,
            sent_bytes=self.sent % wraps,
        )


@given(steps=_steps, bits=st.sampled_from([32, 64]))
def test_never_less_is_counted_than_was_carried_whatever_the_counters_do(steps: list[_Step], bits: int) -> None:
    interface = Interface(bits)
    reading = interface.read()
    for step in steps:
        carried = interface.step(step)
        now = interface.read()
        seen = (
            step.kind != "reset" or now.received_bytes < reading.received_bytes or now.sent_bytes < reading.sent_bytes
        )
        assert grown_bytes(reading, now) >= (carried if seen else 0)  # a reset that was outrun leaves no trace
        reading = now


@given(steps=_steps)
def test_where_the_counters_leave_no_doubt_exactly_what_was_carried_is_counted(steps: list[_Step]) -> None:
    interface = Interface(64)
    reading = interface.read()
    for step in steps:
        if step.kind == "reset":
            continue  # looks like a wrap
        carried = interface.step(step)
        now = interface.read()
        assert grown_bytes(reading, now) == carried
        reading = now
