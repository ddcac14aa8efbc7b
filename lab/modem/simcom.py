"""SIMCom SIM7600, after the SIM7500_SIM7600 Series AT Command Manual V2.00 and recorded dialogues."""

from __future__ import annotations

from typing import ClassVar, Final

from lab.modem.commands import After, Answer, Request
from lab.modem.dialect import at
from lab.modem.faults import FaultKind
from lab.modem.standard import Standard
from lab.modem.state import Refused, Settings
from wire.radio import Technology

_BANDWIDTH_INDEX: Final = {1.4: 0, 3.0: 1, 5.0: 2, 10.0: 3, 15.0: 4, 20.0: 5}


class SimcomSim7600(Standard):
    """The module of many HATs; +CMEE is 2 (text) from the factory."""

    name: ClassVar[str] = "simcom-sim7600"
    manufacturer: ClassVar[str] = "SIMCOM INCORPORATED"
    model: ClassVar[str] = "SIMCOM_SIM7600G-H"
    revision: ClassVar[str] = "LE20B04SIM7600G22"
    connect: ClassVar[str] = "CONNECT 115200"
    factory: ClassVar[Settings] = Settings(cmee=2)
    quoted_location: ClassVar[bool] = False

    def boot_lines(self) -> list[tuple[float, str]]:
        """*ATREADY and the SIM; SMS and phone book follow."""
        lines = [(0.05, "*ATREADY: 1")]
        lines += [(0.4, line) for line in self.sim_lines()]
        return [*lines, (0.8, "SMS DONE"), (0.9, "PB DONE")] if self.state.sim_ready else lines

    def sim_lines(self) -> list[str]:
        """Unlike other families it has a word of its own for an empty tray."""
        if not self.state.sim_present:
            return ["+SIMCARD: NOT AVAILABLE"]
        return [f"+CPIN: {self.state.sim.lock.value}"]

    @at("+CICCID")
    def _iccid(self, _: Request) -> list[str]:
        self.need_sim()
        return [f"+ICCID: {self.state.sim.iccid}"]

    @at("+SPIC")
    def _tries(self, _: Request) -> list[str]:
        """PIN, PUK, PIN2, PUK2: not the order of other families."""
        if not self.state.sim_present:
            raise Refused(10)
        return [f"+SPIC: {self.state.sim.pin_tries},{self.state.sim.puk_tries},0,10"]

    @at("+CPSI?")
    def _system(self, _: Request) -> list[str]:
        seen, cell = self.state.signal, self.state.cell
        mode = {0: "Low Power Mode", 4: "Offline"}.get(self.state.functionality, "Online")
        if seen is None:
            return [f"+CPSI: NO SERVICE,{mode}"]
        if cell.technology is Technology.UMTS:
            band = {1: "WCDMA IMT 2000", 8: "WCDMA 900"}[cell.band]
            return [
                (
                    f"+CPSI: WCDMA,{mode},{cell.mcc}-{cell.mnc},0x{cell.tac:X},{cell.cell_id},{band},{cell.pci},"
                    f"{cell.earfcn},0,{-seen.quality_db:.1f},{round(-seen.level_dbm)},33,52,500"
                )
            ]
        width = _BANDWIDTH_INDEX[cell.bandwidth_mhz]
        tenths = ",".join(str(round(value * 10)) for value in (seen.quality_db, seen.level_dbm, seen.rssi_dbm))
        return [
            (
                f"+CPSI: LTE,{mode},{cell.mcc}-{cell.mnc},0x{cell.tac:X},{cell.cell_id},{cell.pci},"
                f"EUTRAN-BAND{cell.band},{cell.earfcn},{width},{width},{tenths},{round(seen.sinr_db)}"
            )
        ]

    @at("+CPMUTEMP")
    def _temperature(self, _: Request) -> list[str]:
        return [f"+CPMUTEMP: {round(self.state.temperature_c)}"]

    @at("+CNSMOD?")
    def _system_mode(self, _: Request) -> list[str]:
        """8 is LTE, 4 WCDMA, 0 no service."""
        lte = self.state.cell.technology is Technology.LTE
        return [f"+CNSMOD: 0,{(8 if lte else 4) if self.state.registered else 0}"]

    @at("+CNMP?")
    def _preferred_mode(self, _: Request) -> list[str]:
        return ["+CNMP: 2"]

    @at("+CGPADDR", "+CGPADDR=")
    def _addresses(self, _: Request) -> list[str]:
        return [f"+CGPADDR: 1,{'10.152.46.161' if self.state.registered else '0.0.0.0'}"]  # noqa: S104  # "no address"

    @at("+CRESET")
    def _reset(self, _: Request) -> Answer:
        return Answer(after=After.RESTART)

    @at("+CPOF")
    def _power_off(self, _: Request) -> Answer:
        return Answer(after=After.POWER_OFF)

    def storm(self) -> list[str]:
        """SIMCom's own, too."""
        stuck = FaultKind.STUCK in self.state.faults
        return [*super().storm(), "+CNSMOD: 0" if stuck else "+CNSMOD: 8", "+CGEV: ME PDN ACT 1"]
