"""The signal wanders within its bounds, and every command tells the same one."""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.modem import OPERATORS, Cell, cell_of
from lab.modem.cells import LTE_BANDS, RESOURCE_BLOCKS
from lab.modem.signal import Walk, csq_code, rsrp_code, rsrq_code, signal
from wire.radio import Registration, Technology

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.modem import SimulatedModem


@given(
    seed=st.integers(0, 2**32),
    spread=st.floats(0, 20),
    steps=st.lists(st.floats(0, 500), max_size=60),
)
def test_the_walk_stays_in_its_bounds_whenever_it_is_looked_at(seed: int, spread: float, steps: list[float]) -> None:
    walk, time_s = Walk(seed, spread), 0.0
    for step_s in steps:
        time_s += step_s
        assert -spread <= walk.at(time_s) <= spread


@given(seed=st.integers(0, 2**32), times=st.lists(st.floats(0, 1e6), max_size=20))
def test_the_same_seed_walks_the_same_way(seed: int, times: list[float]) -> None:
    one, other = Walk(seed, 6), Walk(seed, 6)
    assert [one.at(time_s) for time_s in times] == [other.at(time_s) for time_s in times]


def test_the_walk_really_wanders() -> None:
    walk = Walk(1, 6)
    levels = [walk.at(float(second)) for second in range(600)]
    assert max(levels) - min(levels) > 6
    assert max(abs(a - b) for a, b in pairwise(levels)) < 6


@given(
    level=st.floats(-140, -44),
    sinr=st.floats(-20, 30),
    offset=st.floats(-20, 20),
    load=st.floats(0, 1),
    bandwidth=st.sampled_from(sorted(RESOURCE_BLOCKS)),
)
def test_the_figures_of_a_signal_fit_each_other(
    level: float, sinr: float, offset: float, load: float, bandwidth: float
) -> None:
    """TS 36.214: RSRQ = N RSRP / RSSI; an empty clean cell has -3 dB, a loaded clean one -10.8 dB."""
    cell = cell_of("viettel", rsrp_dbm=level, sinr_db=sinr, bandwidth_mhz=bandwidth)
    seen = signal(cell, offset, load)
    blocks_db = 10 * math.log10(RESOURCE_BLOCKS[bandwidth])
    assert seen.quality_db == pytest.approx(blocks_db + seen.level_dbm - seen.rssi_dbm)
    assert -140 <= seen.level_dbm <= -44
    assert -20 <= seen.sinr_db <= 30
    assert seen.quality_db <= -3
    assert seen.rssi_dbm > seen.level_dbm + blocks_db


@pytest.mark.parametrize(
    ("code", "value", "wanted"),
    [
        (rsrp_code, -140.5, 0),
        (rsrp_code, -140.0, 1),
        (rsrp_code, -44.5, 96),
        (rsrp_code, -44.0, 97),
        (rsrq_code, -19.6, 0),
        (rsrq_code, -19.5, 1),
        (rsrq_code, -3.0, 34),
        (csq_code, -113, 0),
        (csq_code, -111, 1),
        (csq_code, -51, 31),
        (csq_code, -30, 31),
    ],
)
def test_codes_change_where_ts_27_007_says(code, value: float, wanted: int) -> None:
    assert code(value) == wanted


def numbers(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\b\d+\b", line.partition(":")[2])]


@pytest.fixture
def frozen(plug_in, clock) -> Callable[..., SimulatedModem]:
    """Make modems whose time stands still between two looks at them."""

    def make(dialect: str, operator: str = "viettel") -> SimulatedModem:
        return plug_in(dialect, cell=cell_of(operator, rsrp_dbm=-101.0), clock=clock, seed=7)

    return make


def test_every_quectel_command_tells_the_true_signal(frozen, call, clock) -> None:
    modem = frozen("quectel-ec25")
    caller = call(modem)
    for _ in range(8):
        clock.now_s += 37
        truth = modem.radio_now()
        rssi, rsrp, sinr, rsrq = numbers(caller.lines("AT+QCSQ")[0].replace('"LTE",', ""))
        assert abs(rsrp - truth.rsrp_dbm) <= 0.5
        assert abs(rsrq - truth.rsrq_db) <= 0.5
        assert abs(rssi - truth.rssi_dbm) <= 0.5
        assert abs(sinr / 5 - 20 - truth.sinr_db) <= 0.1 + 1e-9
        served = caller.lines('AT+QENG="servingcell"')[0].split(",")
        assert [abs(int(served[13]) - truth.rsrp_dbm) <= 0.5, abs(int(served[14]) - truth.rsrq_db) <= 0.5] == [True] * 2
        assert int(served[6], 16) == truth.cell_id
        assert int(served[12], 16) == truth.tac
        *_, rsrq_index, rsrp_index = numbers(caller.lines("AT+CESQ")[0])
        assert 0 <= truth.rsrp_dbm - (rsrp_index - 141) < 1
        assert 0 <= truth.rsrq_db - (rsrq_index / 2 - 20) < 0.5
        assert 0 <= truth.rssi_dbm - (2 * numbers(caller.lines("AT+CSQ")[0])[0] - 113) < 2
        assert abs(numbers(caller.lines("AT+QTEMP")[0])[0] - truth.temperature_c) <= 0.5


def test_every_simcom_command_tells_the_true_signal(frozen, call, clock) -> None:
    modem = frozen("simcom-sim7600")
    caller = call(modem)
    for _ in range(8):
        clock.now_s += 37
        truth = modem.radio_now()
        said = caller.lines("AT+CPSI?")[0].split(",")
        for field, true in ((10, truth.rsrq_db), (11, truth.rsrp_dbm), (12, truth.rssi_dbm)):
            assert abs(int(said[field]) / 10 - true) <= 0.05 + 1e-9
        assert abs(int(said[13]) - truth.sinr_db) <= 0.5
        assert (int(said[3], 16), int(said[4]), int(said[5])) == (truth.tac, truth.cell_id, truth.pci)
        assert 0 <= truth.rsrp_dbm - (numbers(caller.lines("AT+CESQ")[0])[-1] - 141) < 1


def test_every_huawei_command_tells_the_true_signal(frozen, call, clock) -> None:
    modem = frozen("huawei-me909")
    caller = call(modem)
    for _ in range(8):
        clock.now_s += 37
        truth = modem.radio_now()
        rssi, rsrp, sinr, rsrq = numbers(caller.lines("AT^HCSQ?")[0].replace('"LTE",', ""))
        assert 0 <= truth.rssi_dbm - (rssi - 121) < 1
        assert 0 <= truth.rsrp_dbm - (rsrp - 141) < 1
        assert 0 <= truth.sinr_db - (sinr / 5 - 20.2) < 0.2 + 1e-9
        assert 0 <= truth.rsrq_db - (rsrq / 2 - 20) < 0.5
        assert abs(numbers(caller.lines("AT^CHIPTEMP?")[0])[0] / 10 - truth.temperature_c) <= 0.05 + 1e-9


def test_two_modems_of_one_seed_wander_alike_and_of_two_seeds_apart(plug_in, clock) -> None:
    one, same, other = (plug_in(clock=clock, seed=seed) for seed in (1, 1, 2))
    clock.now_s += 500
    assert one.radio_now() == same.radio_now() != other.radio_now()
    assert one.imei == same.imei != other.imei


def test_the_truth_has_no_signal_when_nothing_is_heard(plug_in) -> None:
    modem = plug_in()
    assert modem.radio_now().registration is Registration.HOME
    modem.fault("no-service")
    truth = modem.radio_now()
    assert truth.registration is Registration.SEARCHING
    assert truth.rsrp_dbm is truth.rssi_dbm is truth.cell_id is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator_s_cell_is_on_a_channel_of_its_band(operator: str) -> None:
    cell = cell_of(operator)
    band = LTE_BANDS[cell.band]
    assert cell.plmn == "452" + OPERATORS[operator].mnc
    assert band.downlink_mhz <= cell.downlink_mhz <= band.downlink_mhz + 100
    assert cell_of(operator, number=2) != cell


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"band": 8}, "channel 1650 is not in band 8: 3450 to 3799"),
        ({"band": 2}, "band 2 is not simulated"),
        ({"bandwidth_mhz": 7.0}, "7.0 MHz is no LTE bandwidth"),
        ({"technology": Technology.GSM}, "gsm is not simulated"),
        ({"spread_db": 40.0}, "spread_db"),
    ],
)
def test_an_impossible_cell_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        cell_of("viettel", **changes)


def test_a_real_channel_and_its_frequency_agree() -> None:
    """EARFCN 425 is 2152.5 MHz down in band 1 (from a recorded ^HFREQINFO)."""
    cell = cell_of("mobifone", band=1, earfcn=425)
    assert isinstance(cell, Cell)
    assert cell.downlink_mhz == pytest.approx(2152.5)
