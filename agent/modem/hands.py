"""What the ladder does with its hands: one method per rung. Each ends by itself; what cannot be done is RungFailed.

A rung that was cut off in the middle may have left the radio off or the device unauthorised: `mend` does its second
half again. Commands per vendor: the modem notes, section 7 (ModemManager's), and section 3 for how long they take.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from agent.measurements.base import Finished, MeasurementFailed, run_killable
from agent.modem.diagnose import REAL, Roots
from agent.modem.discovery import resolve
from agent.modem.errors import ModemError, PortLost
from agent.modem.manager import mmcli
from agent.modem.recovery import HOST_REBOOT, USB_POWER
from agent.modem.session import ModemSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.modem.manager import Ask
    from agent.modems import SerialModems
    from agent.settings import Link

_SESSION_S: Final = 300.0
_COPS_S: Final = 120.0
_ATTACH_S: Final = 45.0
_RADIO_S: Final = 30.0
_RESET_S: Final = 15.0
_NVM_SETTLES_S: Final = 5.0
_RADIO_OFF_S: Final = 2.0
_USB_OFF_S: Final = 3.0
_TOOL_S: Final = 60.0
_REBOOT_WITHIN_S: Final = 180.0
_MANAGER_S: Final = 120.0
_CHOSEN_BY_HAND: Final = {"1", "4"}  # +COPS <mode>, 3GPP TS 27.007 section 7.3
_RADIO_OFF: Final = {"huawei": "AT+CFUN=0"}  # 4 is not supported everywhere there
_RESET: Final = {
    "simcom": "AT+CRESET",
    "telit": "AT#REBOOT",
    "huawei": "AT^RESET",
    "sierra": "AT!RESET",
    "ublox": "AT+CFUN=16",
}
_RESET_OF_MOST: Final = "AT+CFUN=1,1"


class RungFailed(Exception):
    """A rung could not be done; the text says why and what would allow it. It counts as tried."""


class Hands:
    """Does the rungs. `run` runs a tool (raising MeasurementFailed), `sleep` waits; both are there for tests."""

    def __init__(
        self,
        modems: SerialModems,
        *,
        roots: Roots = REAL,
        ask: Ask | None = None,
        run: Callable[[Sequence[str]], Finished] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take what is needed to reach modems and the machine; nothing is opened."""
        self._modems = modems
        self._roots = roots
        self._ask = ask
        self._run = run or (lambda command: run_killable(command, deadline_s=_TOOL_S))
        self._sleep = sleep

    def act(self, link: Link, rung: int) -> str:
        """Do one rung; return what was done. Raise RungFailed."""
        deeds = {1: self._register, 2: self._cycle_radio, 3: self._reset, 4: self._replug, USB_POWER: self._cycle_power}
        try:
            if rung == HOST_REBOOT:
                return self._reboot()
            return deeds[rung](link)
        except (ModemError, MeasurementFailed) as error:
            raise RungFailed(str(error)) from error

    def mend(self, link: Link, rung: int) -> None:
        """Do again the second half of a rung that was cut off; raise RungFailed."""
        try:
            if rung == 1:
                self._tell(link, [("AT+CGATT=1", _ATTACH_S)])
            elif rung in {2, 3}:
                self._tell(link, [("AT+CFUN=1", _RADIO_S)])
            elif rung == 4:  # noqa: PLR2004  # the rung's number
                self._write(self._device(link) / "authorized", "1")
            elif rung == USB_POWER and link.recovery.hub is not None:
                self._uhubctl(link, "on")
        except (ModemError, MeasurementFailed) as error:
            raise RungFailed(str(error)) from error

    # --- by AT, or through ModemManager where that owns the modem -----------------------------------------------------

    def _register(self, link: Link) -> str:
        """Choose the operator anew where that is automatic, else detach and attach: a chosen operator is kept."""
        if (managed := self._modems.managed(link)) is not None:
            return self._manager([["-m", managed.path, "--3gpp-register-home"]])
        with self._session(link) as session:
            mode = next((line.partition(":")[2].strip()[:1] for line in session.ask("AT+COPS?").lines), "")
            if mode not in _CHOSEN_BY_HAND and session.ask("AT+COPS=0", _COPS_S).ok:
                return "AT+COPS=0"
            session.ask("AT+CGATT=0", _ATTACH_S)
            self._sleep(_RADIO_OFF_S)
            answer = session.ask("AT+CGATT=1", _ATTACH_S)
            return f"AT+CGATT=0, AT+CGATT=1: {answer.final or 'no answer'}"

    def _cycle_radio(self, link: Link) -> str:
        if (managed := self._modems.managed(link)) is not None:
            return self._manager([["-m", managed.path, "--disable"], ["-m", managed.path, "--enable"]])
        with self._session(link) as session:
            off = _RADIO_OFF.get(session.identify().vendor, "AT+CFUN=4")
            said_off = session.ask(off, _RADIO_S).final
            self._sleep(_RADIO_OFF_S)
            said_on = session.ask("AT+CFUN=1", _RADIO_S).final
            return f"{off}: {said_off or 'no answer'}; AT+CFUN=1: {said_on or 'no answer'}"

    def _reset(self, link: Link) -> str:
        """Detach, let the modem's memory settle, and reboot it; that its port vanishes is what should happen."""
        if (managed := self._modems.managed(link)) is not None:
            return self._manager([["-m", managed.path, "--reset"]])
        with self._session(link) as session:
            command = _RESET.get(session.identify().vendor, _RESET_OF_MOST)
            session.ask("AT+CGATT=0", _ATTACH_S)
            self._sleep(_NVM_SETTLES_S)
            try:
                final = session.ask(command, _RESET_S).final
            except PortLost:
                final = "the port vanished"
            return f"{command}: {final or 'no answer'}"

    def _tell(self, link: Link, commands: Sequence[tuple[str, float]]) -> None:
        if self._modems.managed(link) is None:
            with self._session(link) as session:
                for command, timeout_s in commands:
                    session.ask(command, timeout_s)

    def _session(self, link: Link) -> ModemSession:
        if link.modem is None or link.modem.startswith("http:"):
            raise RungFailed(f"link {link.name} has no AT port; only the rungs of USB and host can be done")
        port = resolve(link.modem, usb_path=link.usb_path, sys_root=self._roots.sys, dev_root=self._roots.dev)
        return ModemSession(port, deadline_s=_SESSION_S)

    def _manager(self, calls: Sequence[Sequence[str]]) -> str:
        ask = self._ask or (lambda call: mmcli(call, timeout_s=_MANAGER_S))
        for call in calls:
            ask(call)
        return "; ".join(f"mmcli {' '.join(call)}" for call in calls)

    # --- by the kernel and the machine --------------------------------------------------------------------------------

    def _replug(self, link: Link) -> str:
        """Take the device's authorisation and give it back: every driver lets go of it and binds anew."""
        switch = self._device(link) / "authorized"
        self._write(switch, "0")
        self._sleep(_USB_OFF_S)
        self._write(switch, "1")
        return f"{switch.parent.name}: authorized 0, 1"

    def _device(self, link: Link) -> Path:
        usb_path = link.usb_path or self._modems.usb_path(link)
        if usb_path is None:
            raise RungFailed(f"link {link.name}: its modem is not found on the USB; give the link its usb_path")
        return self._roots.sys / "bus/usb/devices" / usb_path

    @staticmethod
    def _write(switch: Path, value: str) -> None:
        try:
            switch.write_text(value, encoding="ascii")
        except OSError as error:
            raise RungFailed(f"{switch}: {error.strerror}; this rung needs root, see docs/operations.md") from error

    def _cycle_power(self, link: Link) -> str:
        return self._uhubctl(link, "cycle")

    def _uhubctl(self, link: Link, action: str) -> str:
        hub = link.recovery.hub
        if hub is None:
            raise RungFailed(f"link {link.name}: rung 5 needs recovery.hub in agent.yaml")
        command = ["uhubctl", "-l", hub.location, "-p", str(hub.port), "-a", action, "-d", "5"]
        self._tool(command)
        return " ".join(command)

    def _reboot(self) -> str:
        """Ask for a reboot and wait to be ended by it."""
        self._tool(["systemctl", "reboot"])
        self._sleep(_REBOOT_WITHIN_S)
        raise RungFailed(f"systemctl reboot was accepted, and {_REBOOT_WITHIN_S:.0f} s later the machine still runs")

    def _tool(self, command: Sequence[str]) -> None:
        done = self._run(command)
        if done.status != 0:
            raise RungFailed(f"{' '.join(command)}: {done.complaint or f'status {done.status}'}")
