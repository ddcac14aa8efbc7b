"""The journey of Debian's ModemManager: another program's reading of the simulated modem, by its own rules.

ModemManager runs as Debian's unit starts it, and finds the modem by the udev events of its being plugged in.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.modem.discovery import find_ports
from agent.modem.manager import modems_of_manager
from agent.modem.owner import holders, ignore_rule
from agent.modems import SerialModems
from agent.settings import Link
from lab.netns import Run
from lab.vm.diary import until
from lab.vm.guest.network import OperatorNetwork
from lab.vm.guest.usb_modem import UsbModem
from lab.vm.guest.usb_names import wait_for_ports

if TYPE_CHECKING:
    from lab.vm.diary import Diary

_LINK: Final = Link(name="viettel", interface="lo")  # modem: auto
_RULE: Final = Path("/etc/udev/rules.d/78-mm-probefleet.rules")
_PROBED_WITHIN_S: Final = 60.0  # it waits for stragglers among the ports, and gives each several tries
_REGISTERED_WITHIN_S: Final = 60.0
_SIGNAL_WITHIN_S: Final = 20.0


def tell(diary: Diary, folder: Path) -> None:
    """Have ModemManager find, enable and read the modem; raise GaveUp, or CalledProcessError where it refuses."""
    _call("systemctl", "start", "ModemManager")
    try:
        with Run() as run:
            network = OperatorNetwork(run.namespace("operator"))
            with UsbModem(folder, operator="viettel", on_data=network.carry) as modem:
                diary.tell("plugged in", **wait_for_ports())
                until(_state, "ModemManager to take the modem", within_s=_PROBED_WITHIN_S)
                diary.tell("taken", state=_state())
                _call("mmcli", "--modem=any", "--enable")
                until(lambda: _state() == "registered", "registration", within_s=_REGISTERED_WITHIN_S)
                told = _told("--modem=any")
                card = _told(f"--sim={told['generic']['sim']}")
                diary.tell(
                    "registered",
                    modem=told,
                    sim=card,
                    imei=modem.truth.imei,
                    imsi=modem.truth.sim.imsi,
                    iccid=modem.truth.sim.iccid,
                )
                _call("mmcli", "--modem=any", "--signal-setup=1")
                until(_rsrp, "signal figures", within_s=_SIGNAL_WITHIN_S)
                signal = _told("--modem=any", "--signal-get")["signal"]
                diary.tell("signal", signal=signal, truth=modem.truth.radio_now())
                diary.tell("location", location=_told("--modem=any", "--location-get"))
                look = SerialModems().look(_LINK)
                diary.tell("through the manager", reading=look.reading, model=look.model, truth=modem.truth.radio_now())
                _keep_off(diary)
                look = SerialModems().look(_LINK)
                diary.tell("by our own port", reading=look.reading, model=look.model, truth=modem.truth.radio_now())
    finally:
        _RULE.unlink(missing_ok=True)
        _call("systemctl", "stop", "ModemManager")
        (folder / "journal").write_text(_call("journalctl", "--unit=ModemManager"), encoding="utf-8")


def _keep_off(diary: Diary) -> None:
    """Do as `probe-agent modem ignore-rule` says; tell what udev then knows of the port, and who holds it."""
    (found,) = find_ports()
    port = found.ports_of("at1")[0]
    diary.tell("held", holders=[holder.program for holder in holders([port])[port]])
    _RULE.write_text(ignore_rule(found), encoding="utf-8")
    for command in (("control", "--reload"), ("trigger",), ("settle",)):
        _call("udevadm", *command)
    _call("systemctl", "restart", "ModemManager")
    until(lambda: not modems_of_manager(), "ModemManager to be back without the modem", within_s=_PROBED_WITHIN_S)
    properties = _call("udevadm", "info", "--query=property", f"--name={port}")
    diary.tell("kept off", properties=properties, holders=[holder.program for holder in holders([port]).get(port, ())])


def _state() -> str | None:
    """Return the modem's state as ModemManager names it; None while it has no modem."""
    try:
        told = _told("--modem=any")
    except subprocess.CalledProcessError:
        return None
    return str(told["generic"]["state"])


def _rsrp() -> bool:
    return bool(_told("--modem=any", "--signal-get")["signal"]["lte"]["rsrp"] != "--")


def _told(*arguments: str) -> dict[str, Any]:
    """Ask ModemManager; return what it has to say of its one modem or SIM."""
    (said,) = msgspec.json.decode(_call("mmcli", "--output-json", *arguments), type=dict[str, dict[str, Any]]).values()
    return said


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
