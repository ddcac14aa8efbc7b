"""The port obeys physics: it hangs up when unplugged, comes back under another name, and leaves nothing behind."""

# ruff: noqa: ANN001  # fixtures are typed where they are made: conftest.py

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import serial

from lab.modem import SimulatedModem, cell_of

_TIOCGEXCL = 0x80045440  # asm-generic/ioctls.h; the termios module of Python 3.11 has no name for it

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def test_unplugging_hangs_up_on_the_reader_and_takes_the_link_away(plug_in, call) -> None:
    modem = plug_in()
    caller = call(modem)
    waiting = select.poll()
    waiting.register(caller.serial.fd, select.POLLIN)
    assert waiting.poll(0) == []
    modem.unplug()
    assert waiting.poll(2000)[0][1] & select.POLLHUP
    with pytest.raises(serial.SerialException):
        caller.serial.read(1)
    assert not os.path.lexists(modem.port)
    assert modem.tty is None
    with pytest.raises(serial.SerialException):
        serial.Serial(str(modem.port))


def test_a_replugged_modem_is_another_terminal_under_the_same_link_and_registers_anew(
    plug_in, call, eventually
) -> None:
    modem = plug_in(register_s=0.3)
    first = modem.tty
    modem.unplug()
    modem.replug()
    assert modem.tty not in {None, first}
    assert str(modem.port.readlink()) == modem.tty
    caller = call(modem)
    assert caller.lines("AT+CREG?")[0] == "+CREG: 0,2"
    assert eventually(lambda: caller.lines("AT+CREG?")[0] == "+CREG: 0,1")


@pytest.mark.parametrize(
    ("dialect", "command", "greeting"),
    [
        ("quectel-ec25", b"AT+CFUN=1,1", b"+QIND: PB DONE"),
        ("simcom-sim7600", b"AT+CRESET", b"PB DONE"),
        ("huawei-me909", b"AT^RESET", b"^SRVST: 0"),
    ],
)
def test_a_reset_answers_ok_then_the_port_goes_and_another_comes(  # noqa: PLR0917  # one row of a table
    dialect: str, command: bytes, greeting: bytes, plug_in, call, eventually
) -> None:
    modem = plug_in(dialect)
    caller = call(modem)
    first = modem.tty
    caller.write(command + b"\r")
    assert caller.listen_until_hung_up() == command + b"\r\r\nOK\r\n"
    assert eventually(lambda: modem.tty is not None)
    assert modem.tty != first
    again = call(modem)
    assert greeting in again.read_until(lambda heard: greeting in heard)
    assert again.final("AT+CPIN?") == "OK"


def test_a_modem_told_to_power_off_stays_off_until_it_is_replugged(plug_in, call, eventually) -> None:
    modem = plug_in("quectel-ec25")
    caller = call(modem)
    caller.write(b"AT+QPOWD=1\r")
    assert caller.listen_until_hung_up().startswith(b"AT+QPOWD=1\r\r\nOK\r\n")
    assert modem.tty is None
    modem.replug()
    assert call(modem).final("AT") == "OK"


def test_many_plugs_leave_no_descriptor_and_no_thread(plug_in, call) -> None:
    modem = plug_in()
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(25):
        caller = call(modem)
        caller.write(b"AT+CSQ\r")
        modem.unplug()
        caller.serial.close()
        modem.replug()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_stopped_modem_can_start_again(tmp_path) -> None:
    modem = SimulatedModem("quectel-ec25", cell_of("viettel"), link=tmp_path / "modem")
    for _ in range(3):
        with modem.start():
            assert modem.port.exists()
            with pytest.raises(RuntimeError):
                modem.start()
        assert not os.path.lexists(modem.port)
    modem.stop()


def test_two_openers_are_kept_apart_by_tiocexcl_as_on_a_real_port(plug_in) -> None:
    """Root may open an exclusive port all the same; everybody else is told that it is busy."""
    modem = plug_in()
    first = os.open(modem.port, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(first, termios.TIOCEXCL)
    program = f"import os; os.setgid(65534); os.setuid(65534); os.open({modem.tty!r}, os.O_RDWR | os.O_NOCTTY)"
    if os.geteuid() == 0:
        Path(modem.tty).chmod(0o666)  # the other opener is nobody
    else:
        program = f"import os; os.open({modem.tty!r}, os.O_RDWR | os.O_NOCTTY)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    os.close(first)
    assert os.strerror(errno.EBUSY) in other.stderr


def test_a_port_is_free_again_after_its_exclusive_opener_has_closed(plug_in, eventually) -> None:
    modem = plug_in()
    first = os.open(modem.port, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(first, termios.TIOCEXCL)
    os.close(first)

    def is_free() -> bool:
        again, mark = os.open(modem.port, os.O_RDWR | os.O_NOCTTY), bytearray(4)
        fcntl.ioctl(again, _TIOCGEXCL, mark)
        os.close(again)
        return not any(mark)

    assert eventually(is_free)


def test_what_is_said_while_nobody_listens_is_lost(plug_in, call) -> None:
    modem = plug_in()
    first = call(modem)
    assert first.final("AT+CREG=1") == "OK"
    first.serial.close()
    modem.fault("denied")
    modem.radio_now()  # a turn later it has been said
    second = call(modem)
    assert second.ask("AT+CREG?") == b"AT+CREG?\r\r\n+CREG: 1,3\r\n\r\nOK\r\n"


def test_a_reader_that_never_reads_does_not_stop_the_modem(plug_in, call) -> None:
    modem = plug_in()
    caller = call(modem)
    for _ in range(300):
        caller.write(b"AT+CGDCONT?\r")
    assert modem.radio_now().rsrp_dbm is not None
    caller.read_until(lambda heard: heard.count(b"OK\r\n") == 300, 20)
    assert caller.final("AT") == "OK"


def test_a_file_of_somebody_is_never_replaced_by_the_link(tmp_path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(FileExistsError):
        SimulatedModem("quectel-ec25", cell_of("viettel"), link=precious).start()
    assert precious.read_text() == "data"


def test_an_idle_modem_sleeps(plug_in, call) -> None:
    """No busy loop, opened or not: a second of idling costs next to no processor time."""
    import time  # noqa: PLC0415  # only here

    modem = plug_in()
    call(modem).serial.close()
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.2


def test_an_unknown_dialect_is_refused_with_the_known_ones(tmp_path) -> None:
    with pytest.raises(ValueError, match="use one of quectel-ec25, simcom-sim7600, huawei-me909"):
        SimulatedModem("quectal", cell_of("viettel"), link=tmp_path / "modem")
