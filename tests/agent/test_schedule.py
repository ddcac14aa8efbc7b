"""The schedule: one run per slot, spread, repeated by nothing: not a restart, not a clock that is set."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent.schedule import Periodic, instant_s, next_run

EPOCH_S = 1_780_000_000.0
names = st.text("abcdefgh-0123456789", min_size=1, max_size=12)


@given(probe=names, job=names, link=names, every_s=st.integers(5, 86_400), slot=st.integers(0, 10**8))
def test_the_instant_lies_in_its_slot(probe: str, job: str, link: str, every_s: int, slot: int) -> None:
    at_s = instant_s(probe, Periodic(job, link, every_s), slot)
    assert slot * every_s <= at_s <= (slot + 1) * every_s
    assert at_s == instant_s(probe, Periodic(job, link, every_s), slot)


def _simulate(
    probe: str, work: list[Periodic], *, start_s: float, hours: float, busy_s: float
) -> list[tuple[str, int]]:
    """Work through the schedule as the service does; each run takes `busy_s`; the agent restarts after every fifth."""
    done: dict[tuple[str, str], int] = {}
    made: list[tuple[str, int]] = []
    now_s = since_s = start_s
    while now_s < start_s + hours * 3600:
        due = next_run(probe, work, done, now_s=now_s, since_s=since_s)
        now_s = max(now_s, due.at_s)
        done[due.job, due.link] = due.slot
        made.append((due.job, due.slot))
        now_s += busy_s
        if len(made) % 5 == 0:
            since_s = now_s
    return made


@given(probe=names, start_s=st.floats(EPOCH_S, EPOCH_S + 10**7), busy_s=st.floats(0.1, 40))
def test_a_restart_repeats_no_slot(probe: str, start_s: float, busy_s: float) -> None:
    work = [Periodic("light", "viettel", 3600), Periodic("ping", "viettel", 900), Periodic("radio", "viettel", 60)]
    made = _simulate(probe, work, start_s=start_s, hours=6, busy_s=busy_s)
    assert max(Counter(made).values()) == 1


@given(probe=names, start_s=st.floats(EPOCH_S, EPOCH_S + 10**7))
def test_every_slot_is_run_while_the_agent_stays_up(probe: str, start_s: float) -> None:
    what = Periodic("light", "viettel", 3600)
    done: dict[tuple[str, str], int] = {}
    slots = []
    now_s = start_s
    for _ in range(48):
        due = next_run(probe, [what], done, now_s=now_s, since_s=start_s)
        now_s = max(now_s, due.at_s) + 20
        done[due.job, due.link] = due.slot
        slots.append(due.slot)
    assert slots == list(range(slots[0], slots[0] + 48))


def test_a_start_lets_go_of_instants_that_have_passed_instead_of_bunching() -> None:
    work = [Periodic(f"job-{i}", "viettel", 3600) for i in range(50)]
    due = [next_run("p", [what], {}, now_s=EPOCH_S, since_s=EPOCH_S) for what in work]
    assert all(run.at_s >= EPOCH_S for run in due)


def test_work_goes_on_whichever_way_the_clock_is_set() -> None:
    what = Periodic("light", "viettel", 3600)
    far_future = {("light", "viettel"): int(EPOCH_S // 3600) + 10**6}
    due = next_run("p", [what], far_future, now_s=EPOCH_S, since_s=EPOCH_S)
    assert due.at_s - EPOCH_S <= 7200


def test_probes_spread_evenly_over_the_slot() -> None:
    quarters = Counter(int(instant_s(f"probe-{i}", Periodic("light", "v", 3600), 7) % 3600 // 900) for i in range(4000))
    assert all(900 <= count <= 1100 for count in quarters.values())  # binomial: 1000 expected, sd 27
