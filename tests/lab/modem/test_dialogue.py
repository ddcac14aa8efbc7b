"""The dialogue of each dialect on its real pseudo-terminal."""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

import itertools
import random
import re

import pytest

from lab.modem import DIALECTS, Cell, Sim, SimLock, cell_of
from wire.radio import Technology

every_dialect = pytest.mark.parametrize("dialect", list(DIALECTS))

UMTS_CELL = Cell(
    mcc="452",
    mnc="05",
    long_name="Vietnamobile",
    short_name="VNMOBILE",
    tac=0x1234,
    cell_id=0xABCDE,
    pci=355,
    band=1,
    earfcn=10763,
    technology=Technology.UMTS,
    rsrp_dbm=-85,
)


@every_dialect
def test_an_answer_has_echo_blank_lines_and_ok_where_v250_puts_them(dialect: str, plug_in, call) -> None:
    caller = call(plug_in(dialect))
    assert caller.ask("AT") == b"AT\r\r\nOK\r\n"
    assert re.fullmatch(rb"AT\+CSQ\r\r\n\+CSQ: \d+,99\r\n\r\nOK\r\n", caller.ask("AT+CSQ"))
    assert caller.ask("ATE0") == b"ATE0\r\r\nOK\r\n"
    assert caller.ask("AT") == b"\r\nOK\r\n"


@every_dialect
def test_bytes_written_one_by_one_make_the_same_answer(dialect: str, plug_in, call) -> None:
    caller = call(plug_in(dialect))
    for byte in b"at+cpin?\r":
        caller.write(bytes([byte]))
    assert caller.read_until(lambda heard: heard.endswith(b"OK\r\n")) == b"at+cpin?\r\r\n+CPIN: READY\r\n\r\nOK\r\n"


@every_dialect
def test_an_answer_leaves_in_slices(dialect: str, plug_in, call) -> None:
    """With gaps between them a reader sees several reads for one answer."""
    caller = call(plug_in(dialect, gap_s=0.02))
    reads = []
    caller.write(b"ATI\r")
    caller.read_until(lambda heard: reads.append(len(heard)) or heard.endswith(b"OK\r\n"))  # type: ignore[func-returns-value]
    assert len(set(reads)) > 3


@every_dialect
def test_an_unknown_command_is_an_error(dialect: str, plug_in, call) -> None:
    caller = call(plug_in(dialect))
    for command in ("AT+NOSUCH", "AT+NOSUCH?", "AT+CSQ?", "AT?", "AT=1", "AT+"):
        assert caller.lines(command) == ["ERROR"], command


@every_dialect
def test_commands_chained_on_one_line_answer_in_order_and_stop_at_the_first_error(dialect: str, plug_in, call) -> None:
    caller = call(plug_in(dialect))
    assert caller.lines("ATE1V1+CREG?;+CGATT?") == ["+CREG: 0,1", "+CGATT: 1", "OK"]
    assert caller.lines("AT+CREG?;+NOSUCH;+CGATT?") == ["+CREG: 0,1", "ERROR"]


@pytest.mark.parametrize(
    ("dialect", "lines"),
    [
        ("quectel-ec25", ["Quectel", "EC25", "Revision: EC25EFAR06A06M4G"]),
        ("simcom-sim7600", ["Manufacturer: SIMCOM INCORPORATED", "Model: SIMCOM_SIM7600G-H"]),
        ("huawei-me909", ["Manufacturer: Huawei Technologies Co., Ltd.", "Model: ME909s-120"]),
    ],
)
def test_a_modem_says_what_it_is(dialect: str, lines: list[str], plug_in, call) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    assert caller.lines("ATI")[: len(lines)] == lines
    assert caller.lines("AT+CGMI") == [DIALECTS[dialect].manufacturer, "OK"]
    assert caller.lines("AT+CGMM") == [DIALECTS[dialect].model, "OK"]
    assert caller.lines("AT+CGMR") == [DIALECTS[dialect].revision, "OK"]
    assert caller.lines("AT+CGSN") == caller.lines("AT+GSN") == [modem.imei, "OK"]


@pytest.mark.parametrize(
    ("dialect", "command", "prefix"),
    [
        ("quectel-ec25", "AT+QCCID", "+QCCID: "),
        ("simcom-sim7600", "AT+CICCID", "+ICCID: "),
        ("huawei-me909", "AT^ICCID?", "^ICCID: "),
    ],
)
def test_the_sim_tells_its_numbers_only_when_it_is_unlocked(
    dialect: str, command: str, prefix: str, plug_in, call
) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    assert caller.lines(command) == [prefix + modem.sim.iccid, "OK"]
    assert caller.lines("AT+CIMI") == [modem.sim.imsi, "OK"]
    assert modem.sim.imsi.startswith("45204")
    assert caller.lines("AT+CMEE=1") == ["OK"]
    modem.fault("sim-pin")
    assert caller.final(command) == "+CME ERROR: 11"
    modem.fault("sim-pulled")
    assert caller.final(command) == "+CME ERROR: 10"


def test_error_replies_follow_cmee_and_its_factory_value(plug_in, call) -> None:
    wanted = {
        "quectel-ec25": "+CME ERROR: 10",
        "simcom-sim7600": "+CME ERROR: SIM not inserted",
        "huawei-me909": "ERROR",
    }
    for dialect, factory in wanted.items():
        modem = plug_in(dialect)
        modem.fault("sim-pulled")
        caller = call(modem)
        assert caller.lines("AT+CPIN?") == [factory]
        for mode, text in ((0, "ERROR"), (1, "+CME ERROR: 10"), (2, "+CME ERROR: SIM not inserted")):
            assert caller.lines(f"AT+CMEE={mode}") == ["OK"]
            assert caller.lines("AT+CPIN?") == [text]
        assert caller.lines("AT&F") == ["OK"]
        assert caller.lines("AT+CPIN?") == [factory]


def test_wrong_pins_are_counted_until_the_puk_is_asked_for(plug_in, call) -> None:
    modem = plug_in(sim=Sim(imsi="452040000000001", iccid="8984040000000000001", pin="4711", puk="11223344"))
    caller = call(modem)
    modem.fault("sim-pin")
    assert "+CPIN: SIM PIN" in caller.lines("AT+CPIN?")
    assert '+QPINC: "SC",3,10' in caller.lines("AT+QPINC?")
    for left in (2, 1, 0):
        assert caller.final("AT+CPIN=0000") == "+CME ERROR: 16"
        assert f'+QPINC: "SC",{left},10' in caller.lines('AT+QPINC="SC"')
    assert "+CPIN: SIM PUK" in caller.lines("AT+CPIN?")
    assert caller.final("AT+CPIN=4711") == "+CME ERROR: 12"
    assert caller.final('AT+CPIN="00000000","1111"') == "+CME ERROR: 16"
    assert '+QPINC: "SC",0,9' in caller.lines("AT+QPINC?")
    assert "OK" in caller.lines('AT+CPIN="11223344","1111"')
    assert modem.sim.lock is SimLock.READY
    assert (modem.sim.pin, modem.sim.pin_tries, modem.sim.puk_tries) == ("1111", 3, 10)


@pytest.mark.parametrize(
    ("dialect", "command", "locked", "ready"),
    [
        ("quectel-ec25", "AT+QPINC?", '+QPINC: "SC",2,10', '+QPINC: "SC",3,10'),
        ("simcom-sim7600", "AT+SPIC", "+SPIC: 2,10,0,10", "+SPIC: 3,10,0,10"),
        ("huawei-me909", "AT^CPIN?", "^CPIN: SIM PIN,2,10,2,10,3", "^CPIN: READY,,10,3,10,3"),
    ],
)
def test_each_family_counts_tries_in_its_own_words(  # noqa: PLR0917  # one row of a table
    dialect: str, command: str, locked: str, ready: str, plug_in, call
) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    assert ready in caller.lines(command)
    modem.fault("sim-pin")
    caller.lines("AT+CPIN=9999")
    assert locked in caller.lines(command)
    caller.lines('AT+CPIN="1234"')
    assert ready in caller.lines(command)


@every_dialect
def test_registration_is_told_unasked_only_in_the_modes_that_say_so(dialect: str, plug_in, call) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    area, cell = f"{modem.cell.tac:X}", f"{modem.cell.cell_id:X}"
    modem.fault("no-service")
    assert b"CREG" not in caller.quiet_for(0.2)
    assert caller.lines("AT+CREG=1;+CEREG=2") == ["OK"]
    modem.clear()
    heard = caller.read_until(lambda heard: heard.count(b"REG: 1") == 2 and heard.endswith(b"\r\n")).replace(b'"', b"")
    assert b"\r\n+CREG: 1\r\n" in heard
    assert f"\r\n+CEREG: 1,{area},{cell},7\r\n".encode() in heard


def test_no_registration_is_told_late_whenever_it_falls_due(plug_in, call) -> None:
    """The clock ticks at every look, so that the moment of registration falls between any two looks of the modem."""
    chance = random.Random(1)
    ticks = itertools.accumulate(iter(lambda: chance.uniform(0, 0.02), None))
    caller = call(modem := plug_in(clock=lambda: next(ticks), register_s=0.1))
    assert caller.final("AT+CREG=1") == "OK"
    for _ in range(25):
        modem.fault("no-service")
        assert caller.read_until(lambda heard: heard.endswith(b"+CREG: 2\r\n"), 4)
        modem.clear()
        assert caller.read_until(lambda heard: heard.endswith(b"+CREG: 1\r\n"), 4).endswith(b"+CREG: 1\r\n")


@every_dialect
def test_an_operator_is_named_in_the_format_that_was_set(dialect: str, plug_in, call) -> None:
    caller = call(plug_in(dialect, cell=cell_of("mobifone")))
    names = ["VN Mobifone", "Mobifone", "45201"]
    for number, name in enumerate(names):
        assert caller.lines(f"AT+COPS=3,{number}") == ["OK"]
        assert caller.lines("AT+COPS?") == [f'+COPS: 0,{number},"{name}",7', "OK"]
    assert caller.lines('AT+CSCS="UCS2"') == ["OK"]
    assert caller.lines("AT+COPS?") == ['+COPS: 0,2,"00340035003200300031",7', "OK"]
    assert caller.final("AT+COPS=3,9") != "OK"


@every_dialect
def test_a_context_is_kept_through_a_restart_and_settings_are_not(dialect: str, plug_in, call, eventually) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    assert caller.lines('AT+CGDCONT=1,"IP","v-internet"') == ["OK"]
    assert caller.final("ATE0+CREG=2") == "OK"
    modem.power_cycle()
    caller.serial.close()
    assert eventually(lambda: modem.tty is not None)
    again = call(modem)
    assert '+CGDCONT: 1,"IP","v-internet","0.0.0.0",0,0,0,0' in again.lines("AT+CGDCONT?")
    assert again.ask("AT+CREG?").startswith(b"AT+CREG?\r")


@every_dialect
def test_flight_mode_silences_the_radio_and_nothing_else(dialect: str, plug_in, call) -> None:
    caller = call(plug_in(dialect))
    assert caller.lines("AT+CFUN=4") == ["OK"]
    assert caller.lines("AT+CFUN?") == ["+CFUN: 4", "OK"]
    assert caller.lines("AT+CSQ") == ["+CSQ: 99,99", "OK"]
    assert caller.lines("AT+CESQ") == ["+CESQ: 99,99,255,255,255,255", "OK"]
    assert caller.lines("AT+CREG?") == ["+CREG: 0,0", "OK"]
    assert caller.lines("AT+COPS?") == ["+COPS: 0", "OK"]
    assert caller.final("AT+CFUN=1") == "OK"


def test_a_umts_cell_is_told_in_each_family_s_umts_form(plug_in, call) -> None:
    quectel = call(plug_in("quectel-ec25", cell=UMTS_CELL))
    assert re.match(
        r'\+QENG: "servingcell","NOCONN","WCDMA",452,05,1234,ABCDE,10763,355,1,-\d+,-\d+,-,-,-,-,-$',
        quectel.lines('AT+QENG="servingcell"')[0],
    )
    assert re.match(r'\+QCSQ: "WCDMA",-\d+,-\d+,-\d+$', quectel.lines("AT+QCSQ")[0])
    assert quectel.lines("AT+CEREG?")[0] == "+CEREG: 0,0"
    simcom = call(plug_in("simcom-sim7600", cell=UMTS_CELL))
    assert re.match(
        r"\+CPSI: WCDMA,Online,452-05,0x1234,703710,WCDMA IMT 2000,355,10763,0,\d+\.\d,\d+,\d+,\d+,\d+$",
        simcom.lines("AT+CPSI?")[0],
    )
    huawei = call(plug_in("huawei-me909", cell=UMTS_CELL))
    assert re.match(r'\^HCSQ: "WCDMA",\d+,\d+,\d+$', huawei.lines("AT^HCSQ?")[0])


def test_huawei_tells_its_signal_unasked_until_told_not_to(plug_in, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DIALECTS["huawei-me909"], "chatter_s", 0.05)
    caller = call(plug_in("huawei-me909"))
    heard = caller.read_until(lambda heard: b"^RSSI: " in heard and b'^HCSQ: "LTE",' in heard)
    assert b"^HCSQ" in heard
    assert "OK" in caller.lines("AT^CURC=0")
    caller.quiet_for(0.1)
    assert caller.quiet_for(0.2) == b""


def test_a_pin_is_never_logged(plug_in, call, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    modem = plug_in()
    modem.fault("sim-pin")
    caller = call(modem)
    caller.lines('AT+CPIN="9753"')
    caller.lines("ATE0")
    caller.lines('AT+CPIN="9753"')
    assert "AT+CPIN" in caplog.text
    assert "9753" not in caplog.text
