"""The book of leases: whatever is asked in whatever order, its rules hold."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from responder.leases import OWED_S, Book, Full, Lease, Lent, Limits, Refused
from wire.leases import LeaseRequest

PORTS = range(5201, 5206)
LIMITS = Limits(max_length_s=100.0, max_transfers=3, link_mbps=100.0, default_mbps=20.0, leases_per_hour=10_000)


def request(
    probe: str = "a",
    link: str = "l",
    request_id: str = "1",
    *,
    transfers: int = 2,
    length_s: float = 30.0,
    **more: Any,  # noqa: ANN401  # any field
) -> LeaseRequest:
    return LeaseRequest(
        request_id=request_id, probe_id=probe, link=link, transfers=transfers, length_s=length_s, **more
    )


def book(**changes: Any) -> Book:  # noqa: ANN401  # any limit
    return Book(PORTS, LIMITS._replace(**changes))


class Borrowing(RuleBasedStateMachine):
    """Probes ask, servers end, time passes, ports turn out to be taken: in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.book = book()
        self.now_s = 0.0
        self.tokens = 0
        self.aside: dict[int, float] = {}
        self.promised_s: dict[str, float] = {}
        self.before: dict[str, tuple[object, object, int]] = {}

    @rule(
        probe=st.sampled_from("abcd"),
        link=st.sampled_from("xy"),
        request_id=st.sampled_from("1234"),
        transfers=st.integers(1, 4),
        length_s=st.floats(0.5, 120),
        window_s=st.sampled_from([0.0, 30.0, 300.0, 3600.0]),
        mbps=st.none() | st.floats(1, 200),
        cell=st.none() | st.sampled_from("AB"),
    )
    def ask(  # noqa: PLR0917  # drawn one by one
        self,
        probe: str,
        link: str,
        request_id: str,
        transfers: int,
        length_s: float,
        window_s: float,
        mbps: float | None,
        cell: str | None,
    ) -> None:
        self.book.expire(self.now_s)
        self.book.due(self.now_s)
        more = {"window_s": window_s, "expected_mbps": mbps, "operator": "viettel", "cell": cell}
        asked = request(probe, link, request_id, transfers=transfers, length_s=length_s, **more)
        held = {(lease.probe_id, lease.link): lease for lease in self.book.leases}
        owed = self.book.owed
        before = self.known(probe, link)
        self.tokens += 1
        match self.book.ask(asked, self.now_s, str(self.tokens)):
            case Lent(lease, fresh, ended):
                assert (lease.probe_id, lease.link, lease.request_id) == (probe, link, request_id)
                assert lease in self.book.leases
                if fresh:
                    self.before[lease.token] = before
                    assert len(lease.ports) == transfers <= LIMITS.max_transfers
                    assert abs(lease.length_s - length_s) < 1e-6
                    assert length_s <= LIMITS.max_length_s
                    assert 0 <= lease.starts_s - self.now_s <= window_s
                    assert lease.running == (lease.starts_s == self.now_s)
                    assert not [port for port in lease.ports if self.aside.get(port, 0) > lease.starts_s]
                    assert ended == held.get((probe, link))
                    self.promised_s[lease.token] = lease.starts_s
                else:
                    assert lease == held[probe, link], "a repeated request changed the lease"
            case Full(retry_in_s, ended):
                assert ended == held.get((probe, link))
                assert retry_in_s > window_s or owed > 0, "refused although it fits, and nobody was turned away before"
                assert retry_in_s > 0
            case Refused():
                assert self.book.leases == tuple(held.values()), "a refusal changed the book"

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.book.leases:
            self.book.end(data.draw(st.sampled_from(self.book.leases)))

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        if self.book.leases:
            lease = data.draw(st.sampled_from(self.book.leases))
            lent = len(self.book._lent_at_s[lease.probe_id])
            self.book.undo(lease)
            assert lease not in self.book.leases
            served, turned_away, _ = self.before[lease.token]
            assert self.known(lease.probe_id, lease.link) == (served, turned_away, lent - 1), "it left a trace"
            self.book.undo(lease)
            assert self.known(lease.probe_id, lease.link) == (served, turned_away, lent - 1), "undone twice"

    def known(self, probe: str, link: str) -> tuple[object, object, int]:
        """Tell of a link its last request and how often it was turned away, and of its probe how many leases it had."""
        book = self.book
        return (
            book._served.get((probe, link)),
            book._turned_away.get((probe, link)),
            len(book._lent_at_s.get(probe, ())),
        )

    @rule(port=st.sampled_from(PORTS), for_s=st.floats(1, 60))
    def find_a_port_taken(self, port: int, for_s: float) -> None:
        self.aside[port] = self.now_s + for_s
        self.book.set_aside(port, self.now_s + for_s)

    @rule(data=st.data())
    def find_a_due_lease_s_port_taken(self, data: st.DataObject) -> None:
        running = [lease for lease in self.book.leases if lease.running and lease.expires_s > self.now_s]
        if running:
            lease = data.draw(st.sampled_from(running))
            self.find_a_port_taken(lease.ports[0], 60.0)
            moved = self.book.rebook(lease, self.now_s, within_s=30.0)
            self.promised_s.pop(lease.token, None)
            if moved is not None:
                assert lease.ports[0] not in moved.ports or moved.starts_s >= self.now_s + 60
                self.promised_s[moved.token] = moved.starts_s

    @rule(seconds=st.floats(0, 50))
    def let_time_pass(self, seconds: float) -> None:
        """As the lender does it: often enough that a lease never expires before it was started."""
        goal_s = self.now_s + seconds
        while True:
            self.now_s = min(self.now_s + 0.4, goal_s)
            for lease in self.book.expire(self.now_s):
                assert lease.expires_s <= self.now_s
            for lease in self.book.due(self.now_s):
                assert lease.running
                if lease.token in self.promised_s:
                    assert lease.starts_s <= self.promised_s[lease.token], "a promise was broken"
            if self.now_s >= goal_s:
                break
        assert all(lease.expires_s > self.now_s for lease in self.book.leases)
        assert all(lease.running or lease.starts_s > self.now_s for lease in self.book.leases)

    @invariant()
    def nothing_overlaps_that_must_not(self) -> None:
        leases = self.book.leases
        for moment_s in {lease.starts_s for lease in leases}:
            there = [lease for lease in leases if lease.starts_s <= moment_s < lease.expires_s]
            ports = [port for lease in there for port in lease.ports]
            assert len(ports) == len(set(ports)), "a port is lent twice"
            assert set(ports) <= set(PORTS)
            cells = [lease.cell for lease in there if lease.cell is not None]
            assert len(cells) == len(set(cells)), "a cell carries two tests"
            assert sum(lease.mbps for lease in there) <= LIMITS.link_mbps + 1e-6, "the server's link is oversold"
            for probe in "abcd":
                assert sum(lease.probe_id == probe for lease in there) <= LIMITS.leases_per_probe

    @invariant()
    def no_link_holds_two_leases(self) -> None:
        links = [(lease.probe_id, lease.link) for lease in self.book.leases]
        assert len(links) == len(set(links))


Borrowing.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
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


def test_leases_that_could_not_be_honoured_cost_nothing_of_the_hour() -> None:
    lending = book(leases_per_hour=3)
    for number in range(4):
        lending.undo(lent(lending.ask(request(request_id=str(number)), float(number), str(number))))


def test_whoever_was_turned_away_keeps_its_precedence_if_its_lease_could_not_be_honoured() -> None:
    lending = book()
    first = lent(lending.ask(request("a", transfers=3, length_s=60), 0.0, "t1"))
    assert isinstance(lending.ask(request("b", transfers=3, window_s=50), 0.0, "t2"), Full)
    lending.end(first)
    lending.undo(lent(lending.ask(request("b", request_id="2", transfers=3, window_s=50), 1.0, "t3")))
    assert lending.owed == 1
    lent(lending.ask(request("a", request_id="2", transfers=3, length_s=60), 2.0, "t4"))
    assert isinstance(lending.ask(request("c", transfers=3, window_s=80), 2.0, "t5"), Full), "half of 80 s is too short"


def test_a_lease_that_was_given_another_place_can_still_be_taken_back() -> None:
    lending = book(leases_per_hour=1)
    lease = lent(lending.ask(request(), 0.0, "t1"))
    lending.set_aside(lease.ports[0], 60.0)
    moved = lending.rebook(lease, 0.0, within_s=30.0)
    assert moved is not None
    assert lending.ask(request(request_id="2", link="m"), 0.0, "t2") == Full(3600.0), "it counts while it stands"
    lending.undo(moved)
    assert lent(lending.ask(request(), 0.0, "t3")).running


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
        lending.ask(request("b", link=f"l{number}", request_id=str(number), transfers=3), float(number), "t")
        lending.expire(float(number))
    lending.expire(1000.0 + OWED_S + 3600)
    assert lending.leases == ()
    assert not lending._served
    assert not lending._set_aside
    assert not lending._turned_away
    assert not lending._lent_at_s
    assert not lending._before


def lent(answer: object) -> Lease:
    assert isinstance(answer, Lent), answer
    return answer.lease


def test_a_full_house_books_the_next_slot_inside_the_window_instead_of_refusing() -> None:
    lending = book()
    lent(lending.ask(request("a", transfers=3, length_s=40), 0.0, "t1"))
    later = lent(lending.ask(request("b", transfers=3, length_s=30, window_s=60), 10.0, "t2"))
    assert (later.running, later.starts_s, later.expires_s) == (False, 40.0, 70.0)
    assert isinstance(lending.ask(request("c", transfers=3, window_s=50), 10.0, "t3"), Full), "70 s is 60 s away"


def test_a_booking_starts_as_soon_as_others_end_early() -> None:
    lending = book()
    first = lent(lending.ask(request("a", transfers=3, length_s=90), 0.0, "t1"))
    booked = lent(lending.ask(request("b", transfers=3, length_s=30, window_s=200), 0.0, "t2"))
    assert lending.due(14.0) == []
    lending.end(first)
    [started] = lending.due(14.0)
    assert started.token == booked.token
    assert (started.running, started.starts_s, started.expires_s) == (True, 14.0, 44.0)


def test_those_who_asked_first_start_first() -> None:
    lending = book()
    first = lent(lending.ask(request("a", transfers=3, length_s=90), 0.0, "t1"))
    for probe in "bcd":
        lent(lending.ask(request(probe, transfers=3, length_s=90, window_s=600), 0.0, probe))
    lending.end(first)
    order = []
    for now_s in range(1, 60):
        for lease in lending.due(float(now_s)):
            order.append(lease.probe_id)
            lending.end(lease)
    assert order == ["b", "c", "d"]


def test_two_probes_in_one_cell_of_one_operator_never_test_together() -> None:
    lending = book()
    here = {"operator": "452-04", "cell": "4660"}
    lent(lending.ask(request("a", transfers=1, **here), 0.0, "t1"))
    assert isinstance(lending.ask(request("b", transfers=1, **here), 0.0, "t2"), Full)
    assert lent(lending.ask(request("b", request_id="2", transfers=1, window_s=60, **here), 0.0, "t3")).starts_s == 30.0
    other = {**here, "operator": "452-01"}
    assert lent(lending.ask(request("c", transfers=1, **other), 0.0, "t4")).running
    assert lent(lending.ask(request("d", transfers=1), 0.0, "t5")).running, "an unknown cell excludes nobody"


def test_what_the_links_ask_never_exceeds_what_the_server_has() -> None:
    lending = book()
    lent(lending.ask(request("a", transfers=1, expected_mbps=80), 0.0, "t1"))
    assert lent(lending.ask(request("b", transfers=1), 0.0, "t2")).mbps == 20.0, "unknown: the default"
    assert lent(lending.ask(request("c", transfers=1, expected_mbps=1, window_s=60), 0.0, "t3")).starts_s == 30.0
    alone = lent(lending.ask(request("d", transfers=1, expected_mbps=5000, window_s=600), 0.0, "t4"))
    assert alone.mbps == 100.0, "more than the link has is tested alone, not never"
    assert alone.starts_s == 60.0


def test_a_probe_gets_no_more_leases_at_once_and_in_an_hour_than_it_may() -> None:
    lending = book(leases_per_probe=1, leases_per_hour=3)
    lent(lending.ask(request("a", "x", transfers=1), 0.0, "t1"))
    assert lent(lending.ask(request("a", "y", transfers=1, window_s=60), 0.0, "t2")).starts_s == 30.0
    lent(lending.ask(request("a", "z", transfers=1, window_s=600), 10.0, "t3"))
    full = lending.ask(request("a", "w", transfers=1, window_s=600), 20.0, "t4")
    assert full == Full(3580.0)
    assert lending.owed == 0, "it had its share: nothing is owed to it"
    lent(lending.ask(request("b", "x", transfers=1), 20.0, "t5"))


def test_whoever_was_turned_away_goes_before_whoever_was_not() -> None:
    lending = book()
    lent(lending.ask(request("a", transfers=3, length_s=60), 0.0, "t1"))
    assert isinstance(lending.ask(request("b", transfers=3, window_s=50), 0.0, "t2"), Full)
    assert isinstance(lending.ask(request("c", transfers=3, window_s=80), 0.0, "t3"), Full), "half of 80 s is too short"
    assert lent(lending.ask(request("b", request_id="2", transfers=3, window_s=80), 0.0, "t4")).starts_s == 60.0


def test_who_only_asks_whether_it_is_free_now_is_owed_nothing() -> None:
    lending = book()
    lent(lending.ask(request("a", transfers=3, length_s=60), 0.0, "t1"))
    assert isinstance(lending.ask(request("b", transfers=3), 0.0, "t2"), Full)
    assert lending.owed == 0
    assert lent(lending.ask(request("c", transfers=3, window_s=80), 0.0, "t3")).starts_s == 60.0


@pytest.mark.parametrize("seed", range(4))
def test_nobody_starves_however_crowded_it_is(seed: int) -> None:
    """Sixty links want more than there is, for six hours, and one of them asks nine times as often as the others."""
    dice = random.Random(seed)
    lending = book(leases_per_hour=6)
    served = dict.fromkeys(range(60), 0)
    worst_wait_s = 0.0
    asks_at_s = {link: dice.uniform(0, 120) for link in served}
    wanted_since_s: dict[int, float] = {}
    ends: list[tuple[float, Lease]] = []
    now_s, numbers = 0.0, 0
    while now_s < 6 * 3600:
        now_s += 1.0
        lending.expire(now_s)
        for end_s, lease in [one for one in ends if one[0] <= now_s]:
            ends.remove((end_s, lease))
            lending.end(lease)
        for lease in lending.due(now_s):
            begin(lease, now_s, ends, dice)
        for link in [link for link, at_s in asks_at_s.items() if at_s <= now_s]:
            asks_at_s[link] = now_s + dice.uniform(0.5, 1.5) * (180.0 if link else 20.0)
            if any(lease.probe_id == f"p{link}" for lease in lending.leases):
                continue
            numbers += 1
            wanted_since_s.setdefault(link, now_s)
            asked = request(f"p{link}", request_id=str(numbers), transfers=2, length_s=45, window_s=300.0)
            answer = lending.ask(asked, now_s, str(numbers))
            if isinstance(answer, Lent):
                served[link] += 1
                wait_s = answer.lease.starts_s - wanted_since_s.pop(link)
                worst_wait_s = max(worst_wait_s, wait_s if link else 0.0)
                if answer.lease.running:
                    begin(answer.lease, now_s, ends, dice)
    modest = [count for link, count in served.items() if link]
    assert min(modest) >= 0.6 * sum(modest) / len(modest), served
    assert 0 < served[0] <= 6 * 6, "the hourly limit holds the greedy one back"
    assert worst_wait_s < 3600, "with a turn every quarter of an hour on average"


def begin(lease: Lease, now_s: float, ends: list[tuple[float, Lease]], dice: random.Random) -> None:
    ends.append((now_s + dice.uniform(12, 45), lease))
