"""The planner: within the budget, fair to every hour and weekday, the same answer for the same books."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import run_cost
from agent.plan import Claim, Spent, day_begins, limit_bytes, plan_day, plan_month, zone_of
from agent.planner import TURN_S, Visit, Wish, next_of_day, period_s, plan_of_day
from agent.settings import Plan, Share

LIGHT = Wish("light", 8, 6.0, upload=True)
REFERENCE = Wish("reference", 4, 10.0, upload=True)
GB = 1000
NAMES = ("lc-tan-phong-1", "viettel")
JUNE = [date(2026, 6, 1) + timedelta(days=number) for number in range(30)]


class Month:
    """A SIM through its days, as the agent lives them; a light run moves `run_mb` down and a quarter of that up.

    Longer ones move more. A run that cannot be paid for is not begun; one that takes more than is left is cut short.
    """

    def __init__(
        self,
        plan: Plan,
        wishes: tuple[Wish, ...] = (LIGHT,),
        *,
        run_mb: float = 32,
        probe: str = "p1",
        share: Share | None = None,
        dark: frozenset[int] = frozenset(),
    ) -> None:
        self.share = share
        self.dark = dark
        self.plan, self.wishes, self.probe, self.run_mb = plan, wishes, probe, run_mb
        self.visits: list[Visit] = []
        self.spent: Counter[date] = Counter()
        self.instants: list[float] = []
        self.worst_overrun = 0

    def books(self, day: date) -> Spent:
        month_began = plan_month(self.plan, day)[0]
        before = [(one, count) for one, count in sorted(self.spent.items()) if month_began <= one < day]
        month_bytes = self.spent[day] + sum(count for _, count in before)
        return Spent(self.spent[day], month_bytes, tuple((one.isoformat(), count) for one, count in before))

    def live(self, day: date, *, plan: Plan | None = None, telemetry_mb: float = 0) -> None:
        """Make the day's runs as far as the plan leaves room; a run is stopped when the room is used up."""
        self.plan = plan or self.plan
        begins = day_begins(self.plan, day)
        self.spent[day] += int(telemetry_mb * 1e6)
        now_s = begins.timestamp()
        while True:
            plan_now = plan_of_day(
                (self.probe, "viettel"),
                self.plan,
                day,
                wishes=self.wishes,
                spent=self.books(day),
                visits=self.visits,
                share=self.share,
            )
            over = {(visit.job, visit.slot) for visit in self.visits if visit.day == day}
            run = next_of_day(plan_now, over, now_s=now_s, since_s=begins.timestamp())
            if run is None:
                return
            now_s = max(now_s, run.at_s)
            if run.hour in self.dark:
                self.visits.append(Visit(run.job, day, run.slot, run.hour, run.upload, None, made=False))
                continue
            left = self._left(day)
            wish = next(wish for wish in self.wishes if wish.job == run.job)
            if left is not None and left < run_cost.expect(wish, self.visits, day, upload=False, room_bytes=left):
                self.visits.append(Visit(run.job, day, run.slot, run.hour, run.upload, None))
                continue
            length = (wish.length_s + 0.4) / (LIGHT.length_s + 0.4)
            wants = int(self.run_mb * length * 1e6 * (1.25 if run.upload else 1))
            moved = wants if left is None else min(wants, left)
            if moved == wants:
                self.instants.append(now_s)
            cut_short = moved < wants
            self.visits.append(Visit(run.job, day, run.slot, run.hour, run.upload, wants, cut_short=cut_short))
            self.spent[day] += moved
            now_s += 30
            overrun = -(self._left(day, strict=True) or 0)
            self.worst_overrun = max(self.worst_overrun, overrun)

    def _left(self, day: date, *, strict: bool = False) -> int | None:
        spent = self.books(day)
        rooms = [
            limit_bytes(self.plan, quota, Claim.SCHEDULE) - used
            for quota, used in (
                (self.plan.quota_day_mb, spent.day_bytes),
                (self.plan.quota_month_mb, spent.month_bytes),
            )
            if quota is not None
        ]
        return (min(rooms) if strict else max(0, min(rooms))) if rooms else None

    def hours(self) -> Counter[int]:
        return Counter(datetime.fromtimestamp(at_s, zone_of(self.plan)).hour for at_s in self.instants)

    def weekdays(self) -> Counter[int]:
        return Counter(plan_day(self.plan, datetime.fromtimestamp(at_s, UTC)).weekday() for at_s in self.instants)


def test_with_a_plan_that_is_large_enough_every_wish_is_met() -> None:
    month = Month(Plan(quota_month_mb=60 * GB), (LIGHT, REFERENCE))
    for day in JUNE:
        month.live(day)
    assert len(month.instants) == 30 * 12
    assert min(month.hours()[hour] for hour in range(24)) >= 10
    assert max(Counter((visit.job, visit.day, visit.slot) for visit in month.visits).values()) == 1


@given(probe=st.text("abcdef0123456789", min_size=1, max_size=8), day=st.dates(date(2024, 1, 1), date(2030, 1, 1)))
def test_there_is_one_run_in_every_slot_and_it_is_the_same_after_a_restart(probe: str, day: date) -> None:
    plan = plan_of_day((probe, "v"), Plan(), day, wishes=[LIGHT], spent=Spent(0, 0), visits=[])
    begins_s = plan.begins.timestamp()
    assert [int((run.at_s - begins_s) // 10_800) for run in plan.runs] == list(range(8))
    assert plan == plan_of_day((probe, "v"), Plan(), day, wishes=[LIGHT], spent=Spent(0, 0), visits=[])


def test_probes_spread_over_the_slot() -> None:
    plans = [
        plan_of_day((f"p{number}", "v"), Plan(), JUNE[0], wishes=[LIGHT], spent=Spent(0, 0), visits=[])
        for number in range(3000)
    ]
    quarters = Counter(int((plan.runs[0].at_s - plan.begins.timestamp()) // 2700) for plan in plans)
    assert all(650 <= quarters[quarter] <= 850 for quarter in range(4))  # binomial: 750 expected, sd 24


def test_when_short_uploads_go_first_then_the_shorter_job_and_never_a_whole_hour() -> None:
    def lost(quota_mb: int) -> dict[str, tuple[int, int]]:
        plan = Plan(quota_month_mb=quota_mb, overhead_percent=0, telemetry_percent=0, by_hand_percent=0)
        day = plan_of_day(NAMES, plan, JUNE[0], wishes=[LIGHT, REFERENCE], spent=Spent(0, 0), visits=[])
        return {one.job: (one.runs, one.uploads) for one in day.dropped}

    full_mb = 30 * (8 * LIGHT.usual_bytes(upload=True) + 4 * REFERENCE.usual_bytes(upload=True)) / 1e6
    down_mb = 30 * (8 * LIGHT.usual_bytes(upload=False) + 4 * REFERENCE.usual_bytes(upload=False)) / 1e6
    assert lost(int(full_mb) + 1) == {}
    some = lost(int((full_mb + down_mb) / 2))
    assert all(runs == 0 and uploads > 0 for runs, uploads in some.values())
    fewer = lost(int(down_mb * 0.7))
    assert fewer["light"][0] > 0
    assert fewer["reference"][0] == 0
    least = lost(int(down_mb * 0.2))
    assert least["light"][0] == 8
    assert 0 < least["reference"][0] < 4


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.16, 1.1), probe=st.text("abcdef0123456789", min_size=1, max_size=8), run_mb=st.floats(15, 150))
def test_no_hour_and_no_weekday_is_starved_and_the_quota_holds(share: float, probe: str, run_mb: float) -> None:
    wanted_mb = 30 * 8 * run_mb * 1.25
    month = Month(Plan(quota_month_mb=max(1, int(wanted_mb * share))), run_mb=run_mb, probe=probe)
    for day in JUNE:
        month.live(day)
    assert month.worst_overrun <= 0
    made = len(month.instants)
    assert made >= 0.75 * min(240, 240 * share * 0.87)
    assert set(month.weekdays()) == set(range(7))
    slots = Counter(visit.slot for visit in month.visits)
    assert set(slots) == set(range(8))
    assert max(slots.values()) - min(slots.values()) <= 3, "the strata of the day are thinned alike"
    cut_short = len(month.visits) - made
    assert len(month.hours()) >= min(24, made - cut_short)


@settings(max_examples=40, deadline=None)
@given(
    runs=st.integers(31, 200),
    wishes=st.sampled_from([(LIGHT,), (LIGHT, REFERENCE), (Wish("hourly", 18, 6.0, upload=True),), (REFERENCE,)]),
    plan=st.sampled_from([Plan(), Plan(reset_at="05:45"), Plan(reset_day=9, time_zone="Europe/Berlin")]),
    share=st.sampled_from([None, Share(place=17, of=300, room=4), Share(place=3, of=40, room=2)]),
    dark=st.sampled_from([frozenset[int](), frozenset({3}), frozenset(range(18, 24)) | frozenset(range(6))]),
    probe=st.text("abcdef0123456789", min_size=1, max_size=8),
)
def test_a_month_with_a_run_a_day_has_every_hour_at_which_the_probe_has_power(
    *, runs: int, wishes: tuple[Wish, ...], plan: Plan, share: Share | None, dark: frozenset[int], probe: str
) -> None:
    """Whatever asks for the runs: jobs that are thinned share the hours, and none waits for one that never comes."""
    longest = max(wish.length_s + 0.4 for wish in wishes) / (LIGHT.length_s + 0.4)
    enough_mb = int(runs * 32 * longest * 1.05 / 0.87)
    month = Month(msgspec.structs.replace(plan, quota_month_mb=enough_mb), wishes, probe=probe, share=share, dark=dark)
    for day in JUNE if plan.reset_day == 1 else [date(2026, 6, 9) + timedelta(days=number) for number in range(30)]:
        month.live(day)
    lit = [month.hours()[hour] for hour in range(24) if hour not in dark]
    assert min(lit) >= 1 or len(month.instants) < 30
    assert max(lit) - min(lit) <= (4 if share is None else 8), "a link in its place has few turns in an hour"
    assert len(month.instants) >= 0.8 * len(lit) / 24 * min(runs, 30 * sum(wish.runs_per_day for wish in wishes))


@settings(max_examples=20, deadline=None)
@given(
    quota=st.integers(50, 700),
    run_mb=st.floats(15, 120),
    wishes=st.sampled_from([(LIGHT,), (LIGHT, REFERENCE), (LIGHT, Wish("long", 8, 30.0, upload=False)), (REFERENCE,)]),
    telemetry_mb=st.floats(0, 12),
    probe=st.text("abcdef0123456789", min_size=1, max_size=8),
)
def test_a_day_that_is_held_to_its_quota_has_a_run_wherever_the_shortest_one_can_be_paid_for(
    *, quota: int, run_mb: float, wishes: tuple[Wish, ...], telemetry_mb: float, probe: str
) -> None:
    """Also on a link that is much faster than was guessed, and where the longer job would never come to its end."""
    plan = Plan(quota_day_mb=quota)
    month = Month(plan, wishes, run_mb=run_mb, probe=probe)
    for day in JUNE:
        month.live(day, telemetry_mb=telemetry_mb)
    assert month.worst_overrun <= telemetry_mb * 1e6
    cut_short = sum(visit.cut_short for visit in month.visits)
    assert cut_short <= 3 * len(wishes), "what does not fit is found out at once, and tried again now and then"
    short_mb = run_mb * (min(wish.length_s for wish in wishes) + 0.4) / (LIGHT.length_s + 0.4)
    room_mb = limit_bytes(plan, quota, Claim.SCHEDULE) / 1e6 - max(telemetry_mb, 0.02 * quota)
    if short_mb > 0.99 * room_mb:
        return
    days_with_one = {plan_day(plan, datetime.fromtimestamp(at_s, UTC)) for at_s in month.instants}
    assert len(days_with_one) >= 24
    assert set(month.weekdays()) == set(range(7))
    made = len(month.instants)
    assert len(month.hours()) >= (24 if made >= 30 else 0.85 * min(24, made))


def test_a_run_that_was_cut_short_tells_what_its_like_cost_for_ten_days() -> None:
    plan = Plan(quota_day_mb=200)
    fast = [Visit("light", JUNE[0], 3, 10, upload=False, run_bytes=190_000_000, cut_short=True)]

    def runs(day: date) -> int:
        return len(plan_of_day(NAMES, plan, day, wishes=[LIGHT], spent=Spent(0, 0), visits=fast).runs)

    assert [runs(day) for day in JUNE[1:12]] == [0] * 9 + [4] * 2


def test_what_does_not_buy_a_long_run_buys_a_shorter_one() -> None:
    visits = [
        Visit("light", JUNE[0], 0, 0, upload=False, run_bytes=105_000_000),
        Visit("reference", JUNE[0], 0, 0, upload=False, run_bytes=190_000_000),
    ]
    day = plan_of_day(
        NAMES, Plan(quota_day_mb=200), JUNE[1], wishes=[REFERENCE, LIGHT], spent=Spent(0, 0), visits=visits
    )
    assert [run.job for run in day.runs] == ["light"]


def test_what_crosses_the_link_beside_the_tests_is_left_to_it() -> None:
    """Else the day's last run is planned every day, and never begun."""
    visits = [Visit("light", day, 0, 0, upload=False, run_bytes=85_000_000) for day in JUNE[:9] for _ in range(2)]
    plan = Plan(quota_day_mb=200, by_hand_percent=0)

    def runs(other_mb: int) -> int:
        before = tuple((one.isoformat(), (170 + other_mb) * 1_000_000) for one in JUNE[:9])
        spent = Spent(0, sum(count for _, count in before), before)
        return len(plan_of_day(NAMES, plan, JUNE[9], wishes=[LIGHT], spent=spent, visits=visits).runs)

    assert (runs(1), runs(40)) == (2, 1)


def test_one_day_of_something_else_does_not_end_the_tests_of_those_that_follow() -> None:
    """A system that updates itself, or a reset that looked like a wrap of the counter."""
    visits = [Visit("light", JUNE[0], 0, 0, upload=False, run_bytes=46_000_000) for _ in range(8)]
    plan, update_bytes = Plan(quota_day_mb=1000), 4_300_000_000
    spent = Spent(0, update_bytes, (("2026-06-01", update_bytes), ("2026-06-02", 370_000_000)))
    days = [plan_of_day(NAMES, plan, day, wishes=[LIGHT], spent=spent, visits=visits) for day in JUNE[1:6]]
    assert [len(day.runs) for day in days] == [8] * 5
    assert all(0 < day.beside_bytes <= (day.allowance_bytes or 0) / 2 for day in days)


@settings(max_examples=25, deadline=None)
@given(
    quota=st.integers(500, 40_000),
    at=st.integers(1, 29),
    run_mb=st.floats(5, 200),
    telemetry_mb=st.floats(0, 20),
    probe=st.text("abcdef", min_size=1, max_size=4),
)
def test_a_quota_that_halves_in_mid_month_is_not_passed_by_tests(
    quota: int, at: int, run_mb: float, telemetry_mb: float, probe: str
) -> None:
    month = Month(Plan(quota_month_mb=quota), run_mb=run_mb, probe=probe)
    for day in JUNE[:at]:
        month.live(day, telemetry_mb=telemetry_mb)
    assert month.worst_overrun <= max(0, int(at * telemetry_mb * 1e6))
    spent_before = month.books(JUNE[at]).month_bytes
    halved = Plan(quota_month_mb=max(1, quota // 2))
    for day in JUNE[at:]:
        month.live(day, plan=halved, telemetry_mb=telemetry_mb)
    spent = month.books(JUNE[-1]).month_bytes
    own = (30 - at) * telemetry_mb * 1e6
    assert spent <= max(spent_before, limit_bytes(halved, halved.quota_month_mb or 0, Claim.SCHEDULE)) + own + 30


@settings(max_examples=15, deadline=None)
@given(
    first=st.integers(2, 19),
    days=st.integers(1, 9),
    quota=st.integers(4 * GB, 8 * GB),
    probe=st.text("abc", min_size=1),
)
def test_what_a_probe_saved_while_it_was_off_is_spread_over_the_days_that_are_left(
    first: int, days: int, quota: int, probe: str
) -> None:
    month = Month(Plan(quota_month_mb=quota), probe=probe)
    for day in [*JUNE[:first], *JUNE[first + days :]]:
        month.live(day)
    before = Counter(visit.day for visit in month.visits if visit.day < JUNE[first])
    after = Counter(visit.day for visit in month.visits if visit.day >= JUNE[first + days])
    assert sum(after.values()) / (30 - first - days) >= sum(before.values()) / first - 1, "what was saved is spent"
    assert max(after.values()) <= 8, "nothing bunches"
    assert max(after.values()) - min(after.values()) <= 3, "and it is spread"
    assert month.worst_overrun <= 0
    assert set(month.weekdays()) == set(range(7))


@settings(max_examples=12, deadline=None)
@given(
    reset_day=st.integers(1, 31),
    reset_at=st.sampled_from(["00:00", "07:00", "23:30"]),
    quota=st.integers(2 * GB, 6 * GB),
    probe=st.text("abc", min_size=1),
)
def test_at_the_edge_of_the_month_the_new_budget_begins(reset_day: int, reset_at: str, quota: int, probe: str) -> None:
    plan = Plan(quota_month_mb=quota, reset_day=reset_day, reset_at=reset_at)
    month = Month(plan, probe=probe)
    first, second = plan_month(plan, date(2026, 6, 15))
    third = plan_month(plan, second)[1]
    for number in range((third - first).days):
        month.live(first + timedelta(days=number))
    made = [
        sum(first_ <= visit.day < end for visit in month.visits) for first_, end in ((first, second), (second, third))
    ]
    assert made[1] == pytest.approx(made[0], rel=0.15), "no month lives on what the other one left or owes"
    assert month.worst_overrun <= 0


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_a_day_on_which_clocks_change_has_all_its_runs_once(day: date, hours: int) -> None:
    plan = Plan(time_zone="Europe/Berlin")
    found = plan_of_day(NAMES, plan, day, wishes=[LIGHT], spent=Spent(0, 0), visits=[])
    assert (found.ends - found.begins) == timedelta(hours=hours)
    assert len(found.runs) == 8
    assert all(found.begins.timestamp() <= run.at_s < run.until_s <= found.ends.timestamp() for run in found.runs)
    gaps = [later.at_s - earlier.at_s for earlier, later in zip(found.runs, found.runs[1:], strict=False)]
    assert min(gaps) > 0


@given(steps=st.lists(st.floats(-200_000, 200_000), min_size=1, max_size=12), runs=st.integers(1, 24))
def test_a_clock_that_is_set_either_way_repeats_no_run(steps: list[float], runs: int) -> None:
    wish = Wish("light", runs, 6.0, upload=False)
    plan, visits = Plan(quota_month_mb=100 * GB), list[Visit]()
    now_s = since_s = datetime(2026, 6, 15, tzinfo=UTC).timestamp()
    for step_s in steps:
        day = plan_day(plan, datetime.fromtimestamp(now_s, UTC))
        found = plan_of_day(NAMES, plan, day, wishes=[wish], spent=Spent(0, 0), visits=visits)
        made = [(visit.job, visit.slot) for visit in visits if visit.day == day]
        run = next_of_day(found, made, now_s=now_s, since_s=since_s)
        if run is not None:
            assert run.at_s >= since_s
            assert (run.job, run.slot) not in made
            visits.append(Visit(run.job, day, run.slot, run.hour, run.upload, None))
            now_s = max(now_s, run.at_s)
        now_s += step_s
        since_s = now_s
    assert len({(visit.day, visit.slot) for visit in visits}) == len(visits)


@settings(max_examples=30, deadline=None)
@given(
    of=st.integers(2, 300),
    room=st.integers(1, 8),
    wishes=st.sampled_from([(LIGHT,), (LIGHT, REFERENCE), (Wish("hourly", 20, 6.0, upload=True),)]),
    reset_at=st.sampled_from(["00:00", "07:00", "05:45"]),
    seed=st.integers(0, 10**6),
    day=st.dates(date(2024, 1, 1), date(2030, 1, 1)),
)
def test_no_two_links_of_one_group_have_the_same_turn_unless_it_has_room(
    *, of: int, room: int, wishes: tuple[Wish, ...], reset_at: str, seed: int, day: date
) -> None:
    """Whatever each has behind it: jobs of all kinds, other plan days, months that were thinned."""
    assert of <= room * period_s(Share(place=0, of=of, room=room)) / TURN_S, (
        "a turn belongs to more links than may have it"
    )
    dice = random.Random(seed)
    begun: Counter[int] = Counter()
    alone = Counter[int]()
    for place in range(of):
        share = Share(place=place, of=of, room=room)
        visits = [
            Visit(wish.job, day - timedelta(days=1), slot, dice.randrange(24), upload=True, run_bytes=None)
            for wish in wishes
            for slot in range(wish.runs_per_day)
            if dice.random() < 0.5
        ]
        plan = Plan(reset_at=dice.choice([reset_at, "00:00"]), quota_month_mb=dice.choice([None, 20 * GB]))
        found = plan_of_day((f"p{place}", "v"), plan, day, wishes=wishes, spent=Spent(0, 0), visits=visits, share=share)
        most = sum(wish.runs_per_day for wish in wishes)
        if period_s(share) * 1.5 > 86_400 / most:
            continue  # more tests than there are turns: no plan can help, the lease decides
        for run in found.runs:
            turn, rest_s = divmod(run.at_s, TURN_S)
            assert rest_s == 0, "not at a turn"
            assert run.at_s < run.until_s
            begun[int(turn)] += 1
            alone[hash((place, int(turn)))] += 1
            assert run.hour == datetime.fromtimestamp(run.at_s, zone_of(plan)).hour
    assert max(begun.values(), default=0) <= room
    assert max(alone.values(), default=0) <= 1, "one link, two tests in one turn"


def test_a_run_that_missed_its_turn_waits_for_the_link_s_next_one() -> None:
    share = Share(place=17, of=300, room=10)
    plan = plan_of_day(NAMES, Plan(), JUNE[0], wishes=[LIGHT], spent=Spent(0, 0), visits=[], share=share)
    first, begins_s = plan.runs[0], plan.begins.timestamp()
    for late_s, wanted_s in ((5, first.at_s), (40, first.at_s + period_s(share))):
        due = next_of_day(plan, [], now_s=first.at_s + late_s, since_s=begins_s, share=share)
        assert due is not None
        if wanted_s < first.until_s:
            assert (due.slot, due.at_s) == (0, wanted_s)


def test_a_link_s_turns_wander_through_the_hour() -> None:
    month = Month(Plan(), (LIGHT,), share=Share(place=17, of=320, room=4))
    for day in JUNE:
        month.live(day)
    assert len(month.instants) == 240
    minutes = Counter(int(at_s % 3600 // 600) for at_s in month.instants)
    assert all(25 <= minutes[tenth] <= 60 for tenth in range(6)), minutes
    assert min(month.hours()[hour] for hour in range(24)) >= 6


def test_a_run_costs_what_the_last_ones_cost() -> None:
    visits = [Visit("light", JUNE[0], slot, 0, upload=True, run_bytes=80_000_000) for slot in range(8)]
    plan = Plan(quota_month_mb=3 * GB, overhead_percent=0, telemetry_percent=0, by_hand_percent=0)
    day = plan_of_day(NAMES, plan, JUNE[1], wishes=[LIGHT], spent=Spent(0, 640_000_000), visits=visits)
    down = 80_000_000 * LIGHT.usual_bytes(upload=False) / LIGHT.usual_bytes(upload=True)
    assert all(run.run_bytes == pytest.approx(down, abs=1) for run in day.runs)
    assert len(day.runs) in {int(day.allowance_bytes // down), int(day.allowance_bytes // down) + 1}  # type: ignore[operator]  # has a quota
