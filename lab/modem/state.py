"""The state behind the dialogue: SIM, radio, registration, settings. No I/O; time comes from a clock argument."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from lab.modem.faults import RADIO_FAULTS, Fault, FaultBoard, FaultKind
from lab.modem.signal import Signal, Walk, signal
from wire.radio import RadioReading, Registration, Technology

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.modem.cells import Cell

FULL_RADIO: Final = 1
# 3GPP TS 27.007 section 7.2, <stat>.
STAT: Final = {
    Registration.NOT_REGISTERED: 0,
    Registration.HOME: 1,
    Registration.SEARCHING: 2,
    Registration.DENIED: 3,
    Registration.UNKNOWN: 4,
    Registration.ROAMING: 5,
}


class SimLock(StrEnum):
    """What the SIM waits for, spelled as +CPIN does."""

    READY = "READY"
    PIN = "SIM PIN"
    PUK = "SIM PUK"


class Refused(Exception):
    """The command fails; `code` is the CME error of TS 27.007 section 9.2, None a bare ERROR."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Sim:
    """A SIM card: three tries for the PIN, ten for the PUK (TS 31.101 section 9.5.1)."""

    imsi: str
    iccid: str
    pin: str = "1234"
    puk: str = "12345678"
    pin_enabled: bool = False
    lock: SimLock = SimLock.READY
    pin_tries: int = 3
    puk_tries: int = 10

    def enter_pin(self, pin: str) -> None:
        """Try the PIN; raises Refused: 16 it is wrong, 12 the PUK is due, 3 none is asked for."""
        if self.lock is not SimLock.PIN:
            raise Refused(12 if self.lock is SimLock.PUK else 3)
        if pin != self.pin:
            self.pin_tries -= 1
            if self.pin_tries == 0:
                self.lock = SimLock.PUK
            raise Refused(16)
        self.lock, self.pin_tries = SimLock.READY, 3

    def enter_puk(self, puk: str, new_pin: str) -> None:
        """Try the PUK; raises Refused(16) when it is wrong, Refused(13) when the SIM is dead for good."""
        if self.lock is not SimLock.PUK:
            raise Refused(3)
        if self.puk_tries == 0:
            raise Refused(13)
        if puk != self.puk:
            self.puk_tries -= 1
            raise Refused(16)
        self.pin, self.lock, self.pin_tries, self.puk_tries = new_pin, SimLock.READY, 3, 10

    @classmethod
    def of(cls, plmn: str, seed: int) -> Sim:
        """Make up a card of the network `plmn`; no such subscriber exists (MSIN begins with 00000)."""
        chance = random.Random(f"sim{plmn}{seed}")
        msin = "00000" + "".join(str(chance.randrange(10)) for _ in range(10 - len(plmn) + 5))
        body = "8984" + plmn[3:] + "0000000" + "".join(str(chance.randrange(10)) for _ in range(6))
        return cls(imsi=(plmn + msin)[:15], iccid=with_luhn(body[:18]))


def with_luhn(digits: str) -> str:
    """Append the check digit of ISO/IEC 7812-1 annex B."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if index % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled  # noqa: PLR2004  # digits of a two-digit product, added
    return digits + str(-total % 10)


@dataclass
class Settings:
    """What AT commands set; a restart brings the defaults back, but `contexts` live in flash."""

    cmee: int = 1
    echo: bool = True
    words: bool = True  # ATV1
    charset: str = "GSM"
    reports: dict[str, int] = field(default_factory=lambda: {"+CREG": 0, "+CGREG": 0, "+CEREG": 0})
    cops_format: int = 0
    cops_mode: int = 0
    asked_plmn: str | None = None
    chatter: bool = True


class ModemState:
    """Everything a modem knows. `changed()` must be called after the world around it changed."""

    def __init__(
        self, cell: Cell, sim: Sim, *, seed: int, clock: Callable[[], float], register_s: float, factory: Settings
    ) -> None:
        self.cell = cell
        self.sim = sim
        self.faults = FaultBoard()
        self.contexts: dict[int, tuple[str, str]] = {1: ("IPV4V6", ""), 2: ("IPV4V6", "ims")}
        self.functionality = FULL_RADIO
        self.attached = True
        self.data_up = False
        self.imei = with_luhn("00101500" + f"{random.Random(f'imei{seed}').randrange(10**6):06d}")
        self._factory = factory
        self.settings = self.default_settings()
        self._clock = clock
        self._seed = seed
        self._register_s = register_s
        self._registers_at_s = clock()
        self._walk = Walk(seed, cell.spread_db)
        self._load = Walk(seed + 1, 0.35)
        self._warmth = Walk(seed + 2, 3.0)

    def default_settings(self) -> Settings:
        """Return the factory's settings."""
        return Settings(cmee=self._factory.cmee, chatter=self._factory.chatter)

    # --- what the world does

    def add(self, fault: Fault) -> None:
        """Let `fault` happen."""
        self.faults.add(fault)
        if fault.kind is FaultKind.SIM_PIN:
            self.sim.pin_enabled, self.sim.lock = True, SimLock.PIN
        if fault.kind in RADIO_FAULTS:
            self.data_up = False

    def clear(self, kind: FaultKind | None) -> None:
        """End the fault of this kind, or all; what it hid is found again after the usual time to register."""
        if kind in {None, FaultKind.SIM_PIN} and FaultKind.SIM_PIN in self.faults:
            self.sim.pin_enabled, self.sim.lock, self.sim.pin_tries, self.sim.puk_tries = False, SimLock.READY, 3, 10
        was_registered = self.registered
        self.faults.clear(kind)
        if not was_registered and (kind is None or kind in RADIO_FAULTS):
            self.search()

    def move_to(self, cell: Cell) -> None:
        """Hand over to another cell: at once within a network, after a search otherwise."""
        same_network = cell.plmn == self.cell.plmn
        self.cell = cell
        self._walk = Walk(self._seed, cell.spread_db)
        if not same_network:
            self.search()

    def restart(self, *, power_cycle: bool) -> None:
        """Boot: settings back to default, PIN asked again; only a power cycle frees a hung baseband."""
        self.settings = self.default_settings()
        self.functionality, self.attached, self.data_up = FULL_RADIO, True, False
        if power_cycle:
            self.faults.clear(FaultKind.STUCK)
        if self.sim.pin_enabled and self.sim.lock is SimLock.READY:
            self.sim.lock = SimLock.PIN
        self.search()

    def search(self) -> None:
        """Begin a search for the network."""
        self._registers_at_s = self._clock() + self._register_s

    @property
    def registers_at_s(self) -> float:
        """When the search under way ends, on the clock."""
        return self._registers_at_s

    # --- what the modem sees

    @property
    def sim_present(self) -> bool:
        """A SIM is in its tray."""
        return FaultKind.SIM_PULLED not in self.faults

    @property
    def sim_ready(self) -> bool:
        """A SIM is present and unlocked."""
        return self.sim_present and self.sim.lock is SimLock.READY

    @property
    def hears_a_cell(self) -> bool:
        """The receiver is on and a cell is on the air."""
        deaf = FaultKind.STUCK in self.faults or FaultKind.NO_SERVICE in self.faults
        return self.functionality == FULL_RADIO and not deaf

    @property
    def registration(self) -> Registration:
        """The state of registration just now."""
        if self.functionality != FULL_RADIO or FaultKind.STUCK in self.faults or not self.sim_ready:
            return Registration.NOT_REGISTERED
        if self.settings.cops_mode == 2 or not self.attached:  # noqa: PLR2004  # +COPS=2: deregistered on purpose
            return Registration.NOT_REGISTERED
        if FaultKind.DENIED in self.faults:
            return Registration.DENIED
        elsewhere = self.settings.asked_plmn not in {None, self.cell.plmn}
        if not self.hears_a_cell or elsewhere or self._clock() < self._registers_at_s:
            return Registration.SEARCHING
        return Registration.HOME if self.sim.imsi.startswith(self.cell.plmn) else Registration.ROAMING

    @property
    def registered(self) -> bool:
        """Service is to be had."""
        return self.registration in {Registration.HOME, Registration.ROAMING}

    @property
    def stat(self) -> int:
        """The <stat> of +CREG."""
        return STAT[self.registration]

    @property
    def signal(self) -> Signal | None:
        """The signal just now; None while nothing is heard."""
        if not self.hears_a_cell:
            return None
        now_s = self._clock()
        return signal(self.cell, self._walk.at(now_s), 0.5 + self._load.at(now_s))

    @property
    def temperature_c(self) -> float:
        """Temperature of the module."""
        return 41.0 + self._warmth.at(self._clock())

    def radio(self) -> RadioReading:
        """Return the truth, as a perfect reader of this modem would report it."""
        seen, cell = self.signal, self.cell
        lte = cell.technology is Technology.LTE
        if seen is None:
            return RadioReading(registration=self.registration, temperature_c=self.temperature_c)
        return RadioReading(
            registration=self.registration,
            technology=cell.technology,
            operator=cell.long_name if self.registered else None,
            mcc=cell.mcc,
            mnc=cell.mnc,
            tac=cell.tac if lte else None,
            lac=None if lte else cell.tac,
            cell_id=cell.cell_id,
            enodeb_id=cell.cell_id >> 8 if lte else None,
            pci=cell.pci if lte else None,
            earfcn=cell.earfcn if lte else None,
            band=cell.band,
            bandwidth_mhz=cell.bandwidth_mhz if lte else None,
            rsrp_dbm=seen.level_dbm if lte else None,
            rsrq_db=seen.quality_db if lte else None,
            sinr_db=seen.sinr_db if lte else None,
            rssi_dbm=seen.rssi_dbm,
            temperature_c=self.temperature_c,
        )
