"""Who holds a port; a modem that ModemManager owns is asked through it, and its ports are left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.measurements.base import MeasurementFailed
from agent.modem import manager, manager_talk, owner
from agent.modem.discovery import FoundModem, FoundPort
from agent.modem.errors import CommandRefused, ModemTimeout
from agent.modems import SerialModems
from agent.settings import Balance, Link, Sms
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What Debian's mmcli 1.20 printed of the simulated EC25 in the virtual machine, and what was true at that moment.
TOLD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "transcripts/mmcli/quectel-ec25.json").read_text(encoding="utf-8")
)
MODEM_PATH = "/org/freedesktop/ModemManager1/Modem/0"
EC25 = FoundModem(
    usb_path="1-1",
    vendor_id="2c7c",
    product_id="0125",
    device="Quectel EC25/EG25",
    family="quectel",
    ports=(
        FoundPort(device="/dev/ttyUSB0", interface=0, role="diag", why=""),
        FoundPort(device="/dev/ttyUSB2", interface=2, role="at1", why=""),
    ),
)


SMS = "/org/freedesktop/ModemManager1/SMS/"


def _message(state: str, number: str, text: str) -> dict[str, Any]:
    return {"content": {"number": number, "text": text, "data": "--"}, "properties": {"state": state}}


class Mmcli:
    """Answers as mmcli did; `changes` replace entries of modem.generic and modem.3gpp."""

    def __init__(self, *, signal_is_polled: bool = True, **changes: Any) -> None:  # noqa: ANN401  # JSON
        self.asked: list[str] = []
        self._told = json.loads(json.dumps(TOLD))
        self._polled = signal_is_polled
        self.ussd = "Quy khach con 2.048MB"
        self.messages = {
            SMS + "1": _message("received", "191", "Con lai 9 MB"),
            SMS + "2": _message("received", "+84900000001", "Chuc mung"),
        }
        self.answer = [("11", "den 24h00"), ("10", "Còn lại 700 MB")]
        for section in ("generic", "3gpp"):
            known = self._told["modem"]["modem"][section]
            known.update({key: value for name, value in changes.items() if (key := name.replace("_", "-")) in known})

    def __call__(self, arguments: Sequence[str]) -> dict[str, Any]:  # noqa: PLR0911  # a table
        self.asked.append(" ".join(arguments))
        match list(arguments):
            case ["-m", _, text] if text.startswith(("--3gpp-ussd", "--messaging")):
                return self._talk(text)
            case ["-s", path, *more]:
                return {"text": "successfully sent the SMS"} if more else {"sms": self.messages[path]}
            case ["-L"]:
                return {"modem-list": [MODEM_PATH]}
            case ["-i", _]:
                return dict(self._told["sim"])
            case ["-m", _, "--signal-get"]:
                return dict(self._told["signal"]) if self._polled else {"modem": {"signal": {"lte": {"rsrp": "--"}}}}
            case ["-m", _, "--location-get"]:
                return dict(self._told["location"])
            case ["-m", _]:
                return dict(self._told["modem"])
            case ["-m", _, text] if text.startswith("--signal-setup="):
                self._polled = True
                return {}
        raise CommandRefused(" ".join(arguments))

    def _talk(self, text: str) -> dict[str, Any]:
        """Answer as mmcli 1.20 prints: plain text where something is done, JSON where something is listed."""
        option, _, value = text.partition("=")
        match option:
            case "--3gpp-ussd-initiate":
                return {"text": f"USSD session initiated; new reply from network: '{self.ussd}'"}
            case "--messaging-list-sms":
                return {"modem.messaging.sms": list(self.messages)}
            case "--messaging-create-sms":
                self.messages[SMS + "9"] = _message("submit", "191", value)
                self.messages |= {SMS + number: _message("received", "+191", part) for number, part in self.answer}
                return {"text": f"Successfully created new SMS: {SMS}9"}
            case "--messaging-delete-sms":
                del self.messages[value]
                return {"text": "successfully deleted SMS from modem"}
        raise CommandRefused("error: couldn't cancel USSD session: no active session")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Make a /proc in which ModemManager runs, and holds /dev/ttyUSB2."""
    process = tmp_path / "proc/4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("ModemManager\n")
    (process / "fd/7").symlink_to("/dev/ttyUSB2")
    (tmp_path / "proc/self").mkdir()
    return tmp_path / "proc"


def link(**changes: Any) -> Link:  # noqa: ANN401  # fields of a Link
    return Link(**{"name": "viettel", "interface": "wwan0", **changes})


def test_what_modem_manager_says_is_what_was_true() -> None:
    ask = Mmcli()
    (modem,) = manager.modems_of_manager(ask)
    assert (modem.usb_path, modem.manufacturer, modem.model) == ("1-1", "Quectel", "EC25")
    assert modem.ports_in_use == {"ttyUSB1", "ttyUSB2", "ttyUSB3"}
    assert modem.pin_tries == 3
    reading, truth = manager.read_radio(modem, ask), msgspec.convert(TOLD["truth"], RadioReading)
    for name in ("registration", "technology", "operator", "mcc", "mnc", "tac", "lac", "cell_id", "enodeb_id"):
        assert getattr(reading, name) == getattr(truth, name), name
    assert reading.rsrp_dbm == pytest.approx(truth.rsrp_dbm, abs=2)
    assert reading.rsrq_db == pytest.approx(truth.rsrq_db, abs=1)
    assert (reading.sinr_db, reading.band) == (None, None), "it does not say them of this modem"


def test_a_modem_that_it_owns_is_never_opened(proc: Path) -> None:
    modems = SerialModems(sys_root=proc / "sys", dev_root=proc / "dev", proc_root=proc, ask=Mmcli())
    look = modems.look(link())
    assert (look.reading.operator, look.model) == ("Viettel", "EC25")
    assert look.iccid_sha256 is not None
    assert len(look.iccid_sha256) == 64
    assert modems.look(link(usb_path="1-1")).reading == look.reading
    assert modems.managed(link(usb_path="1-2")) is None


@pytest.mark.parametrize("text", ["Quy khach con 2.048MB", "Con lai: 1,5 GB.\n1. Mua 'them'\n0. Thoat"])
def test_the_operator_is_asked_by_ussd_through_it_and_its_menu_is_left(proc: Path, text: str) -> None:
    ask = Mmcli()
    ask.ussd = text
    modems = SerialModems(sys_root=proc / "sys", dev_root=proc / "dev", proc_root=proc, ask=ask)
    assert modems.ask_operator(link(), Balance(ussd="*102#")) == text
    assert ask.asked[-2:] == [f"-m {MODEM_PATH} --3gpp-ussd-initiate=*102#", f"-m {MODEM_PATH} --3gpp-ussd-cancel"]


def test_the_operator_is_asked_by_a_message_through_it_and_the_answer_is_taken_off_the_sim(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Mmcli()
    modems = SerialModems(sys_root=proc / "sys", dev_root=proc / "dev", proc_root=proc, ask=ask)
    question = Balance(sms=Sms(number="191", text="KTDL"))
    assert modems.ask_operator(link(), question) == "Còn lại 700 MB den 24h00", "in its order, without the old one"
    assert list(ask.messages) == [SMS + "2"], "what others wrote stays, what was sent does not"
    assert f'-m {MODEM_PATH} --messaging-create-sms=number="191",text="KTDL"' in ask.asked
    ask.answer = []
    monkeypatch.setattr(manager_talk, "_ANSWER_S", 0.05)
    monkeypatch.setattr(manager_talk, "_LOOK_EVERY_S", 0.02)
    with pytest.raises(ModemTimeout, match="191 did not answer 'KTDL'"):
        modems.ask_operator(link(), question)


def test_what_mmcli_prints_as_text_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "mmcli"
    script.write_text("#!/bin/sh\necho \"USSD session initiated; new reply from network: 'Con lai 5 MB'\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (modem,) = manager.modems_of_manager(Mmcli())
    assert manager_talk.ussd(modem, "*102#") == "Con lai 5 MB"
    script.write_text("#!/bin/sh\necho \"error: couldn't initiate USSD session: 'timeout'\" >&2; exit 1\n")
    with pytest.raises(CommandRefused, match="couldn't initiate USSD session"):
        manager_talk.ussd(modem, "*102#")


def test_a_port_that_it_ignores_is_ours_even_where_it_owns_the_rest(proc: Path) -> None:
    ask = Mmcli(ports=["cdc-wdm0 (qmi)", "ttyUSB2 (at)", "ttyUSB3 (ignored)", "wwan0 (net)"])
    modems = SerialModems(proc_root=proc, ask=ask)
    assert modems.managed(link(modem="/dev/ttyUSB3")) is None
    assert modems.managed(link(modem="/dev/ttyUSB2")) is not None


def test_without_modem_manager_nobody_is_asked(tmp_path: Path) -> None:
    ask = Mmcli()
    assert SerialModems(proc_root=tmp_path, ask=ask).managed(link()) is None
    assert ask.asked == []


def test_its_signal_polling_is_switched_on_where_it_is_off() -> None:
    ask = Mmcli(signal_is_polled=False)
    (modem,) = manager.modems_of_manager(ask)
    assert manager.read_radio(modem, ask).rsrp_dbm == -95.0
    assert f"-m {MODEM_PATH} --signal-setup=10" in ask.asked


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "failed", "state_failed_reason": "sim-missing"}, Reason.SIM_ABSENT),
        ({"state": "locked", "unlock_required": "sim-pin"}, Reason.SIM_LOCKED),
        ({"state": "locked", "unlock_required": "sim-puk"}, Reason.SIM_LOCKED),
        ({"state": "locked", "unlock_required": "ph-net-pin"}, Reason.SIM_LOCKED),
    ],
)
def test_a_sim_that_is_not_ready_has_its_reason(proc: Path, changes: dict[str, str], reason: Reason) -> None:
    with pytest.raises(MeasurementFailed) as failure:
        SerialModems(proc_root=proc, ask=Mmcli(**changes)).look(link())
    assert failure.value.reason is reason


@pytest.mark.parametrize(
    ("said", "registration"),
    [
        ("roaming", Registration.ROAMING),
        ("denied", Registration.DENIED),
        ("idle", Registration.NOT_REGISTERED),
        ("--", None),
    ],
)
def test_registration_has_our_names(said: str, registration: Registration | None) -> None:
    (modem,) = manager.modems_of_manager(Mmcli(registration_state=said))
    assert modem.registration is registration


@pytest.mark.parametrize(
    ("said", "technology"),
    [
        (["lte"], Technology.LTE),
        (["lte", "5gnr"], Technology.NR5G_NSA),
        (["5gnr"], Technology.NR5G_SA),
        (["hspa-plus"], Technology.UMTS),
        (["edge"], Technology.GSM),
        ([], None),
    ],
)
def test_technologies_have_our_names(said: list[str], technology: Technology | None) -> None:
    (modem,) = manager.modems_of_manager(Mmcli(access_technologies=said))
    assert manager.radio_of(modem, {}, {}).technology is technology


@pytest.mark.parametrize("nonsense", [{}, {"modem": None}, {"modem": {"generic": [], "3gpp": "x"}}, {"modem": 7}])
def test_answers_that_make_no_sense_are_modems_without_facts(nonsense: dict[str, Any]) -> None:
    assert manager.parse_modem(nonsense) == manager.MmModem(path="", usb_path="")


def test_mmcli_that_is_not_there_is_no_modem() -> None:
    def ask(arguments: Sequence[str]) -> dict[str, Any]:
        raise CommandRefused(str(arguments))

    assert manager.modems_of_manager(ask) == []


def test_mmcli_that_cannot_be_run_is_an_error_of_the_modem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mmcli").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "mmcli").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandRefused, match="mmcli -J -L: Exec format error"):
        manager.mmcli(["-L"])


# --- holders ---


def test_who_holds_a_port_is_found_by_its_open_files() -> None:
    master, slave = os.openpty()
    name = os.ttyname(slave)
    command = [sys.executable, "-c", "import sys, time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = owner.holders([name, "/dev/none"])
        child.kill()
    os.close(master)
    os.close(slave)
    assert list(found) == [name]
    assert [holder.pid for holder in found[name]] == [child.pid]
    assert "python" in found[name][0].program


def test_a_port_is_held_by_a_process_or_by_modem_manager_or_by_nobody(proc: Path) -> None:
    found = owner.owner_of(EC25, Mmcli(), proc)
    assert found.of_port("/dev/ttyUSB2") == "ModemManager (process 4711)"
    assert found.of_port("/dev/ttyUSB3") == "ModemManager"
    assert found.of_port("/dev/ttyUSB0") == "nobody"
    text = "\n".join(owner.owner_lines(EC25, found))
    assert "/dev/ttyUSB2     held by ModemManager (process 4711)" in text
    assert "probe-agent modem ignore-rule --usb-path 1-1" in text


def test_a_hilink_stick_is_named_with_its_address() -> None:
    stick = msgspec.structs.replace(EC25, vendor_id="12d1", product_id="14dc", ports=())
    assert "modem: http://192.168.8.1/" in "\n".join(owner.owner_lines(stick, owner.Owner()))


# --- the udev rule ---


def test_the_rule_names_the_modem_and_how_to_install_it() -> None:
    text = owner.ignore_rule(EC25)
    assert 'ATTRS{idVendor}=="2c7c", ATTRS{idProduct}=="0125", ENV{ID_MM_DEVICE_IGNORE}="1"' in text
    assert "/etc/udev/rules.d/78-mm-probefleet-ignore.rules" in text
    assert "udevadm control --reload" in text


def test_one_interface_alone_can_be_ignored() -> None:
    text = owner.ignore_rule(EC25, only_port=3)
    assert 'ENV{.PROBEFLEET_IF}=="03", ENV{ID_MM_PORT_IGNORE}="1"' in text
    assert "ID_MM_DEVICE_IGNORE" not in text


@pytest.fixture
def usb(tmp_path: Path) -> Callable[[str, str, str], Path]:
    def plug(path: str, vendor: str, product: str) -> Path:
        folder = tmp_path / "bus/usb/devices" / path
        folder.mkdir(parents=True)
        (folder / "idVendor").write_text(vendor)
        (folder / "idProduct").write_text(product)
        return tmp_path

    return plug


def rule(sys_root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli", "modem", "ignore-rule", "--sys-root", str(sys_root), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_it_and_asks_which_where_there_are_several(usb: Callable[[str, str, str], Path]) -> None:
    usb("1-1.1", "2c7c", "0125")
    assert 'ATTRS{idProduct}=="0125"' in rule(usb("1-1.9", "0403", "6001")).stdout
    root = usb("1-1.2", "1e0e", "9001")
    several = rule(root)
    assert (several.returncode, several.stdout) == (1, "")
    assert "1-1.1 Quectel EC25/EG25, 1-1.2" in several.stderr
    assert 'ATTRS{idVendor}=="1e0e"' in rule(root, "--usb-path", "1-1.2").stdout
