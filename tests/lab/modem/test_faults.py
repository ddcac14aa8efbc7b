"""Every fault, begun and ended while the modem runs."""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

import re

import pytest

from lab.modem import DIALECTS, FaultKind
from wire.radio import Registration

every_dialect = pytest.mark.parametrize("dialect", list(DIALECTS))
SIGNAL = {"quectel-ec25": "AT+QCSQ", "simcom-sim7600": "AT+CPSI?", "huawei-me909": "AT^HCSQ?"}


@every_dialect
def test_a_silent_modem_does_not_even_echo_and_speaks_again_afterwards(dialect: str, plug_in, call) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    modem.fault("silence")
    assert caller.ask("AT", patience_s=0.3) == b""
    modem.clear("silence")
    assert caller.ask("AT") == b"AT\r\r\nOK\r\n"


def test_a_fault_of_one_command_leaves_the_others_alone_and_ends_after_its_times(plug_in, call) -> None:
    modem = plug_in()
    caller = call(modem)
    modem.fault("silence", command="AT+CSQ", times=2)
    for _ in range(2):
        assert caller.ask("AT+CSQ", patience_s=0.2) == b"AT+CSQ\r"
        assert caller.final("AT+CREG?") == "OK"
    assert caller.final("AT+CSQ") == "OK"


def test_garbage_comes_instead_of_the_answer(plug_in, call) -> None:
    modem = plug_in()
    caller = call(modem)
    modem.fault("garbage", times=1)
    heard = caller.ask("AT+CSQ", patience_s=0.3)
    assert b"+CSQ: " not in heard
    assert b"OK\r\n" not in heard
    assert len(heard) > len("AT+CSQ\r")
    assert caller.final("AT+CSQ") == "OK"


def test_half_a_line_comes_and_no_more(plug_in, call) -> None:
    modem = plug_in("simcom-sim7600")
    caller = call(modem)
    modem.fault("half-line", command="+CPSI?", times=1)
    heard = caller.ask("AT+CPSI?", patience_s=0.3)
    assert b"+CPSI: LTE,Online,452-04" in heard
    assert not heard.endswith(b"\n")
    assert caller.final("AT+CPSI?") == "OK"


@every_dialect
def test_a_storm_blows_before_inside_after_and_between_answers(dialect: str, plug_in, call) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    modem.fault("urc-storm")
    assert caller.read_until(lambda heard: heard.count(b"\r\n") >= 6)
    heard = caller.ask("AT+CGATT?")
    heard += caller.read_until(lambda more: more.endswith(b"\r\n"), 1.0)
    answer, ok = heard.index(b"+CGATT: 1\r\n"), heard.index(b"\r\nOK\r\n")
    assert b": " in heard[:answer] or b"RING" in heard[:answer]
    assert heard[answer + len("+CGATT: 1\r\n") : ok].strip()
    modem.clear()
    caller.quiet_for(0.5)
    assert caller.ask("AT") == b"AT\r\r\nOK\r\n"


def test_a_slow_answer_comes_whole_after_its_delay(plug_in, call) -> None:
    modem = plug_in()
    caller = call(modem)
    modem.fault("slow", command="+CSQ", delay_s=0.4)
    assert caller.ask("AT+CSQ", patience_s=0.2) == b"AT+CSQ\r"
    assert caller.read_until(lambda heard: heard.endswith(b"OK\r\n")).startswith(b"\r\n+CSQ: ")


def test_a_wrong_echo_comes_even_when_echo_is_off(plug_in, call) -> None:
    modem = plug_in()
    caller = call(modem)
    assert caller.final("ATE0") == "OK"
    modem.fault("wrong-echo")
    heard = caller.ask("AT+CGDCONT?")
    assert not heard.startswith((b"\r\n", b"AT+CGDCONT?\r"))
    assert b"+CGDCONT: 1," in heard
    assert heard.endswith(b"\r\nOK\r\n")


@every_dialect
def test_a_cme_error_can_be_had_from_any_command(dialect: str, plug_in, call) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    assert caller.final("AT+CMEE=1") == "OK"
    for command, code in (("+CPIN?", 14), ("+COPS?", 30), ("+CGDCONT=", 3), (SIGNAL[dialect][2:], 100)):
        modem.fault("cme-error", command=command, code=code)
        line = f"AT{command}" + ('1,"IP","x"' if command.endswith("=") else "")
        assert caller.lines(line) == [f"+CME ERROR: {code}"]
        assert caller.final("AT+CSQ") == "OK"
    modem.clear()
    assert caller.final("AT+CPIN?") == "OK"


@every_dialect
def test_a_port_vanishes_in_the_middle_of_an_answer_and_comes_back(dialect: str, plug_in, call, eventually) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    modem.fault("vanish", command="+CGDCONT?", delay_s=0.1, times=1)
    caller.write(b"AT+CGDCONT?\r")
    heard = caller.listen_until_hung_up()
    assert heard.startswith(b"AT+CGDCONT?\r")
    assert b"OK" not in heard
    caller.serial.close()
    assert eventually(lambda: modem.tty is not None)
    assert eventually(lambda: modem.radio_now().registration is Registration.HOME)
    assert call(modem).final("AT+CGDCONT?") == "OK"


@every_dialect
def test_only_a_power_cycle_frees_a_hung_baseband(dialect: str, plug_in, call, eventually) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    modem.fault("stuck")
    assert caller.lines("AT") == ["OK"]
    assert caller.lines("AT+CSQ") == ["+CSQ: 99,99", "OK"]
    assert caller.final("AT+CFUN=0") == "OK"
    assert caller.final("AT+CFUN=1") == "OK"
    assert caller.final("AT+CGATT=1") == "ERROR"
    before = modem.tty
    caller.write(b"AT+CFUN=1,1\r")
    assert eventually(lambda: modem.tty not in {None, before})
    caller.serial.close()
    assert call(modem).lines("AT+CSQ")[0] == "+CSQ: 99,99"
    before = modem.tty
    modem.power_cycle()
    assert eventually(lambda: modem.tty not in {None, before})
    assert eventually(lambda: modem.radio_now().registration is Registration.HOME)
    assert call(modem).lines("AT+CSQ")[0] != "+CSQ: 99,99"


@every_dialect
def test_a_denied_modem_hears_the_cell_but_is_not_served(dialect: str, plug_in, call) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    modem.fault("denied")
    assert caller.lines("AT+CEREG?") == ["+CEREG: 0,3", "OK"]
    assert caller.lines("AT+COPS?") == ["+COPS: 0", "OK"]
    assert caller.lines("AT+CGATT?") == ["+CGATT: 0", "OK"]
    assert caller.lines("AT+CSQ")[0] != "+CSQ: 99,99"
    assert caller.lines("ATD*99***1#") == ["NO CARRIER"]
    if dialect == "quectel-ec25":
        assert caller.lines('AT+QENG="servingcell"')[0].startswith('+QENG: "servingcell","LIMSRV","LTE","FDD",452,04,')


@pytest.mark.parametrize(
    ("dialect", "gone"),
    [
        ("quectel-ec25", b"+CPIN: NOT READY"),
        ("simcom-sim7600", b"+SIMCARD: NOT AVAILABLE"),
        ("huawei-me909", b"^SIMST: 255"),
    ],
)
def test_a_pulled_sim_is_told_unasked_and_found_again(dialect: str, gone: bytes, plug_in, call, eventually) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    assert caller.final("AT+CMEE=1") == "OK"
    modem.fault("sim-pulled")
    assert gone in caller.read_until(lambda heard: gone in heard)
    assert caller.lines("AT+CPIN?") == ["+CME ERROR: 10"]
    assert caller.lines("AT+CREG?")[0] == "+CREG: 0,0"
    modem.clear("sim-pulled")
    assert eventually(lambda: modem.radio_now().registration is Registration.HOME)
    assert "+CPIN: READY" in caller.lines("AT+CPIN?")


def test_a_locked_sim_registers_when_its_pin_was_entered(plug_in, call, eventually) -> None:
    modem = plug_in()
    caller = call(modem)
    modem.fault("sim-pin")
    assert modem.radio_now().registration is Registration.NOT_REGISTERED
    caller.write(b"AT+CPIN=1234\r")
    heard = caller.read_until(lambda heard: b"+QIND: PB DONE\r\n" in heard)
    assert heard.index(b"\r\nOK\r\n") < heard.index(b"+CPIN: READY\r\n") < heard.index(b"+QIND: PB DONE\r\n")
    assert eventually(lambda: modem.radio_now().registration is Registration.HOME)
    modem.power_cycle()
    assert eventually(lambda: modem.tty is not None)
    caller.serial.close()
    assert "+CPIN: SIM PIN" in call(modem).lines("AT+CPIN?")


def test_a_lost_network_is_searched_and_found(plug_in, call, eventually) -> None:
    modem = plug_in(register_s=0.2)
    caller = call(modem)
    modem.fault(FaultKind.NO_SERVICE)
    assert caller.lines("AT+CREG?")[0] == "+CREG: 0,2"
    modem.clear(FaultKind.NO_SERVICE)
    assert modem.radio_now().registration is Registration.SEARCHING
    assert eventually(lambda: modem.radio_now().registration is Registration.HOME)


def test_roaming_is_a_sim_of_another_network(plug_in, call, eventually) -> None:
    from lab.modem import cell_of  # noqa: PLC0415  # only here

    modem = plug_in()
    caller = call(modem)
    modem.move_to(cell_of("vinaphone"))
    assert eventually(lambda: modem.radio_now().registration is Registration.ROAMING)
    assert caller.lines("AT+CREG?")[0] == "+CREG: 0,5"
    assert caller.lines("AT+COPS?")[0] == '+COPS: 0,0,"VN VINAPHONE",7'


def test_an_unknown_fault_is_refused(plug_in) -> None:
    modem = plug_in()
    with pytest.raises(ValueError, match="no-such"):
        modem.fault("no-such")
    with pytest.raises(TypeError):
        modem.fault("slow", delay_seconds=3)


def test_a_mad_hour_never_kills_the_modem(plug_in, call) -> None:
    """Whatever bytes come in, the modem answers the next command."""
    import random  # noqa: PLC0415  # only here

    chance = random.Random(5)
    modem = plug_in()
    caller = call(modem)
    for _ in range(60):
        caller.write(
            chance.choice([chance.randbytes(40), b"AT" * 400, b'AT+CPIN="\r', b"AT;;;\r", b"ATD\r", b"A/", b"\0\r"])
        )
        caller.write(b"AT+CGDCONT=" + chance.randbytes(5).replace(b"\r", b"") + b"\r")
    caller.write(b"\r")
    caller.quiet_for(0.2)
    caller.write(b"ATZ\r")
    caller.quiet_for(0.1)
    assert re.search(r"\+CSQ: \d+,99", "".join(caller.lines("AT+CSQ")))
