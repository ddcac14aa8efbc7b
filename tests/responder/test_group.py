"""Responders of one group, without processes: whatever comes when, one cell never carries two tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from base.broker import BrokerSettings
from responder import lender as lending
from responder.group import DEAF_AFTER_S, LOST_AFTER_S, SETTLE_S
from responder.leases import GUARD_S
from responder.lender import Lender
from responder.settings import PerProbe, Ports, Settings
from wire.leases import Busy, Granted, GroupWord, LeaseReply, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from responder.leases import Lease


class Time:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class StubTenancy:
    """A running lease without processes; it is done when the test says so."""

    def __init__(self, lease: Lease, *_: object) -> None:
        self.lease = lease
        self.login = None
        self.clients: tuple[str, ...] = ()
        self.strangers = self.unfinished = 0
        self.done = False

    def tick(self, _now_s: float) -> bool:
        return self.done

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "Tenancy", StubTenancy)
    monkeypatch.setattr(lending, "LOOK_EVERY_S", float("inf"))


def member(name: str, time: Time) -> Lender:
    return Lender(
        Settings(
            responder_id=name,
            broker=BrokerSettings(host="nowhere"),
            advertise_host="127.0.0.1",
            ports=Ports(first=6000, last=6009),
            per_probe=PerProbe(at_once=2, in_an_hour=3600),
            irtt=None,
            authenticate=False,
            group="all",
        ),
        time,
    )


class Topic:
    """The broker: one order for all, but everybody may hear it later than others."""

    def __init__(self) -> None:
        self.time = Time()
        self.words: list[GroupWord] = []
        self.members: dict[str, Lender] = {}
        self.heard: dict[str, int] = {}
        self.replies: list[LeaseReply] = []

    def join(self, name: str) -> Lender:
        self.members[name] = one = member(name, self.time)
        self.heard[name] = len(self.words)
        assert one.group is not None
        one.group.connected(self.time.now_s)
        return one

    def deliver(self, name: str, most: int = 10**6) -> None:
        """Let a member say what it has to say, and hear up to so many words."""
        one = self.members[name]
        assert one.group is not None
        self.words += one.group.take_words()
        for _ in range(most):
            if self.heard[name] >= len(self.words):
                break
            word = self.words[self.heard[name]]
            self.heard[name] += 1
            one.hear(word)
            self.words += one.group.take_words()
        self.replies += [news.reply for news in one.take_news()]

    def deliver_all(self) -> None:
        while any(self.heard[name] < len(self.words) for name in self.members) or self._something_to_say():
            for name in self.members:
                self.deliver(name)

    def _something_to_say(self) -> bool:
        before = len(self.words)
        for one in self.members.values():
            assert one.group is not None
            self.words += one.group.take_words()
        return len(self.words) > before

    def pass_time(self, seconds: float) -> None:
        self.time.now_s += seconds
        for name, one in self.members.items():
            one.tick()
            self.deliver(name)

    def testing(self) -> Iterator[tuple[str, Lease]]:
        """List who really tests: leases with servers."""
        for name, one in self.members.items():
            yield from ((name, tenant.lease) for tenant in one._tenants.values())


def request(probe: str, number: int, *, cell: str | None = "7", window_s: float = 0.0, **more: Any) -> LeaseRequest:  # noqa: ANN401  # any field
    return LeaseRequest(
        request_id=f"{probe}-{number}",
        probe_id=probe,
        link="l",
        transfers=1,
        length_s=30,
        window_s=window_s,
        operator="452-04",
        cell=cell,
        **more,
    )


@pytest.fixture
def topic() -> Topic:
    made = Topic()
    for name in ("a", "b"):
        made.join(name)
    made.deliver_all()
    made.pass_time(SETTLE_S + 0.1)
    return made


def ready(one: Lender, now_s: float) -> bool:
    assert one.group is not None
    return one.group.ready(now_s)


def test_nobody_lends_a_cell_before_the_others_could_say_what_they_hold() -> None:
    topic = Topic()
    one = topic.join("a")
    assert not ready(one, topic.time.now_s + 3600), "its own hello has not come back: the subscription may not stand"
    topic.deliver_all()
    assert not ready(one, topic.time.now_s + SETTLE_S - 0.1)
    assert ready(one, topic.time.now_s + SETTLE_S)
    assert isinstance(one.answer(request("p1", 1)), Busy)
    assert isinstance(one.answer(request("p1", 2, cell=None)), Granted), "no cell, nothing to agree about"
    topic.time.now_s += SETTLE_S
    assert one.answer(request("p2", 1)) is None


def test_who_does_not_hear_his_own_words_notices() -> None:
    topic = Topic()
    one = topic.join("a")
    assert one.group is not None
    assert not one.group.is_deaf(topic.time.now_s + DEAF_AFTER_S - 1)
    assert one.group.is_deaf(topic.time.now_s + DEAF_AFTER_S)
    topic.deliver_all()
    assert not one.group.is_deaf(topic.time.now_s + DEAF_AFTER_S)


def test_a_cell_is_lent_when_the_claim_comes_back_and_is_taken_for_the_others(topic: Topic) -> None:
    assert topic.members["a"].answer(request("p1", 1)) is None
    assert not list(topic.testing())
    topic.deliver_all()
    assert isinstance(topic.replies.pop(), Granted)
    busy = topic.members["b"].answer(request("p2", 1))
    assert isinstance(busy, Busy)
    assert busy.retry_in_s == pytest.approx(30 + GUARD_S, abs=0.1)
    assert topic.members["b"].answer(request("p3", 1, cell="8")) is None, "another cell"
    assert isinstance(topic.members["b"].answer(request("p4", 1, cell=None)), Granted), (
        "no cell, nothing to agree about"
    )


def test_of_two_claims_at_once_the_first_in_the_topic_wins_and_the_other_is_booked_behind_it(topic: Topic) -> None:
    assert topic.members["a"].answer(request("p1", 1)) is None
    assert topic.members["b"].answer(request("p2", 1, window_s=100.0)) is None
    topic.deliver_all()
    now, later = sorted((r for r in topic.replies if isinstance(r, Granted)), key=lambda r: r.starts_in_s)
    assert (now.request_id, later.request_id) == ("p1-1", "p2-1")
    assert later.starts_in_s == pytest.approx(30 + GUARD_S, abs=0.1)
    assert topic.members["b"].counts["claims_lost"] == 1


def test_what_ends_early_lets_the_booking_elsewhere_start_early(topic: Topic) -> None:
    topic.members["a"].answer(request("p1", 1))
    topic.deliver_all()
    topic.members["b"].answer(request("p2", 1, window_s=100.0))
    topic.deliver_all()
    topic.replies.clear()
    (tenant,) = topic.members["a"]._tenants.values()
    tenant.done = True  # type: ignore[attr-defined]  # a stub
    topic.pass_time(5.0)
    topic.deliver_all()
    topic.pass_time(0.1)
    [told] = topic.replies
    assert isinstance(told, Granted)
    assert (told.request_id, told.starts_in_s) == ("p2-1", 0.0)
    topic.members["a"].answer(request("p3", 1, window_s=100.0))
    topic.deliver_all()
    after = topic.replies[-1]
    assert isinstance(after, Granted)
    assert 29 < after.starts_in_s < 33, "behind the one that has started, not behind where it was booked first"


def test_a_link_that_asks_elsewhere_is_not_kept_out_by_itself(topic: Topic) -> None:
    topic.members["a"].answer(request("p1", 1))
    topic.deliver_all()
    topic.members["b"].answer(request("p1", 2))
    topic.deliver_all()
    assert isinstance(topic.replies[-1], Granted)


def test_a_member_that_was_killed_and_comes_again_holds_nothing_any_more(topic: Topic) -> None:
    topic.members["a"].answer(request("p1", 1))
    topic.deliver_all()
    topic.join("a")
    topic.deliver_all()
    assert topic.members["b"].answer(request("p2", 1)) is None
    topic.deliver_all()
    assert isinstance(topic.replies[-1], Granted)


def test_a_member_that_never_comes_again_holds_its_cells_until_its_leases_would_have_ended(topic: Topic) -> None:
    topic.members["a"].answer(request("p1", 1))
    topic.deliver_all()
    del topic.members["a"]
    topic.members["b"].answer(request("p2", 1, window_s=60.0))
    topic.pass_time(20)
    assert not list(topic.testing())
    topic.pass_time(30 + GUARD_S - 20 + 0.1)
    assert [name for name, _ in topic.testing()] == ["b"]


def test_a_newcomer_hears_what_the_others_hold(topic: Topic) -> None:
    topic.members["a"].answer(request("p1", 1))
    topic.deliver_all()
    late = topic.join("c")
    topic.deliver_all()
    topic.pass_time(SETTLE_S + 0.1)
    assert isinstance(late.answer(request("p2", 1)), Busy)


def test_a_newcomer_s_hello_makes_nobody_forget_a_claim_that_is_not_settled_yet(topic: Topic) -> None:
    topic.join("c")
    topic.deliver("c")
    assert topic.members["a"].answer(request("p1", 1)) is None
    topic.deliver("a", 0)  # its claim is in the topic, behind the hello that it has not heard
    assert topic.members["b"].answer(request("p2", 1)) is None
    topic.deliver("a")  # it tells the newcomer what it holds
    topic.deliver_all()
    assert [lease.probe_id for _, lease in topic.testing()] == ["p1"]
    assert topic.members["b"].counts["claims_lost"] == 1


def test_a_claim_that_was_lost_with_the_connection_is_given_up(topic: Topic) -> None:
    one = topic.members["a"]
    assert one.answer(request("p1", 1)) is None
    assert one.group is not None
    one.group.take_words()  # and they never arrive
    topic.time.now_s += LOST_AFTER_S + 0.1
    one.tick()
    assert [lease for lease in one.leases if lease.token not in one._claimed] == []
    assert one.counts["claims_lost"] >= 1


class Crowd(RuleBasedStateMachine):
    """Three responders hear one topic, each as late as it likes; probes ask, tests end, members die."""

    @initialize()
    def begin(self) -> None:
        self.topic = Topic()
        for name in "abc":
            self.topic.join(name)
        self.topic.deliver_all()
        self.topic.pass_time(SETTLE_S + 0.1)
        self.numbers = 0

    @rule(
        name=st.sampled_from("abc"),
        probe=st.sampled_from(["p1", "p2", "p3", "p4", "p5"]),
        cell=st.sampled_from("789"),
        window_s=st.sampled_from([0.0, 40.0, 300.0]),
    )
    def ask(self, name: str, probe: str, cell: str, window_s: float) -> None:
        one = self.topic.members[name]
        holds = {lease.probe_id for _, lease in self.topic.testing()}
        if probe not in holds:  # a probe that tests asks nobody else
            self.numbers += 1
            one.answer(request(probe, self.numbers, cell=cell, window_s=window_s))

    @rule(name=st.sampled_from("abc"), most=st.integers(1, 5))
    def hear(self, name: str, most: int) -> None:
        self.topic.deliver(name, most)

    @rule(data=st.data())
    def end_a_test(self, data: st.DataObject) -> None:
        tenants = [tenant for one in self.topic.members.values() for tenant in one._tenants.values()]
        if tenants:
            data.draw(st.sampled_from(tenants)).done = True  # type: ignore[attr-defined]  # a stub

    @rule(seconds=st.floats(0.05, 0.3))
    def a_moment(self, seconds: float) -> None:
        self.topic.time.now_s += seconds
        for one in self.topic.members.values():
            one.tick()

    @rule(seconds=st.floats(0.5, 40))
    def a_while(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            self.topic.pass_time(0.5)

    @rule(name=st.sampled_from("abc"))
    def kill_and_start(self, name: str) -> None:
        self.topic.join(name)

    @invariant()
    def no_cell_carries_two_tests(self) -> None:
        if hasattr(self, "topic"):
            tests = {
                (lease.cell, lease.link_name) for _, lease in self.topic.testing()
            }  # a link is itself where it asks
            cells = [cell for cell, _ in tests]
            assert len(cells) == len(set(cells)), list(self.topic.testing())


Crowd.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestCrowd(Crowd.TestCase):
    """Run it with the stubs of this module."""

    @pytest.fixture(autouse=True)
    def _stubs(self, _no_processes: None) -> None:
        """Hypothesis' own test case takes no fixtures."""
