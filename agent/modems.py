"""A modem, however it is reached: by AT, through ModemManager where that owns it, or over HTTP. Found for every look.

A port is opened for one look and closed again, so that unplugging hurts nobody; who owns the modem is asked before, so
that there are never two readers on one port.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.bench import Look
from agent.measurements.base import MeasurementFailed
from agent.modem import hilink, manager, manager_talk, sms, ussd
from agent.modem.discovery import find_ports, resolve
from agent.modem.errors import ModemError, NoModem
from agent.modem.glance import GLANCE_WITHIN_S, Glance
from agent.modem.owner import manager_runs
from agent.modem.session import ModemSession
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.modem.manager import Ask, MmModem
    from agent.settings import Balance, Link
    from wire.radio import RadioReading

LOOK_WITHIN_S: Final = 30.0
_SESSION_WITHIN_S: Final = 90.0


class SerialModems:
    """Looks at modems. The roots and `ask` (mmcli) are there for tests."""

    def __init__(
        self,
        *,
        sys_root: Path = Path("/sys"),
        dev_root: Path = Path("/dev"),
        proc_root: Path = Path("/proc"),
        ask: Ask | None = None,
    ) -> None:
        """Take where to look; nothing is opened."""
        self._sys_root = sys_root
        self._dev_root = dev_root
        self._proc_root = proc_root
        self._ask = ask

    def look(self, link: Link) -> Look:
        """Ask who the modem is and what its radio does; raise MeasurementFailed."""
        if link.modem is None:
            raise MeasurementFailed(Reason.NO_MODEM, f"link {link.name} has no modem in agent.yaml")
        try:
            managed = self.managed(link)
            if managed is not None:
                reading = manager.read_radio(managed, self._ask)
                return Look(reading, model=managed.model, iccid_sha256=manager.read_iccid_sha256(managed, self._ask))
            if hilink.is_address(link.modem):
                return Look(*hilink.look(link.modem))
            port = resolve(link.modem, usb_path=link.usb_path, sys_root=self._sys_root, dev_root=self._dev_root)
            with ModemSession(port, deadline_s=LOOK_WITHIN_S) as modem:
                identity = modem.identify()
                return Look(modem.read_radio(), model=identity.model, iccid_sha256=identity.iccid_sha256)
        except ModemError as error:
            raise MeasurementFailed(error.reason, str(error)) from error

    @contextmanager
    def watch(self, link: Link) -> Iterator[Callable[[], RadioReading]]:
        """Hold the port; inside, each call asks for the technology alone, in 5 s at most. Raise MeasurementFailed.

        A modem that speaks HTTP is not watched: its answers would cross the link that is measured.
        """
        try:
            if (managed := self.managed(link)) is not None:
                yield lambda: manager.read_technology(managed, self._ask)
                return
            port = self._port(link)
            with ModemSession(port, deadline_s=GLANCE_WITHIN_S) as modem:
                yield Glance(modem)
        except ModemError as error:
            raise MeasurementFailed(error.reason, str(error)) from error

    def session(self, link: Link) -> ModemSession:
        """Make a session with the link's modem by AT; raise ModemError where it has no port that is ours to open."""
        if self.managed(link) is not None:
            raise NoModem(f"link {link.name}: ModemManager holds its modem")
        return ModemSession(self._port(link), deadline_s=_SESSION_WITHIN_S)

    def _port(self, link: Link) -> str:
        if link.modem is None or hilink.is_address(link.modem):
            raise NoModem(f"link {link.name}: its modem has no AT port")
        return resolve(link.modem, usb_path=link.usb_path, sys_root=self._sys_root, dev_root=self._dev_root)

    def ask_operator(self, link: Link, question: Balance) -> str:
        """Ask the operator by USSD or a message, however the modem is reached; return his words. Raise ModemError."""
        if link.modem is None:
            raise NoModem(f"link {link.name} has no modem in agent.yaml")
        code, message = question.ussd or "", question.sms
        if (owned := self.managed(link)) is not None:
            if message is not None:
                return manager_talk.sms(owned, message.number, message.text, self._ask)
            return manager_talk.ussd(owned, code, self._ask)
        if hilink.is_address(link.modem):
            if message is not None:
                return hilink.sms(link.modem, message.number, message.text)
            return hilink.ussd(link.modem, code)
        with self.session(link) as modem:
            return sms.ask(modem, message.number, message.text) if message is not None else ussd.ask(modem, code)

    def managed(self, link: Link) -> MmModem | None:
        """Find the link's modem among those that ModemManager owns, as long as it uses the port that we would read.

        A modem is ours if ModemManager ignores it, or keeps off the very port that the link names.
        """
        if link.modem is None or not manager_runs(self._proc_root):
            return None
        owned = manager.modems_of_manager(self._ask)
        if link.modem != "auto":
            node = Path(link.modem).resolve().name
            return next((one for one in owned if node in one.ports_in_use), None)
        mine = [one for one in owned if link.usb_path in {None, one.usb_path}]
        if len(mine) > 1:
            listed = ", ".join(f"{one.usb_path} {one.model}" for one in mine)
            raise NoModem(f"modem auto: ModemManager has several: {listed}; name one by the link's usb_path")
        return mine[0] if mine else None

    def usb_path(self, link: Link) -> str | None:
        """Find where on the USB the link's modem is plugged in now; None if that cannot be told."""
        found = find_ports(self._sys_root, self._dev_root)
        if link.modem == "auto":
            mine = [modem.usb_path for modem in found if link.usb_path in {None, modem.usb_path}]
            return mine[0] if len(mine) == 1 else None
        node = str(Path(link.modem or "").resolve())
        return next(
            (m.usb_path for m in found for p in m.ports if node in {p.device, str(Path(p.device).resolve())}), None
        )
