"""The book of leases: whatever is asked in whatever order, its rules hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from responder.leases import Book, Full, Lent, Refused
from wire.messages import LeaseRequest

PORTS = range(5201, 5206)
MAX_LENGTH_S = 100.0
MAX_TRANSFERS = 3


def request(probe: str = "a", link: str = "l", request_id: str = "1", *, transfers: int = 2, length_s: float = 30.0):  # noqa: ANN201  # evident
    return LeaseRequest(request_id=request_id, probe_id=probe, link=link, transfers=transfers, length_s=length_s)


def book() -> Book:
    return Book(PORTS, max_length_s=MAX_LENGTH_S, max_transfers=MAX_TRANSFERS)


class Borrowing(RuleBasedStateMachine):
    """Probes ask, servers end, time passes, ports turn out to be taken: in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.book = book()
        self.now_s = 0.0
        self.tokens = 0
        self.aside: dict[int, float] = {}

    @rule(
        probe=st.sampled_from("abc"),
        link=st.sampled_from("xy"),
        request_id=st.sampled_from("123"),
        transfers=st.integers(1, 4),
        length_s=st.floats(0.5, 120, allow_nan=False),
    )
    def ask(self, probe: str, link: str, request_id: str, transfers: int, length_s: float) -> None:
        self.book.expire(self.now_s)
        asked = request(probe, link, request_id, transfers=transfers, length_s=length_s)
        held = {(lease.probe_id, lease.link): lease for lease in self.book.leases}
        self.tokens += 1
        match self.book.ask(asked, self.now_s, str(self.tokens)):
            case Lent(lease, fresh, ended):
                assert (lease.probe_id, lease.link, lease.request_id) == (probe, link, request_id)
                assert lease in self.book.leases
                if fresh:
                    assert len(lease.ports) == transfers <= MAX_TRANSFERS
                    assert lease.expires_s == self.now_s + length_s <= self.now_s + MAX_LENGTH_S
                    assert not [port for port in lease.ports if self.aside.get(port, 0) > self.now_s]
                    assert ended == held.get((probe, link))
                else:
                    assert lease == held[probe, link], "a repeated request changed the lease"
            case Full(retry_in_s, ended):
                assert ended == held.get((probe, link))
                self.check_wait(transfers, retry_in_s)
            case Refused():
                assert self.book.leases == tuple(held.values()), "a refusal changed the book"

    def check_wait(self, transfers: int, retry_in_s: float) -> None:
        """At the promised instant enough ports are free, and just before it they are not."""
        assert retry_in_s > 0
        for at_s, enough in ((self.now_s + retry_in_s, True), (self.now_s + retry_in_s * 0.999 - 1e-6, False)):
            taken = {port for lease in self.book.leases if lease.expires_s > at_s for port in lease.ports}
            taken |= {port for port, until_s in self.aside.items() if until_s > at_s}
            assert (len(PORTS) - len(taken) >= transfers) is enough

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.book.leases:
            self.book.end(data.draw(st.sampled_from(self.book.leases)))

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        if self.book.leases:
            lease = data.draw(st.sampled_from(self.book.leases))
            self.book.undo(lease)
            assert lease not in self.book.leases

    @rule(port=st.sampled_from(PORTS), for_s=st.floats(1, 60))
    def find_a_port_taken(self, port: int, for_s: float) -> None:
        self.aside[port] = self.now_s + for_s
        self.book.set_aside(port, self.now_s + for_s)

    @rule(seconds=st.floats(0, 50))
    def let_time_pass(self, seconds: float) -> None:
        self.now_s += seconds
        for lease in self.book.expire(self.now_s):
            assert lease.expires_s <= self.now_s
        assert all(lease.expires_s > self.now_s for lease in self.book.leases)

    @invariant()
    def no_port_is_lent_twice(self) -> None:
        lent = [port for lease in self.book.leases for port in lease.ports]
        assert len(lent) == len(set(lent))
        assert set(lent) <= set(PORTS)

    @invariant()
    def no_link_holds_two_leases(self) -> None:
        links = [(lease.probe_id, lease.link) for lease in self.book.leases]
        assert len(links) == len(set(links))


Borrowing.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBorrowing = Borrowing.TestCase


def test_a_served_request_that_comes_again_late_lends_nothing() -> None:
    lending = book()
    first = lending.ask(request(), 0.0, "t1")
    assert isinstance(first, Lent)
    lending.end(first.lease)

    assert isinstance(lending.ask(request(), 5.0, "t2"), Refused)
    assert lending.leases == ()
    assert isinstance(lending.ask(request(request_id="2"), 5.0, "t3"), Lent)


def test_a_request_that_met_a_full_house_may_be_asked_again() -> None:
    lending = book()
    assert isinstance(lending.ask(request("a", transfers=3), 0.0, "t1"), Lent)
    assert isinstance(lending.ask(request("b", transfers=3), 0.0, "t2"), Full)
    lending.expire(30.0)
    assert isinstance(lending.ask(request("b", transfers=3), 30.0, "t3"), Lent)


def test_a_lease_that_could_not_be_honoured_may_be_asked_for_again() -> None:
    lending = book()
    lent = lending.ask(request(), 0.0, "t1")
    assert isinstance(lent, Lent)
    lending.undo(lent.lease)
    assert isinstance(lending.ask(request(), 0.0, "t2"), Lent)


def test_a_port_that_was_just_lent_is_lent_last() -> None:
    lending = book()
    lent: list[int] = []
    for number in range(5):
        answer = lending.ask(request(request_id=str(number), transfers=1), 0.0, "t")
        assert isinstance(answer, Lent)
        lent += answer.lease.ports
        lending.end(answer.lease)
    assert sorted(lent) == list(PORTS)


def test_a_book_does_not_grow_with_the_requests_it_has_served() -> None:
    lending = book()
    for number in range(1000):
        lending.ask(request(link=f"l{number}", request_id=str(number), length_s=1), float(number), "t")
        lending.expire(float(number))
    lending.expire(10_000.0)
    assert lending.leases == ()
    assert not lending._served
    assert not lending._set_aside
