"""The ladder as a state machine: a table of scenarios, and what it never does, whatever the modem and the clock do."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.modem import recovery
from agent.modem.recovery import DAY_S, Memory, Moment, RecoveryOptions, Verb
from wire.events import Diagnosis
from wire.reasons import Condition

ALL = RecoveryOptions(rungs=(1, 2, 3, 4, 5, 6))
HOPELESS = [
    Condition.DENIED,
    Condition.SIM_ABSENT,
    Condition.SIM_LOCKED,
    Condition.PORT_HELD,
    Condition.NEEDS_HANDS,
]
YEAR_S = 365 * DAY_S


@dataclass
class World:
    """A machine with hands that the test holds: true time, restarts, and a wall clock that may be wrong."""

    true_s: float = 2_000_000_000.0
    booted_s: float = 2_000_000_000.0 - 10 * DAY_S
    boot: int = 1
    synchronised: bool = True
    wrong_by_s: float = 0.0
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        earlier = Moment(wall_s=self.true_s - 30 * DAY_S, up_s=1.0, boot="boot0", synchronised=True)
        self.memory = Memory(kept_since=earlier)

    @property
    def now(self) -> Moment:
        wall_s = self.true_s + (0.0 if self.synchronised else self.wrong_by_s)
        return Moment(
            wall_s=wall_s, up_s=self.true_s - self.booted_s, boot=f"boot{self.boot}", synchronised=self.synchronised
        )

    def look(
        self,
        condition: Condition,
        options: RecoveryOptions = ALL,
        *,
        link: str = "a",
        testing: bool = False,
    ) -> recovery.Decision:
        """Observe and decide."""
        diagnosis = Diagnosis(condition=condition)
        self.memory = recovery.observe(self.memory, link, diagnosis, self.now)
        return recovery.decide(options, self.memory, link, diagnosis, self.now, testing=testing)

    def act(self, decision: recovery.Decision, after: Condition | None, *, link: str = "a", takes_s: float = 5) -> None:
        """Do the rung; `after` None: cut off in the middle."""
        assert decision.rung is not None
        before = Diagnosis(condition=Condition.NOT_REGISTERED)
        self.memory = recovery.begin(self.memory, link, decision.rung, before, self.now)
        self.true_s += takes_s
        if decision.rung == recovery.HOST_REBOOT:
            self.restart(30)
        if after is not None:
            self.memory = recovery.finish(self.memory, link, Diagnosis(condition=after), self.now)

    def restart(self, off_s: float) -> None:
        self.true_s += off_s
        self.booted_s = self.true_s
        self.boot += 1

    def climb(self, condition: Condition, options: RecoveryOptions, for_s: float) -> list[tuple[int, float]]:
        """Let nothing help for so long; return the rungs and when they were done, from the start."""
        began_s, done = self.true_s, []
        while self.true_s - began_s < for_s:
            decision = self.look(condition, options)
            if decision.verb is Verb.ACT:
                assert decision.rung is not None
                done.append((decision.rung, self.true_s - began_s))
                self.act(decision, condition)
            else:
                assert decision.retry_in_s > 0
                self.true_s += min(decision.retry_in_s, began_s + for_s - self.true_s)
        return done


def test_a_link_that_works_is_left_alone() -> None:
    assert World().look(Condition.HEALTHY).verb is Verb.REST


@pytest.mark.parametrize("condition", HOPELESS)
def test_what_no_reset_cures_is_only_told(condition: Condition) -> None:
    decision = World().look(condition)
    assert (decision.verb, decision.rung) == (Verb.ALERT, None)
    assert decision.why


@pytest.mark.parametrize(
    ("condition", "first"),
    [
        (Condition.NOT_REGISTERED, 1),
        (Condition.NO_ADDRESS, 1),
        (Condition.NO_TRAFFIC, 1),
        (Condition.SILENT, 4),
        (Condition.ABSENT, 5),
    ],
)
def test_the_first_rung_is_the_lowest_that_can_help(condition: Condition, first: int) -> None:
    assert World().climb(condition, ALL, 2 * 3600)[0][0] == first


def test_each_rung_is_tried_once_in_order_before_any_is_tried_again() -> None:
    done = [rung for rung, _ in World().climb(Condition.NOT_REGISTERED, ALL, 2 * 3600)]
    assert done[:6] == [1, 2, 3, 4, 5, 6]


def test_the_higher_the_rung_the_longer_the_trouble_must_last() -> None:
    for rung, at_s in World().climb(Condition.NOT_REGISTERED, ALL, 2 * 3600)[:6]:
        assert at_s >= recovery.TROUBLE_S[rung]


def test_pauses_double_until_they_last_a_day() -> None:
    world = World()
    done = world.climb(Condition.NOT_REGISTERED, RecoveryOptions(rungs=(2,), daily_cap={2: 24}), 10 * DAY_S)
    gaps = [round(later - earlier) for (_, earlier), (_, later) in pairwise(done)]
    assert gaps[:4] == [900, 1800, 3600, 7200]
    assert gaps[-1] == DAY_S


def test_a_rung_that_helped_starts_the_next_trouble_with_its_shortest_pause() -> None:
    world = World()
    world.climb(Condition.NOT_REGISTERED, RecoveryOptions(rungs=(2,)), 4 * 3600)
    assert world.memory.rung("a", 2).fruitless > 2
    world.look(Condition.HEALTHY)
    assert world.memory.rung("a", 2).fruitless == 0
    assert world.memory.link("a").tried == ()
    assert world.memory.rung("a", 2).tries, "but its tries of the day still count"


def test_a_rung_that_cools_down_is_waited_for_and_not_passed_over() -> None:
    world = World()
    world.act(world.look(Condition.NOT_REGISTERED), Condition.HEALTHY)
    world.true_s += 60
    decision = world.look(Condition.NOT_REGISTERED)
    assert (decision.verb, decision.rung) == (Verb.WAIT, None)
    assert decision.retry_in_s == pytest.approx(300 - 65)


def test_a_rung_that_has_used_up_its_day_is_passed_over() -> None:
    world = World()
    options = RecoveryOptions(rungs=(3, 4), daily_cap={3: 1})
    world.true_s += 1
    world.memory = recovery.begin(world.memory, "a", 3, Diagnosis(condition=Condition.SILENT), world.now)
    world.memory = recovery.finish(world.memory, "a", Diagnosis(condition=Condition.HEALTHY), world.now)
    world.true_s += 2 * 3600
    assert world.climb(Condition.NOT_REGISTERED, options, 3600)[0][0] == 4


@pytest.mark.parametrize("synchronised", [True, False])
def test_the_first_minutes_after_a_start_belong_to_the_modem(*, synchronised: bool) -> None:
    world = World(synchronised=synchronised)
    world.restart(0)
    decision = world.look(Condition.NOT_REGISTERED)
    assert decision.verb is Verb.WAIT
    world.true_s += decision.retry_in_s
    assert world.look(Condition.NOT_REGISTERED).verb is Verb.ACT


def test_nothing_is_done_while_a_test_runs() -> None:
    decision = World().look(Condition.NOT_REGISTERED, testing=True)
    assert (decision.verb, decision.why) == (Verb.WAIT, "a test runs")


def test_an_outage_that_other_uplinks_share_is_waited_out() -> None:
    assert World().look(Condition.REMOTE).verb is Verb.WAIT


def test_without_a_rung_allowed_it_only_tells() -> None:
    decision = World().look(Condition.SILENT, RecoveryOptions())
    assert decision.verb is Verb.ALERT
    assert "recovery.rungs" in decision.why


def test_rungs_that_cannot_help_are_not_done_for_want_of_better_ones() -> None:
    assert World().look(Condition.SILENT, RecoveryOptions(rungs=(1, 2, 3))).verb is Verb.ALERT


def test_only_allowed_rungs_are_ever_done() -> None:
    assert {rung for rung, _ in World().climb(Condition.NO_TRAFFIC, RecoveryOptions(rungs=(3, 1)), DAY_S)} == {1, 3}


def test_a_rung_that_was_cut_off_counts_as_tried() -> None:
    world = World()
    world.act(world.look(Condition.NOT_REGISTERED), None)
    assert world.memory.link("a").under_way is not None
    restarted = msgspec.json.decode(msgspec.json.encode(world.memory), type=Memory)
    assert restarted == world.memory
    assert world.look(Condition.NOT_REGISTERED).rung == 2


def test_a_machine_that_cannot_remember_reboots_is_not_rebooted_before_a_day_has_passed() -> None:
    world = World()
    world.restart(0)
    world.memory = Memory(kept_since=world.now)
    only_reboot = RecoveryOptions(rungs=(6,))
    assert [at_s >= DAY_S for _, at_s in world.climb(Condition.ABSENT, only_reboot, 2 * DAY_S)][:1] == [True]


def test_three_reboots_that_did_not_help_are_the_last_until_the_link_has_worked() -> None:
    world = World()
    options = RecoveryOptions(rungs=(6,))
    assert len(world.climb(Condition.ABSENT, options, 30 * DAY_S)) == 3
    world.look(Condition.HEALTHY)
    assert len(world.climb(Condition.ABSENT, options, 30 * DAY_S)) == 3


def test_two_links_share_the_caps_of_the_reboot() -> None:
    world = World()
    options = RecoveryOptions(rungs=(6,))
    world.look(Condition.ABSENT, options, link="b")
    assert len(world.climb(Condition.ABSENT, options, 3601)) == 1
    world.true_s += 7200
    assert world.look(Condition.ABSENT, options, link="b").verb is Verb.WAIT


def test_people_are_told_once_a_day_and_again_after_the_link_has_worked() -> None:
    world = World()
    world.look(Condition.DENIED)
    assert recovery.alert_due(world.memory, "a", Condition.DENIED, world.now)
    world.memory = recovery.alerted(world.memory, "a", Condition.DENIED, world.now)
    world.true_s += 3600
    world.look(Condition.DENIED)
    assert not recovery.alert_due(world.memory, "a", Condition.DENIED, world.now)
    assert recovery.alert_due(world.memory, "a", Condition.SIM_ABSENT, world.now)
    world.look(Condition.HEALTHY)
    assert recovery.alert_due(world.memory, "a", Condition.DENIED, world.now)


@pytest.mark.parametrize("wrong_by_s", [-56 * YEAR_S, -DAY_S, 0.0, 20 * YEAR_S])
def test_a_clock_that_is_not_set_makes_pauses_longer_and_never_shorter(wrong_by_s: float) -> None:
    world = World()
    options = RecoveryOptions(rungs=(3,))
    world.climb(Condition.NOT_REGISTERED, options, 3600)
    world.restart(5)
    world.synchronised, world.wrong_by_s = False, wrong_by_s
    decision = world.look(Condition.NOT_REGISTERED, options)
    world.true_s += decision.retry_in_s
    decision = world.look(Condition.NOT_REGISTERED, options)
    assert decision.verb is Verb.WAIT
    assert decision.retry_in_s > 1800


CONDITIONS = st.sampled_from(list(Condition))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["look", "look", "look", "wait", "restart", "clock"]),
        CONDITIONS,
        st.one_of(st.none(), CONDITIONS),
        st.floats(0, 2 * DAY_S),
        st.booleans(),
    ),
    max_size=80,
)
OPTIONS = st.builds(
    RecoveryOptions,
    rungs=st.lists(st.integers(1, 6), max_size=6).map(tuple),
    cool_down_s=st.dictionaries(st.integers(1, 6), st.integers(60, 7200), max_size=3),
    daily_cap=st.dictionaries(st.integers(1, 6), st.integers(0, 5), max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(options=OPTIONS, steps=STEPS)
def test_it_never_exceeds_a_cap_never_acts_in_a_guarded_state_and_always_ends(
    options: RecoveryOptions, steps: list[tuple[str, Condition, Condition | None, float, bool]]
) -> None:
    world = World()
    world.memory = Memory(kept_since=world.now)
    acts: dict[int, list[float]] = defaultdict(list)
    for what, condition, after, lasts_s, flag in steps:
        if what == "wait":
            world.true_s += lasts_s
        elif what == "restart":
            world.restart(min(lasts_s, 600))
        elif what == "clock":
            world.synchronised, world.wrong_by_s = flag, (lasts_s - DAY_S) * 1000
        else:
            acted = 0
            while (decision := world.look(condition, options, testing=flag)).verb is Verb.ACT:
                assert decision.rung in options.rungs
                assert decision.rung is not None
                assert not flag, "a test runs"
                assert world.now.up_s >= recovery.SETTLED_UPTIME_S
                assert condition not in {*HOPELESS, Condition.HEALTHY, Condition.REMOTE}
                rung = decision.rung
                recent = [at_s for at_s in acts[rung] if world.true_s - at_s < DAY_S]
                assert len(recent) < options.cap(rung), f"rung {rung} at its cap"
                pause_s = options.pause_s(rung, 0)
                assert not acts[rung] or world.true_s - acts[rung][-1] >= pause_s - 1e-3, "still cooling down"
                acts[rung].append(world.true_s)
                world.act(decision, after, takes_s=lasts_s % 300)
                acted += 1
                assert acted <= sum(options.cap(each) for each in set(options.rungs)), "it must end"
            assert decision.retry_in_s > 0
    reboots = acts[recovery.HOST_REBOOT]
    assert (
        len(reboots) <= 3
        or any(condition is Condition.HEALTHY for _, condition, *_ in steps)
        or any(after is Condition.HEALTHY for _, _, after, *_ in steps)
    )
