"""A session with one modem: who it is, what its SIM says, and a look at its radio, in the dialect of its family.

Nothing is ever typed that changes the SIM, the registration or what the modem keeps in its flash.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agent.modem.conversation import Conversation
from agent.modem.errors import CommandRefused, NotRegistered, SimAbsent, SimLocked
from agent.modem.identity import Identity, iccid_of, imei_of
from agent.modem.merge import REGISTERED, to_radio
from agent.modem.serial_port import Port, open_port
from agent.modem.vendors import family_of, read_answer
from wire.radio import RadioReading

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.modem.reading import ModemReading
    from agent.modem.vendors.profile import Poll

log = logging.getLogger(__name__)


class ModemSession(Conversation):
    """A context manager: `with ModemSession("/dev/ttyUSB2") as modem: modem.read_radio()`.

    Raises only ModemError and its kinds; each carries the dialogue so far in `story`. `vendor` (a family key) overrules
    what the modem calls itself; the rest is Conversation's.
    """

    def __init__(
        self,
        port: str,
        *,
        vendor: str | None = None,
        deadline_s: float = 60.0,
        opener: Callable[[str], Port] = open_port,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(port, deadline_s=deadline_s, opener=opener, clock=clock)
        self.readings: tuple[ModemReading, ...] = ()
        self._vendor = vendor
        self._identity: Identity | None = None

    def read(self, command: str) -> ModemReading:
        """Ask a reading command and parse its answer in the modem's dialect."""
        identity = self._known()
        return read_answer(identity.vendor, identity.model, self.ask(command))

    def identify(self) -> Identity:
        """Ask who the modem and its SIM are, once a session. What the modem does not tell stays None."""
        known = self._known()
        if known.imei is None and known.iccid is None:
            family = family_of(known.vendor)
            imei = imei_of(self.ask("AT+CGSN").lines)
            iccid = next((found for command in family.iccid if (found := iccid_of(self.ask(command).lines))), None)
            self._identity = Identity(
                vendor=known.vendor,
                manufacturer=known.manufacturer,
                model=known.model,
                revision=read_answer(known.vendor, known.model, self.ask("AT+CGMR")).revision or known.revision,
                imei=imei,
                iccid=iccid,
            )
        return self._identity or known

    def _known(self) -> Identity:
        """Maker and model, which decide on the dialect."""
        if self._identity is None:
            maker = read_answer("generic", None, self.ask("AT+CGMI")).manufacturer
            model = read_answer("generic", None, self.ask("AT+CGMM")).model
            revision = None
            if maker is None or model is None:
                told = read_answer("generic", None, self.ask("ATI"))
                maker, model, revision = maker or told.manufacturer, model or told.model, told.revision
            family = family_of(self._vendor, maker, model)
            self._identity = Identity(vendor=family.key, manufacturer=maker, model=model, revision=revision)
            log.debug("%s: %s %s, spoken to as %s", self.port_name, maker, model, family.key)
            for command in family.setup:
                self.ask(command)
        return self._identity

    def sim_state(self) -> str:
        """Ask for the SIM: ready, pin, puk, absent, ... (see ModemReading); a busy one is asked thrice."""
        state = None
        for _ in range(3):
            state = self.read("AT+CPIN?").sim_state
            if state not in {None, "busy"}:
                break
            self._drain()
        return state or "unknown"

    def read_radio(self) -> RadioReading:
        """Look at the radio once, by the vendor's profile. Not being registered is a reading; see require_registration.

        Raises SimAbsent, SimLocked where that is why there is no registration; CommandRefused where the modem tells
        nothing of its radio; and what `ask` raises.
        """
        self._known()
        readings: list[ModemReading] = []
        for poll in family_of(self._known().vendor).profile.polls:
            if not _needless(poll, readings):
                for command in poll.first:
                    self.ask(command)
                readings.append(self.read(poll.command))
        self.readings = tuple(readings)
        radio = to_radio(readings)
        if radio.registration not in REGISTERED:
            self._check_sim()
        if radio == RadioReading():
            raise CommandRefused(
                f"{self.port_name}: the modem answers, but to none of {len(readings)} questions about its radio; "
                "`probe-agent modem parse` can show why"
            )
        return radio

    def _check_sim(self) -> None:
        state = self.sim_state()
        if state == "absent":
            raise SimAbsent(
                f"{self.port_name}: the modem finds no SIM; put one in, contacts clean, the right way round"
            )
        if state in {"pin", "puk"} or state.startswith("ph_"):
            raise SimLocked(
                f"{self.port_name}: the SIM waits for a {state}; switch its PIN off in a phone, none is typed here"
            )


def require_registration(radio: RadioReading, port: str) -> None:
    """Raise NotRegistered, with what the network said, unless the modem is registered at home or roaming."""
    if radio.registration not in REGISTERED:
        said = "unknown" if radio.registration is None else radio.registration.value
        raise NotRegistered(
            f"{port}: no network registration (state: {said}); check coverage, antenna and subscription"
        )


def _needless(poll: Poll, readings: list[ModemReading]) -> bool:
    if not poll.unless:
        return False
    radio = to_radio(readings)
    return all(
        radio.registration in REGISTERED if name == "registered" else getattr(radio, name) is not None
        for name in poll.unless
    )
