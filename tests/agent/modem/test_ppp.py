"""pppd's options, its complaints, its child; and the dial command on a real terminal that somebody else has opened."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.measurements.base import MeasurementFailed
from agent.modem import ppp
from agent.modem.apn import Apn
from agent.modem.errors import ModemError
from agent.path import LinkPath
from lab.modem import SimulatedModem, cell_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UP = LinkPath(interface="ppp0", up=True, source_address="10.64.0.2")
DOWN = LinkPath(interface="ppp0", exists=False, up=False)
# What pppd 2.4.9 prints on its way up (INFRA: Debian's, over an emulated serial port).
GOOD_DAY = """\
Serial connection established.
Using interface ppp0
Connect: ppp0 <--> /dev/ttyUSB2
local  IP address 10.64.0.2
remote IP address 10.64.0.1
primary   DNS address 10.64.0.53
secondary DNS address 10.64.0.54
"""


def options(interface: str = "ppp0", apn: Apn | None = None) -> str:
    return ppp.peer_file(
        "/dev/ttyUSB2", interface, apn or Apn("v-internet"), connect=["/opt/my probe/dial", "--cid", "1"], metric=700
    )


def test_the_options_name_port_dialler_and_unit() -> None:
    lines = options().splitlines()
    assert lines[:3] == ["/dev/ttyUSB2", "115200", "connect \"'/opt/my probe/dial' --cid 1\""]
    assert {"unit 0", "defaultroute", "defaultroute-metric 700", "local", "noauth", "usepeerdns"} < set(lines)
    assert not any(line.startswith(("user", "password")) for line in lines)


def test_another_interface_name_is_asked_for_by_name() -> None:
    assert "ifname cell-viettel" in options("cell-viettel").splitlines()


def test_an_account_is_quoted() -> None:
    lines = options(apn=Apn("m-wap", 'a "b"', "c\\d")).splitlines()
    assert 'user "a \\"b\\""' in lines
    assert 'password "c\\\\d"' in lines
    assert "hide-password" in lines


@pytest.mark.skipif(shutil.which("pppd") is None, reason="NOT SHOWN: pppd is not installed; it checks its own options")
def test_pppd_itself_knows_every_option(tmp_path: Path) -> None:
    file = tmp_path / "options"
    master, slave = os.openpty()  # it looks whether the port exists
    text = options(apn=Apn("m-wap", "mms", "mms")).replace("/dev/ttyUSB2", os.ttyname(slave))
    file.write_text(text)
    said = subprocess.run(["pppd", "file", str(file), "dryrun"], capture_output=True, text=True, check=False)
    os.close(master)
    os.close(slave)
    assert "unrecognized" not in said.stdout + said.stderr
    assert "In file" not in said.stdout + said.stderr


def test_addresses_are_read_from_the_log() -> None:
    assert ppp.addresses_of(GOOD_DAY.splitlines()) == ("10.64.0.2", "10.64.0.1", ("10.64.0.53", "10.64.0.54"))


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("probe-agent: standard input: ATD*99***1#: NO CARRIER", 8, "ATD\\*99\\*\\*\\*1#: NO CARRIER"),
        ("LCP: timeout sending Config-Requests", 10, "nobody speaks PPP"),
        ("PAP authentication failed", 19, "refuses the account"),
        ("IPCP terminated by peer", 10, "wrong APN"),
        ("Sorry - this system lacks kernel support for PPP", 4, "this kernel has no PPP"),
        ("Device ttyUSB2 is locked by pid 4711", 6, "process 4711 has locked"),
        ("pppd: In file x: unrecognized option 'ifname'", 2, "does not know the option ifname"),
        ("", 16, "the modem hung up"),
        ("", 8, "could not be dialled"),
        ("", -9, "was killed \\(9\\)"),
        ("", 77, "status 77"),
        ("", None, "no address yet"),
    ],
)
def test_a_failure_is_told_by_the_log_or_else_by_the_status(line: str, status: int | None, told: str) -> None:
    assert re.search(told, ppp.reason_of([line], status))


# --- the child --------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Make a program that stands for pppd: what it prints and how it ends is what a test wants to see handled."""

    def make(script: str) -> str:
        path = tmp_path / "pppd"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def link(program: str, folder: Path) -> ppp.PppLink:
    return ppp.PppLink(options(), folder / "ppp.options", "ppp0", program=program)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_call_comes_up_and_is_ended_by_its_number(program: Callable[[str], str], tmp_path: Path) -> None:
    call = link(program(f"cat <<'X'\n{GOOD_DAY}X\nexec sleep 60"), tmp_path)
    call.start()
    assert (tmp_path / "ppp.options").stat().st_mode & 0o077 == 0
    looks = [DOWN, DOWN, UP]
    assert call.wait_until_up(10, path=lambda _: looks.pop(0)) == UP
    assert call.runs
    assert call._process is not None
    pid = call._process.pid
    call.stop()
    assert gone(pid)
    assert call.addresses.name_servers == ("10.64.0.53", "10.64.0.54")
    assert not (tmp_path / "ppp.options").exists(), "the account does not stay on disk"


def test_a_call_that_fails_says_why(program: Callable[[str], str], tmp_path: Path) -> None:
    call = link(program("echo 'probe-agent: ATD*99***1#: NO CARRIER' >&2; exit 8"), tmp_path)
    call.start()
    with pytest.raises(MeasurementFailed, match=r"ppp0: ATD\*99\*\*\*1#: NO CARRIER"):
        call.wait_until_up(10, path=lambda _: DOWN)


def test_a_call_that_takes_too_long_is_ended(program: Callable[[str], str], tmp_path: Path) -> None:
    call = link(program("exec sleep 60"), tmp_path)
    call.start()
    assert call._process is not None
    pid = call._process.pid
    with pytest.raises(MeasurementFailed, match="no address within 0 s"):
        call.wait_until_up(0.3, path=lambda _: DOWN)
    assert gone(pid)


def test_without_pppd_the_technician_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ModemError, match="apt-get install ppp"):
        link("/nowhere/pppd", tmp_path).start()


# --- dialling ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def modem(tmp_path: Path) -> Iterator[SimulatedModem]:
    quick = {"register_s": 0.0, "latency_s": 0.0, "gap_s": 0.0}
    with SimulatedModem("quectel-ec25", cell_of("viettel"), link=tmp_path / "modem", **quick) as one:  # type: ignore[arg-type]  # floats
        yield one


def dial(modem: SimulatedModem) -> subprocess.CompletedProcess[str]:
    """Run the connect script as pppd does: the port is its standard input and output."""
    with Path(modem.port).open("r+b", buffering=0) as port:
        return subprocess.run(
            [sys.executable, "-m", "agent.cli", "modem", "dial"],
            stdin=port,
            stdout=port,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )


def test_the_connect_script_dials_on_the_port_it_is_given(modem: SimulatedModem) -> None:
    done = dial(modem)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("dialled: CONNECT")


def test_a_call_that_the_network_does_not_take_is_told_with_its_cause(modem: SimulatedModem) -> None:
    modem.fault("denied")
    done = dial(modem)
    assert done.returncode == 1
    assert "ATD*99***1#: NO CARRIER" in ppp.reason_of(done.stderr.splitlines(), 8)


def test_a_dumb_port_is_told_as_one(modem: SimulatedModem) -> None:
    modem.fault("silence")
    done = dial(modem)
    assert done.returncode == 1
    assert "nothing answers AT" in done.stderr
