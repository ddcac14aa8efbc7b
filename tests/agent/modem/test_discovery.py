"""Discovery on a fake sysfs tree; the port is confirmed on real pseudo-terminals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agent.modem.discovery import ROLES, find_ports, known_modems, resolve
from agent.modem.errors import NoModem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Peer  # type: ignore[import-not-found]  # only a name for the reader


def plug(
    root: Path, path: str, vendor: str, product: str, ttys: dict[int, str], *, acm: bool = False, **more: str
) -> None:
    """Make what the kernel shows of a USB device with serial interfaces."""
    device = root / "bus/usb/devices" / path
    device.mkdir(parents=True)
    (device / "idVendor").write_text(f"{vendor}\n")
    (device / "idProduct").write_text(f"{product}\n")
    (device / "product").write_text(more.get("name", "Modem") + "\n")
    for number, tty in ttys.items():
        interface = device / f"{path}:1.{number}"
        (interface / ("tty" if acm else tty) / (tty if acm else "tty")).mkdir(parents=True)
        (interface / "bInterfaceNumber").write_text(f"{number:02x}\n")
        subclass, protocol = more.get(f"class{number}", "ff/ff").split("/")
        (interface / "bInterfaceSubClass").write_text(f"{subclass}\n")
        (interface / "bInterfaceProtocol").write_text(f"{protocol}\n")


def test_the_ports_of_an_ec25_have_their_roles_whatever_their_numbers(tmp_path: Path) -> None:
    plug(tmp_path, "1-1.2", "2c7c", "0125", {0: "ttyUSB7", 1: "ttyUSB4", 2: "ttyUSB6", 3: "ttyUSB5"})
    plug(tmp_path, "1-1.3", "0403", "6001", {0: "ttyUSB0"})
    (found,) = find_ports(tmp_path, tmp_path / "dev")
    assert (found.usb_path, found.family, found.device) == ("1-1.2", "quectel", "Quectel EC25/EG25")
    roles = {role: [port.rsplit("/")[-1] for port in found.ports_of(role)] for role in ("diag", "nmea", "at1", "at2")}
    assert roles == {"diag": ["ttyUSB7"], "nmea": ["ttyUSB4"], "at1": ["ttyUSB6"], "at2": ["ttyUSB5"]}
    assert all(port.why for port in found.ports)
    assert "ModemManager" in found.why


def test_an_acm_modem_and_a_huawei_stick_are_found(tmp_path: Path) -> None:
    plug(tmp_path, "1-2", "1546", "1102", {0: "ttyACM0", 2: "ttyACM1", 6: "ttyACM2"}, acm=True)
    huawei = {"class0": "02/01", "class1": "02/02", "class2": "01/05"}
    plug(tmp_path, "1-10", "12d1", "1506", {0: "ttyUSB0", 1: "ttyUSB1", 2: "ttyUSB2"}, name="HUAWEI Mobile", **huawei)
    ublox, stick = find_ports(tmp_path, tmp_path)
    assert [port.role for port in ublox.ports] == ["at1", "at2", "nmea"]
    assert [port.role for port in stick.ports] == ["ppp", "at1", "nmea"]
    assert stick.device == "HUAWEI Mobile"


def _dev(root: Path, peers: dict[str, Peer]) -> Path:
    dev = root / "dev"
    dev.mkdir()
    for name, peer in peers.items():
        (dev / name).symlink_to(peer.port)
    return dev


def test_a_modem_that_goes_away_while_it_is_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(tmp_path, "1-1", "2c7c", "0125", {0: "ttyUSB0"})
    plug(tmp_path, "1-2", "2c7c", "0125", {0: "ttyUSB1"})
    unplugged, scandir = str(tmp_path / "bus/usb/devices/1-1"), os.scandir

    def scan(path: Path) -> object:
        """Between pathlib's look whether there is a folder and its look into it, the cable comes out."""
        if str(path).startswith(unplugged):
            shutil.rmtree(unplugged, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert [modem.usb_path for modem in find_ports(tmp_path, tmp_path)] == ["1-2"]


def test_auto_confirms_by_at_and_never_touches_diag_and_nmea(
    tmp_path: Path, peer: Callable[..., Peer], ec25: Callable[..., Callable[[str], bytes | None]]
) -> None:
    plug(tmp_path, "1-1", "2c7c", "0125", {0: "ttyUSB0", 1: "ttyUSB1", 2: "ttyUSB2", 3: "ttyUSB3"})
    peers = {f"ttyUSB{i}": peer(ec25()) for i in range(4)}
    dev = _dev(tmp_path, peers)
    assert resolve("auto", sys_root=tmp_path, dev_root=dev) == str(dev / "ttyUSB3")
    assert peers["ttyUSB3"].heard
    assert not peers["ttyUSB0"].heard
    assert not peers["ttyUSB1"].heard


def test_auto_takes_the_other_at_port_where_one_does_not_answer(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "2c7c", "0125", {2: "ttyUSB2", 3: "ttyUSB3"})
    chosen = resolve("auto", sys_root=tmp_path, dev_root=tmp_path, answers=lambda port: port.endswith("2"))
    assert chosen.endswith("ttyUSB2")
    with pytest.raises(NoModem, match=r"answers AT on none of .*ttyUSB3, .*ttyUSB2"):
        resolve("auto", sys_root=tmp_path, dev_root=tmp_path, answers=lambda _: False)


def test_auto_refuses_to_guess_between_modems(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "2c7c", "0125", {2: "ttyUSB2"})
    plug(tmp_path, "1-2", "1e0e", "9001", {2: "ttyUSB6"})
    with pytest.raises(NoModem, match=r"2 modems.*1-1 Quectel.*ttyUSB2.*1-2 SIMCom.*ttyUSB6"):
        resolve("auto", sys_root=tmp_path, dev_root=tmp_path, answers=lambda _: True)
    chosen = resolve("auto", usb_path="1-2", sys_root=tmp_path, dev_root=tmp_path, answers=lambda _: True)
    assert chosen.endswith("ttyUSB6")


@pytest.mark.parametrize(
    ("vendor", "product", "told"),
    [("12d1", "14dc", "HiLink"), ("05c6", "9008", "recovery mode"), (None, None, "no USB modem")],
)
def test_auto_says_why_there_is_no_port(tmp_path: Path, vendor: str | None, product: str | None, told: str) -> None:
    if vendor and product:
        plug(tmp_path, "1-1", vendor, product, {0: "ttyUSB0"} if product == "9008" else {})
    with pytest.raises(NoModem, match=told):
        resolve("auto", sys_root=tmp_path, dev_root=tmp_path, answers=lambda _: True)


def test_a_named_port_is_taken_as_it_is() -> None:
    assert resolve("/dev/ttyUSB2") == "/dev/ttyUSB2"


def test_every_line_of_the_table_has_a_source_and_roles_of_its_own() -> None:
    assert len(known_modems()) > 30
    for known in known_modems().values():
        assert known.source
        assert set(known.roles) <= set(ROLES)
        quiet = {known.roles.get("diag"), known.roles.get("nmea")} - {None}
        assert not quiet & {known.roles.get("at1"), known.roles.get("at2"), known.roles.get("ppp")}


def _run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = (
        "import argparse, sys; from agent.modem import commands; p = argparse.ArgumentParser();"
        "commands.add_parser(p.add_subparsers(required=True)); a = p.parse_args(); sys.exit(a.handler(a))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "modem", *arguments], input=stdin, capture_output=True, check=False
    )


def test_the_list_command_shows_ports_and_reasons(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "2c7c", "0125", {2: "ttyUSB2"})
    shown = _run("list", "--sys-root", str(tmp_path))
    assert shown.returncode == 0
    assert b"ttyUSB2" in shown.stdout
    machine = json.loads(_run("list", "--json", "--sys-root", str(tmp_path)).stdout)
    assert machine[0]["ports"][0]["role"] == "at1"
    none = _run("list", "--json", "--sys-root", str(tmp_path / "empty"))
    assert (none.returncode, json.loads(none.stdout)) == (1, [])


def test_the_parse_command_prints_what_the_reply_says() -> None:
    reply = b'AT+QCSQ\r\r\n+QCSQ: "LTE",-66,-94,142,-9\r\n\r\nOK\r\n'
    said = json.loads(_run("parse", "--vendor", "quectel", "--command", "AT+QCSQ", stdin=reply).stdout)
    assert (said["access_technology"], said["rsrp_dbm"], said["sinr_db"], said["error"]) == ("lte", -94, 8.4, None)
    assert "operator" not in said
    failed = _run("parse", "--vendor", "simcom", "--command", "AT+CPIN?", stdin=b"+CME ERROR: SIM not inserted\n")
    assert json.loads(failed.stdout)["sim_state"] == "absent"
    assert _run("parse", "--vendor", "x", "--command", "AT", stdin=b"\xff\x00" * 1_000_000).returncode == 2


def test_reading_replies_loads_no_serial_library() -> None:
    program = "import sys, agent.modem, agent.modem.commands; sys.exit('serial' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
