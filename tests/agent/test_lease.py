"""Borrowing: which responder is asked, how its turn is waited for, what it is told. No broker; answers from a list."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent import lease
from agent.bench import Bench, Look
from agent.clock import SystemClock
from agent.lease import Habits, Wish, borrow
from agent.measurements.base import MeasurementFailed
from agent.measurements.throughput import Login
from agent.path import look
from agent.settings import Link
from wire.leases import Busy, Denied, Granted, LeaseReply
from wire.radio import RadioReading
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WISH = Wish("viettel", transfers=2, length_s=40, window_s=120)


@dataclass
class Responders:
    """Several responders: each has a list of answers, of which None is a silence; the last one is repeated."""

    answers: dict[str, list[LeaseReply | None]]
    habits: Habits = field(default_factory=Habits)
    asked: list[Wish] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)

    @contextmanager
    def ask(self, wish: Wish) -> Iterator[Callable[[float], LeaseReply | None]]:
        self.asked.append(wish)
        where = [granted(name, ports=()) for name in self.answers] if wish.transfers == 0 else None

        def answer(timeout_s: float) -> LeaseReply | None:
            self.waited_s.append(timeout_s)
            if where is not None:
                return where.pop(0) if where else None
            own = self.answers.get(wish.responder or "", [None])
            return own.pop(0) if len(own) > 1 else own[0]

        yield answer


def granted(name: str, *, starts_in_s: float = 0.0, ports: tuple[int, ...] = (5201, 5202)) -> Granted:
    return Granted(
        request_id="1",
        responder=name,
        host=f"{name}.example",
        ports=ports,
        token="secret",
        expires_in_s=40.0,
        starts_in_s=starts_in_s,
        user="lease-1",
        public_key="PEM",
    )


def busy(name: str, retry_in_s: float = 300.0) -> Busy:
    return Busy(request_id="1", responder=name, retry_in_s=retry_in_s)


def test_what_is_granted_brings_its_server_and_its_login_and_keeps_the_password_to_itself() -> None:
    lender = Responders({"a": [granted("a")]}, Habits(["a"]))
    borrowed = borrow(lender, SystemClock(), WISH)
    assert (borrowed.host, borrowed.ports, borrowed.responder) == ("a.example", (5201, 5202), "a")
    assert borrowed.login == Login("lease-1", "secret", "PEM")
    assert "secret" not in repr(borrowed)
    assert lender.asked[0].responder == "a"
    assert lender.asked[0].window_s > 119


def test_a_booked_turn_is_waited_for_and_may_come_sooner() -> None:
    lender = Responders(
        {"a": [granted("a", starts_in_s=60), granted("a", starts_in_s=30), granted("a")]}, Habits(["a"])
    )
    assert borrow(lender, SystemClock(), WISH).ports == (5201, 5202)
    assert lender.waited_s[1:] == [60 + lease.LATE_WORD_S, 30 + lease.LATE_WORD_S]


@dataclass
class Hands:
    """A clock that goes on by `step_s` whenever it is looked at."""

    step_s: float
    at_s: float = 0.0

    def monotonic_s(self) -> float:
        self.at_s += self.step_s
        return self.at_s


@pytest.mark.parametrize(("step_s", "waited_s"), [(0.5, None), (14.0, 28.0)])
def test_a_test_that_was_postponed_says_for_how_long(step_s: float, waited_s: float | None) -> None:
    lender = Responders({"a": [granted("a", starts_in_s=60), granted("a")]}, Habits(["a"]))
    borrowed = borrow(lender, Hands(step_s), WISH)  # type: ignore[arg-type]  # all that is asked of a clock here
    told = borrowed.plain().waited_s
    assert (told is None) == (waited_s is None)
    assert told is None or told >= waited_s


def test_a_promise_without_further_word_is_taken_at_its_time() -> None:
    lender = Responders({"a": [granted("a", starts_in_s=1), None]}, Habits(["a"]))
    assert borrow(lender, SystemClock(), WISH).responder == "a"


def test_a_turn_that_is_taken_back_is_busy() -> None:
    lender = Responders({"a": [granted("a", starts_in_s=1), busy("a")]}, Habits(["a"]))
    with pytest.raises(MeasurementFailed) as failure:
        borrow(lender, SystemClock(), WISH._replace(window_s=2.0))
    assert failure.value.reason is Reason.BUSY
    assert "had no turn for us within 2 s" in failure.value.detail


def test_the_first_in_the_configured_order_serves_if_it_is_free() -> None:
    lender = Responders({"a": [granted("a")], "b": [granted("b")]}, Habits(["b", "a"]))
    assert borrow(lender, SystemClock(), WISH).responder == "b"
    assert [wish.responder for wish in lender.asked] == ["b"], "a responder lent for nothing"


def test_whoever_is_free_now_serves_before_whoever_has_a_turn_later() -> None:
    lender = Responders({"a": [busy("a", 50)], "b": [granted("b")]}, Habits(["a", "b"]))
    assert borrow(lender, SystemClock(), WISH).responder == "b"
    assert [(wish.responder, wish.window_s) for wish in lender.asked] == [("a", 0.0), ("b", 0.0)]


def test_if_nobody_is_free_the_first_one_s_turn_is_taken() -> None:
    lender = Responders({"a": [busy("a", 50), granted("a", starts_in_s=50), granted("a")], "b": [busy("b", 9)]})
    lender.habits = Habits(["a", "b"])
    assert borrow(lender, SystemClock(), WISH).responder == "a"
    assert [wish.responder for wish in lender.asked] == ["a", "b", "a"]


def test_a_silent_responder_is_passed_over_and_silence_everywhere_is_said() -> None:
    lender = Responders({"a": [None], "b": [granted("b")]}, Habits(["a", "b"]))
    assert borrow(lender, SystemClock(), WISH).responder == "b"
    with pytest.raises(MeasurementFailed) as failure:
        borrow(Responders({"a": [None]}, Habits(["a", "z"])), SystemClock(), WISH)
    assert failure.value.reason is Reason.NO_LEASE


def test_a_denial_is_final() -> None:
    lender = Responders({"a": [Denied(request_id="1", responder="a", reason="too long")]}, Habits(["a"]))
    with pytest.raises(MeasurementFailed, match="too long"):
        borrow(lender, SystemClock(), WISH)
    assert len(lender.asked) == 1


def test_without_an_order_the_nearest_by_round_trip_is_asked_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    far = {"a.example": 80.0, "b.example": 9.0, "c.example": float("inf")}
    monkeypatch.setattr(lease, "_rtt_ms", lambda host, _path: far[host])
    lender = Responders({name: [granted(name)] for name in "abc"})
    clock = SystemClock()
    assert borrow(lender, clock, WISH, path=look("lo")).responder == "b"
    assert lender.habits.found == ("b", "a", "c")
    assert borrow(lender, clock, WISH).responder == "b"
    assert [wish.transfers for wish in lender.asked] == [0, 2, 2], "looked around again"


def test_round_trips_are_measured() -> None:
    assert lease._rtt_ms("localhost", look("lo")) < 1000
    assert lease._rtt_ms("127.0.0.1", look("none0")) == float("inf")
    assert lease._rtt_ms("no.such.name.invalid", look("lo")) == float("inf")


def test_the_request_tells_the_cell_the_operator_and_how_fast_the_link_was() -> None:
    class Modems:
        def look(self, _link: Link) -> Look:
            return Look(RadioReading(mcc="452", mnc="04", operator="Viettel", cell_id=4660))

    lender = Responders({"a": [granted("a")]}, Habits(["a"]))
    bench = Bench(Link(name="viettel", interface="lo"), (), SystemClock(), Modems(), lender)
    bench.look_before_test()
    bench.note_speed(37.5)
    bench.borrow(transfers=2, length_s=40, window_s=300)
    [wish] = lender.asked
    assert (wish.operator, wish.cell, wish.expected_mbps) == ("452-04", "4660", 37.5)
    assert 299 < wish.window_s <= 300
    assert bench.server is not None
    assert bench.server.responder == "a"


def test_what_is_borrowed_knows_its_end_and_how_busy_the_server_is() -> None:
    clock = SystemClock()
    reply = msgspec.structs.replace(granted("a"), load_percent=71.5, expires_in_s=30.0)
    before_s = clock.monotonic_s()
    borrowed = borrow(Responders({"a": [reply]}, Habits(["a"])), clock, WISH)
    assert borrowed.ends_s is not None
    assert before_s + 30 <= borrowed.ends_s <= clock.monotonic_s() + 30
    assert borrowed.plain().load_percent == 71.5


def test_a_booked_turn_brings_the_load_that_the_responder_told() -> None:
    promise = msgspec.structs.replace(granted("a", starts_in_s=1), load_percent=12.0)
    assert borrow(Responders({"a": [promise, None]}, Habits(["a"])), SystemClock(), WISH).load_percent == 12.0
