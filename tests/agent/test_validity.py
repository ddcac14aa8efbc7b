"""Validity: each reason has a rule, each rule says no to one thing and to nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import validity
from agent.validity import RULES, Evidence, doubted, doubts
from wire.measured import Failed, Machine, Throughput, Transfer
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Invalid, Reason

LTE = RadioReading(registration=Registration.HOME, technology=Technology.LTE)
NR = RadioReading(registration=Registration.HOME, technology=Technology.NR5G_NSA)
UMTS = RadioReading(registration=Registration.HOME, technology=Technology.UMTS)
GSM = RadioReading(registration=Registration.HOME, technology=Technology.GSM)
SILENT = RadioReading()
ABROAD = RadioReading(registration=Registration.ROAMING, technology=Technology.LTE)
DOWN = Transfer(
    steady_mbps=40.0,
    payload_bytes=30_000_000,
    elapsed_s=6.0,
    interface_bytes=31_000_000,
    interface_back_bytes=900_000,
    cpu_share=0.05,
)
UP = Transfer(
    steady_mbps=10.0,
    payload_bytes=8_000_000,
    elapsed_s=6.0,
    interface_bytes=8_200_000,
    interface_back_bytes=210_000,
    cpu_share=0.02,
)

GOOD = Evidence(
    before=LTE,
    during=(LTE, NR, LTE),
    after=LTE,
    transfers=(DOWN, UP),
    machine=Machine(cpu_percent=12.0, irq_percent=8.0, steal_percent=0.0, throttled=False),
    clock_step_s=0.004,
    server_load_percent=55.0,
    past_lease_s=-14.0,
)

JUDGED_ELSEWHERE = {
    # agent.measurements.iperf_report, by the transfer's own report and the interfaces' counters
    *(Invalid.BYTES_NOT_ACCOUNTED, Invalid.OTHER_INTERFACE_USED, Invalid.GAP_IN_TRANSFER, Invalid.CUT_SHORT),
    *(Invalid.QUOTA_REACHED, Invalid.BYTE_CAP, Invalid.TOO_SHORT),
    # agent.time_repair, once it is known that the time never will be
    Invalid.CLOCK_NOT_GOOD,
}


def test_every_reason_has_its_rule() -> None:
    assert set(RULES) | JUDGED_ELSEWHERE == set(Invalid)
    assert not set(RULES) & JUDGED_ELSEWHERE


def test_a_test_that_nothing_speaks_against_is_a_sample() -> None:
    assert doubts(GOOD) == ()


def test_what_is_not_known_is_no_reason_but_the_radio_before_and_after_must_be_known() -> None:
    assert doubts(Evidence(before=LTE, after=NR)) == ()
    assert doubts(Evidence()) == (Invalid.RADIO_UNKNOWN,)


CASES: list[tuple[dict[str, Any], tuple[Invalid, ...]]] = [
    ({"after": None}, (Invalid.RADIO_UNKNOWN,)),
    ({"before": SILENT}, (Invalid.RADIO_UNKNOWN,)),
    ({"before": None, "after": None}, (Invalid.RADIO_UNKNOWN,)),
    ({"before": UMTS}, (Invalid.NOT_CELLULAR_4G,)),
    ({"before": UMTS, "during": (UMTS, UMTS), "after": UMTS}, (Invalid.NOT_CELLULAR_4G,)),
    ({"before": GSM, "after": None}, (Invalid.RADIO_UNKNOWN, Invalid.NOT_CELLULAR_4G)),
    ({"after": UMTS}, (Invalid.NOT_CELLULAR_4G, Invalid.FELL_BACK)),
    ({"during": (LTE, UMTS, LTE)}, (Invalid.FELL_BACK,)),
    ({"during": (LTE, SILENT, LTE)}, ()),
    ({"during": (NR, LTE, NR)}, ()),
    ({"before": RadioReading(technology=Technology.NR5G_SA), "after": NR}, ()),
    ({"before": ABROAD}, (Invalid.ROAMING,)),
    ({"during": (LTE, ABROAD)}, (Invalid.ROAMING,)),
    ({"after": ABROAD}, (Invalid.ROAMING,)),
    ({"transfers": (msgspec.structs.replace(DOWN, interface_back_bytes=3_000_000), UP)}, (Invalid.OTHER_TRAFFIC,)),
    ({"transfers": (msgspec.structs.replace(UP, interface_back_bytes=1_000_000),)}, (Invalid.OTHER_TRAFFIC,)),
    # 40 Mbit/s: what the download left in a queue of a second comes in while the upload runs
    ({"transfers": (DOWN, msgspec.structs.replace(UP, interface_back_bytes=5_700_000))}, ()),
    ({"transfers": (DOWN, msgspec.structs.replace(UP, interface_back_bytes=6_300_000))}, (Invalid.OTHER_TRAFFIC,)),
    ({"plan_spent": True}, (Invalid.PLAN_THROTTLED,)),
    ({"transfers": (msgspec.structs.replace(DOWN, cpu_share=0.95), UP)}, (Invalid.CPU_STARVED,)),
    ({"machine": Machine(irq_percent=97.0)}, (Invalid.CPU_STARVED,)),
    ({"machine": Machine(steal_percent=40.0)}, (Invalid.CPU_STARVED,)),
    ({"machine": Machine(cpu_percent=100.0)}, ()),  # others may work as long as the test gets its share
    ({"machine": Machine(throttled=True)}, (Invalid.DEVICE_THROTTLED,)),
    ({"clock_step_s": 0.3}, (Invalid.CLOCK_STEPPED,)),
    ({"clock_step_s": -3600.0}, (Invalid.CLOCK_STEPPED,)),
    ({"server_load_percent": 71.0}, (Invalid.SERVER_LOADED,)),
    ({"past_lease_s": 0.5}, (Invalid.LEASE_EXPIRED,)),
]


@pytest.mark.parametrize(("changes", "wanted"), CASES)
def test_each_doubt_is_found_alone(changes: dict[str, Any], wanted: tuple[Invalid, ...]) -> None:
    assert doubts(msgspec.structs.replace(GOOD, **changes)) == wanted


def test_every_rule_has_a_case_above() -> None:
    assert {reason for _, wanted in CASES for reason in wanted} == set(RULES)


readings = st.builds(
    RadioReading,
    registration=st.none() | st.sampled_from(Registration),
    technology=st.none() | st.sampled_from(Technology),
)
percents = st.none() | st.floats(0, 100)
evidence = st.builds(
    Evidence,
    before=st.none() | readings,
    during=st.lists(readings, max_size=5).map(tuple),
    after=st.none() | readings,
    transfers=st.lists(st.sampled_from([DOWN, UP]), max_size=2).map(tuple),
    machine=st.none()
    | st.builds(
        Machine,
        cpu_percent=percents,
        irq_percent=percents,
        steal_percent=percents,
        throttled=st.none() | st.booleans(),
    ),
    clock_step_s=st.none() | st.floats(-1e9, 1e9),
    plan_spent=st.booleans(),
    server_load_percent=percents,
    past_lease_s=st.none() | st.floats(-600, 600),
)


@given(seen=evidence)
def test_whatever_was_seen_reasons_come_once_and_in_order(seen: Evidence) -> None:
    found = doubts(seen)
    assert list(found) == [reason for reason in RULES if reason in found]


@given(seen=evidence)
def test_a_sample_was_on_4g_before_and_after_and_nowhere_else_meanwhile(seen: Evidence) -> None:
    if doubts(seen):
        return
    known = {Technology.LTE, Technology.NR5G_NSA, Technology.NR5G_SA}
    assert seen.before is not None
    assert seen.after is not None
    assert {seen.before.technology, seen.after.technology} <= known
    assert {look.technology for look in seen.during} <= known | {None}


def test_a_reason_is_added_once_and_to_throughput_only() -> None:
    result = Throughput(download=DOWN, invalid=(Invalid.ROAMING,))
    both = doubted(result, Invalid.CLOCK_NOT_GOOD)
    assert both.invalid == (Invalid.ROAMING, Invalid.CLOCK_NOT_GOOD)
    assert not both.valid
    assert doubted(both, Invalid.CLOCK_NOT_GOOD) is both
    failed = Failed(reason=Reason.BUSY)
    assert doubted(failed, Invalid.CLOCK_NOT_GOOD) is failed


def test_technologies_are_told_change_by_change() -> None:
    assert validity.technologies((LTE, LTE, SILENT, UMTS, UMTS, LTE)) == (
        Technology.LTE,
        Technology.UMTS,
        Technology.LTE,
    )
    assert validity.technologies(()) == ()
