"""Bringing a link up: SIM, APN, registration, data, and the proof of it; each step says what was found, done, and why.

How the data comes is chosen by what the modem shows: a network device that speaks DHCP (ECM, RNDIS, NCM) is only
verified; QMI and MBIM go through ModemManager; a modem with nothing but serial ports is dialled by pppd. USB
compositions are never switched, and nothing is written to flash that agent.yaml does not allow.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from agent.measurements.base import Finished, MeasurementFailed, require_usable, run_killable
from agent.modem import apn, data_way, manager, ppp, sim_pin
from agent.modem.diagnose import REAL, Roots
from agent.modem.discovery import find_ports, resolve
from agent.modem.errors import ModemError, NotRegistered
from agent.modem.merge import REGISTERED
from agent.modem.session import ModemSession
from agent.name_servers import of_resolv_conf
from agent.path import look
from agent.settings import BringUp
from base.durable import StorageError
from wire.radio import RadioReading, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.modem.data_way import Chosen, Run
    from agent.modem.discovery import FoundModem
    from agent.modem.manager import Ask, MmModem
    from agent.modems import SerialModems
    from agent.settings import Link

State = Literal["ok", "done", "would", "told", "failed"]

FAILED_PINS_FILE: Final = "failed-pins.json"
_ASK_EVERY_S: Final = 2.0
_WAIT_AGAIN_S: Final = 30.0
_AGAIN_S: Final = 15.0
_AGAIN_AT_LATEST_S: Final = 600.0
_SPARE_S: Final = 120.0
_PPP_UP_S: Final = 60.0
_TOOL_S: Final = 15.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: found in order (ok), done, what a dry run would do, left to others (told), or failed."""

    name: str
    state: State
    told: str


def _run_tool(command: Sequence[str]) -> Finished:
    return run_killable(command, deadline_s=_TOOL_S)


class Tools(NamedTuple):
    """What reaches the modem and the machine, in one hand; tests replace it."""

    modems: SerialModems
    data_dir: Path
    roots: Roots = REAL
    ask: Ask = manager.mmcli
    run: Run = _run_tool
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    pppd: str = "pppd"
    resolv_conf: Path = Path("/etc/resolv.conf")


class Bringer:
    """Brings links up, and holds the pppd children that it has started until `close`."""

    def __init__(self, tools: Tools) -> None:
        """Start with nothing up."""
        self._tools = tools
        self._calls: dict[str, ppp.PppLink] = {}
        self._failed: dict[str, int] = {}
        self._not_before_s: dict[str, float] = {}

    def up(self, link: Link, *, dry_run: bool, tell: Callable[[Step], None]) -> bool:
        """Bring a link up, telling each step; return whether every step went well."""
        attempt = _Attempt(self._tools, self._calls, link, tell, dry_run=dry_run)
        good = attempt.tried(attempt.up)
        if not dry_run:
            self._note(link, good=good)
        return good

    def again(self, link: Link) -> str | None:
        """Bring a link up once more, as far as agent.yaml allows; return how it ended, None if it is not allowed.

        The network is not waited for as long as the first time: there are other links to measure.
        """
        if link.modem is None or (link.bring_up is None and link.pin_file is None):
            return None
        steps: list[Step] = []
        attempt = _Attempt(self._tools, self._calls, link, steps.append, dry_run=False, wait_s=_WAIT_AGAIN_S)
        self._note(link, good=attempt.tried(attempt.up if link.bring_up is not None else attempt.sim))
        return "; ".join(f"{step.name}: {step.told}" for step in steps[-2:])

    def due(self, link: Link) -> bool:
        """Whether a link is to be brought up again: its call has ended, or the last try failed some while ago."""
        if link.bring_up is None or not (self.ended(link) or link.name in self._failed):
            return False
        return self._tools.clock() >= self._not_before_s.get(link.name, 0.0)

    def calls(self, link: Link) -> bool:
        """Whether a pppd of ours carries the link."""
        return link.name in self._calls and self._calls[link.name].runs

    def ended(self, link: Link) -> bool:
        """Whether a pppd of ours carried the link, and has ended by itself."""
        return link.name in self._calls and not self._calls[link.name].runs

    def close(self) -> None:
        """End every call."""
        for call in self._calls.values():
            call.stop()
        self._calls.clear()

    def _note(self, link: Link, *, good: bool) -> None:
        """Note how a try ended: the pauses between tries that fail double."""
        if good:
            self._failed.pop(link.name, None)
            self._not_before_s.pop(link.name, None)
        else:
            count = self._failed[link.name] = self._failed.get(link.name, 0) + 1
            pause_s = min(_AGAIN_S * 2.0 ** min(count - 1, 10), _AGAIN_AT_LATEST_S)
            self._not_before_s[link.name] = self._tools.clock() + pause_s


class _Attempt:
    """One bringing up of one link."""

    def __init__(
        self,
        tools: Tools,
        calls: dict[str, ppp.PppLink],
        link: Link,
        tell: Callable[[Step], None],
        *,
        dry_run: bool,
        wait_s: float | None = None,
    ) -> None:
        self._tools = tools
        self._calls = calls
        self._link = link
        self._options = link.bring_up or BringUp()
        self._wait_s = float(self._options.wait_s) if wait_s is None else min(wait_s, self._options.wait_s)
        self._tell = tell
        self._dry_run = dry_run
        self._step = "modem"
        self._name_servers: tuple[str, ...] = ()

    def tried(self, work: Callable[[], None]) -> bool:
        """Do the work; what goes wrong becomes a failed step."""
        try:
            work()
        except (ModemError, MeasurementFailed, StorageError) as error:
            told = error.detail if isinstance(error, MeasurementFailed) else str(error)
            self._say("failed", told)
            return False
        return True

    def up(self) -> None:
        """Do everything; raise at the first step that fails."""
        managed = self._tools.modems.managed(self._link) if self._link.modem is not None else None
        modem = self._find()
        if managed is not None:
            self._say("ok", f"{managed.manufacturer} {managed.model} at {managed.usb_path}, owned by ModemManager")
            access = self._managed(managed)
        elif self._link.modem is None or self._link.modem.startswith("http:"):
            self._say("told", "no AT port; its SIM and its network are left to the device")
            access = apn.Apn("")
        else:
            access = self._by_at(modem)
        self._step = "data"
        devices = modem.interfaces if modem is not None else ()
        drivers = {name: data_way.driver_of(name, self._tools.roots.sys) for name in devices}
        chosen = data_way.choose(self._options.data, self._link.interface, modem, managed, drivers)
        if not look(self._link.interface).source_address:
            self._data(chosen, modem, managed, access)
        else:
            self._say("ok", f"{self._link.interface} is up already ({chosen.way or 'unknown way'}: {chosen.why})")
        if self._dry_run and not look(self._link.interface).source_address:
            return
        self._verify()

    def sim(self) -> None:
        """Only make the SIM ready."""
        if self._link.modem is not None and self._tools.modems.managed(self._link) is None:
            with self._session() as session:
                self._unlock(session)

    # --- modem and network ------------------------------------------------------------------------------------------

    def _find(self) -> FoundModem | None:
        usb_path = self._link.usb_path or self._tools.modems.usb_path(self._link)
        found = find_ports(self._tools.roots.sys, self._tools.roots.dev)
        return next((modem for modem in found if modem.usb_path == usb_path), None)

    def _session(self) -> ModemSession:
        assert self._link.modem is not None  # noqa: S101  # every caller has looked
        roots = self._tools.roots
        port = resolve(self._link.modem, usb_path=self._link.usb_path, sys_root=roots.sys, dev_root=roots.dev)
        return ModemSession(port, deadline_s=self._options.wait_s + _SPARE_S)

    def _by_at(self, modem: FoundModem | None) -> apn.Apn:
        with self._session() as session:
            identity = session.identify()
            where = f", USB {modem.usb_path}: {modem.why}" if modem is not None else ""
            self._say("ok", f"{identity.manufacturer} {identity.model} answers on {session.port_name}{where}")
            if not self._unlock(session):
                raise ModemError("a dry run ends here: nothing more can be told before the SIM is ready")
            self._step = "apn"
            write = self._options.write_apn and not self._dry_run
            outcome = apn.ensure(session, self._link.apn, write=write)
            differs = not outcome.written and not outcome.wanted.same_as(outcome.found or "")
            if outcome.written:
                self._say("done", outcome.told)
            elif differs and self._dry_run and self._options.write_apn:
                self._say("would", f"write APN {outcome.wanted.name} in place of {outcome.found or 'none'}")
            else:
                self._say("told" if differs else "ok", outcome.told)
            self._step = "network"
            self._wait_for_network(session)
            return outcome.wanted

    def _unlock(self, session: ModemSession) -> bool:
        """Make the SIM ready; return whether it is, which a dry run leaves open where a PIN would be typed."""
        self._step = "sim"
        state = session.sim_state()
        if self._dry_run and state == "pin" and self._link.pin_file is not None:
            sim_pin.read_pin(self._link.pin_file)
            self._say("would", f"type the PIN of {self._link.pin_file} once, if three tries are left")
            return False
        failed = sim_pin.FailedPins(self._tools.data_dir / FAILED_PINS_FILE)
        self._say("ok" if state == "ready" else "done", sim_pin.unlock(session, self._link.pin_file, failed))
        return True

    def _wait_for_network(self, session: ModemSession) -> None:
        """Wait until the modem is registered; a refusal ends the wait. Raise NotRegistered with what the modem says."""
        wait_s = 0.0 if self._dry_run else self._wait_s
        until_s = self._tools.clock() + wait_s
        while True:
            radio = session.read_radio()
            if radio.registration in REGISTERED:
                self._say("ok", f"registered: {_described(radio)}")
                return
            if radio.registration is Registration.DENIED or self._tools.clock() >= until_s:
                raise NotRegistered(f"{session.port_name}: {_why_not(radio, wait_s)}")
            self._tools.sleep(_ASK_EVERY_S)

    def _managed(self, managed: MmModem) -> apn.Apn:
        self._step = "network"
        radio = manager.read_radio(managed, self._tools.ask)
        if radio.registration not in REGISTERED:
            raise NotRegistered(f"{managed.path}: {_why_not(radio, 0)}")
        self._say("ok", f"registered: {_described(radio)}")
        code = managed.operator_code or ""
        chosen = apn.choose(self._link.apn, apn.of_subscriber(code), None)
        self._step = "apn"
        self._say("ok", f"APN {chosen.name} ({chosen.source})")
        return chosen

    # --- data -------------------------------------------------------------------------------------------------------

    def _data(self, chosen: Chosen, modem: FoundModem | None, managed: MmModem | None, access: apn.Apn) -> None:
        interface, why = self._link.interface, chosen.why
        if chosen.way is None:
            raise ModemError(why)
        if chosen.way == "dhcp":
            told = f"{why}; it has no address: does a DHCP client (NetworkManager, dhcpcd) look after {interface}?"
            raise ModemError(told)
        if chosen.way == "modem-manager":
            if managed is None:
                raise ModemError(f"{why}; it is not in `mmcli -L`: is ModemManager installed, and no ignore rule left?")
            by_hand = f"nmcli connection add type gsm ifname '*' con-name {self._link.name} apn {access.name}"
            if self._dry_run:
                self._say(
                    "would", f"{why}: mmcli --simple-connect with APN {access.name}; by NetworkManager: {by_hand}"
                )
                return
            told = data_way.connect_by_manager(
                managed,
                access,
                interface,
                metric=self._options.default_route_metric,
                ask=self._tools.ask,
                run=self._tools.run,
            )
            self._say("done", told)
            return
        self._dial(why, modem, access)

    def _dial(self, why: str, modem: FoundModem | None, access: apn.Apn) -> None:
        """Dial with pppd on the modem's PPP port, else on its first AT port: the agent reads on the second."""
        ports = modem.ports_of("ppp", "at1", "at2") if modem is not None else ()
        port = ports[0] if ports else self._link.modem
        if port is None or port == "auto":
            raise ModemError(f"{why}, but no serial port of it is known; `probe-agent modem list` shows what is there")
        interface = self._link.interface
        options = ppp.peer_file(
            port, interface, access, connect=ppp.dial_command(), metric=self._options.default_route_metric
        )
        if self._dry_run:
            self._say("would", f"{why}: dial ATD*99***1# on {port} with pppd, for {interface}")
            return
        if (old := self._calls.pop(self._link.name, None)) is not None:
            old.stop()
        call = ppp.PppLink(
            options, self._tools.data_dir / f"ppp-{self._link.name}.options", interface, program=self._tools.pppd
        )
        self._calls[self._link.name] = call  # before it starts: whatever ends the wait, `close` knows of it
        call.start()
        found = call.wait_until_up(ppp.DIAL_S + _PPP_UP_S, path=look)
        self._name_servers = call.addresses.name_servers
        self._say("done", f"{why}: dialled on {port}; {interface} has {found.source_address}")

    def _verify(self) -> None:
        interface, tools = self._link.interface, self._tools
        self._step = "address"
        self._say("ok", f"{interface} has {require_usable(look(interface))}")
        self._step = "route"
        if not data_way.has_default_route(interface, tools.run):
            metric = self._options.default_route_metric
            raise ModemError(
                f"no default route leaves by {interface}, so tests bound to it go nowhere; for example: "
                f"ip route add default dev {interface} metric {metric}"
            )
        self._say("ok", f"a default route leaves by {interface}")
        self._step = "dns"
        servers = self._name_servers or of_resolv_conf(tools.resolv_conf)
        if not servers:
            self._say("told", "no name server is known for this link; names are looked up by the machine's resolver")
        elif (answering := next((one for one in servers if data_way.dns_answers(interface, one)), None)) is not None:
            self._say("ok", f"{answering} answers over {interface}")
        else:
            raise ModemError(f"none of {', '.join(servers)} answers over {interface}; does traffic flow at all?")

    def _say(self, state: State, told: str) -> None:
        self._tell(Step(name=self._step, state=state, told=told))


def _described(radio: RadioReading) -> str:
    level = f"RSRP {radio.rsrp_dbm:.0f} dBm" if radio.rsrp_dbm is not None else "no RSRP"
    roaming = ", roaming" if radio.registration is Registration.ROAMING else ""
    return f"{radio.operator or 'operator unknown'}, {radio.technology or 'technology unknown'}, {level}{roaming}"


def _why_not(radio: RadioReading, waited_s: float) -> str:
    """Say why there is no registration, and what to do."""
    if radio.registration is Registration.DENIED:
        return "the network refuses the subscription; ask the operator whether the SIM is active"
    heard = radio.rsrp_dbm is not None or radio.rssi_dbm is not None
    after = f" after {waited_s:.0f} s" if waited_s else ""
    if heard:
        return f"it hears a cell and is not registered{after} ({radio.registration}); check the subscription"
    return f"it hears no cell{after}; check antenna, place and band"
