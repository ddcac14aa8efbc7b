"""Huawei ME909s (the E3372 in stick mode speaks alike), after recorded dialogues and the ME909 command descriptions."""

from __future__ import annotations

import math
from typing import ClassVar

from lab.modem.commands import After, Answer, Request
from lab.modem.dialect import at
from lab.modem.signal import csq_code, ecno_code, rscp_code, rsrp_code, rsrq_code
from lab.modem.standard import Standard
from lab.modem.state import Refused, Settings
from wire.radio import Registration, Technology


class HuaweiMe909(Standard):
    """Tells its signal unasked every few seconds until ^CURC=0; +CMEE is 0 from the factory."""

    name: ClassVar[str] = "huawei-me909"
    manufacturer: ClassVar[str] = "Huawei Technologies Co., Ltd."
    model: ClassVar[str] = "ME909s-120"
    revision: ClassVar[str] = "11.617.15.00.00"
    factory: ClassVar[Settings] = Settings(cmee=0, chatter=True)
    chatter_s: ClassVar[float | None] = 5.0

    def boot_lines(self) -> list[tuple[float, str]]:
        """Tell the state of SIM and service as they come up."""
        return [(0.05, "^SYSSTART"), *((0.4, line) for line in self.sim_lines()), (0.6, "^SRVST: 0")]

    def sim_lines(self) -> list[str]:
        """1: valid card, 255: none, 240: waiting for a code."""
        if not self.state.sim_present:
            return ["^SIMST: 255"]
        return ["^SIMST: 1"] if self.state.sim_ready else ["^SIMST: 240"]

    def chatter(self) -> list[str]:
        """Signal figures, on two scales."""
        seen = self.state.signal
        if seen is None:
            return ["^RSSI: 99"]
        return [f"^RSSI: {csq_code(seen.rssi_dbm)}", self._hcsq()]

    def storm(self) -> list[str]:
        """Huawei's own, too."""
        return [*super().storm(), '^HCSQ: "LTE",0,0,0,0', "^RSSI: 0", "^SRVST: 2"]

    def _hcsq(self) -> str:
        seen = self.state.signal
        if seen is None:
            return '^HCSQ: "NOSERVICE"'
        rssi = max(0, min(96, math.floor(seen.rssi_dbm + 121)))
        if self.state.cell.technology is Technology.UMTS:
            ecio = max(0, min(65, ecno_code(seen.quality_db) + 16))  # its scale begins at -32.5 dB, +CESQ's at -24.5 dB
            return f'^HCSQ: "WCDMA",{rssi},{rscp_code(seen.level_dbm)},{ecio}'
        sinr = max(0, min(251, math.floor((seen.sinr_db + 20.2) * 5)))
        return f'^HCSQ: "LTE",{rssi},{rsrp_code(seen.level_dbm)},{sinr},{rsrq_code(seen.quality_db)}'

    @at("I")
    def _identity(self, request: Request) -> list[str]:
        return [*super()._identity(request)[:-1], "+GCAP: +CGSM,+DS,+ES"]

    @at("^HCSQ?")
    def _signal(self, _: Request) -> list[str]:
        return [self._hcsq()]

    @at("^SYSINFOEX")
    def _system(self, _: Request) -> list[str]:
        seen, state = self.state.signal, self.state
        sim = 1 if state.sim_ready else 255 if not state.sim_present else 240
        if seen is None:
            return [f'^SYSINFOEX: 0,0,0,{sim},,0,"NO SERVICE",0,"NO SERVICE"']
        service, domain = (2, 3) if state.registered else (1, 0)
        roaming = int(state.registration is Registration.ROAMING)
        mode = '6,"LTE",101,"LTE"' if state.cell.technology is Technology.LTE else '3,"WCDMA",46,"HSPA+"'
        return [f"^SYSINFOEX: {service},{domain},{roaming},{sim},,{mode}"]

    @at("^MONSC")
    def _serving_cell(self, _: Request) -> list[str]:
        seen, cell = self.state.signal, self.state.cell
        if seen is None:
            return ["^MONSC: NONE"]
        level, quality, rssi = round(seen.level_dbm), round(seen.quality_db), round(seen.rssi_dbm)
        if cell.technology is Technology.UMTS:
            return [
                (
                    f"^MONSC: WCDMA,{cell.mcc},{cell.mnc},{cell.earfcn},{cell.pci},{cell.cell_id:X},{cell.tac:X},"
                    f"{level},{round(rssi)},{quality},0,0,0,0"
                )
            ]
        return [
            (
                f"^MONSC: LTE,{cell.mcc},{cell.mnc},{cell.earfcn},{cell.cell_id:X},{cell.pci:X},{cell.tac:X},"
                f"{level},{quality},{rssi}"
            )
        ]

    @at("^HFREQINFO?")
    def _frequencies(self, _: Request) -> list[str]:
        """Band, channels, and frequencies in 100 kHz, bandwidths in kHz."""
        cell = self.state.cell
        if self.state.signal is None:
            raise Refused(30)
        mode = 6 if cell.technology is Technology.LTE else 3
        uplink_mhz = cell.downlink_mhz - cell.band_plan.duplex_mhz
        lte_uplink = cell.earfcn + (0 if cell.band_plan.tdd else 18000)  # TS 36.101 table 5.7.3-1
        uplink = lte_uplink if mode == 6 else round(uplink_mhz * 5)  # noqa: PLR2004  # LTE
        width = round(cell.bandwidth_mhz * 1000) if mode == 6 else 5000  # noqa: PLR2004  # LTE
        return [
            (
                f"^HFREQINFO: 0,{mode},{cell.band},{cell.earfcn},{round(cell.downlink_mhz * 10)},{width},"
                f"{uplink},{round(uplink_mhz * 10)},{width}"
            )
        ]

    @at("^ICCID?")
    def _iccid(self, _: Request) -> list[str]:
        self.need_sim()
        return [f"^ICCID: {self.state.sim.iccid}"]

    @at("^CPIN?")
    def _tries(self, _: Request) -> list[str]:
        """Code, tries of it, then PUK, PIN, PUK2, PIN2."""
        if not self.state.sim_present:
            raise Refused(10)
        sim = self.state.sim
        left = {"SIM PIN": str(sim.pin_tries), "SIM PUK": str(sim.puk_tries)}.get(sim.lock.value, "")
        return [f"^CPIN: {sim.lock.value},{left},{sim.puk_tries},{sim.pin_tries},10,3"]

    @at("^CHIPTEMP?")
    def _temperature(self, _: Request) -> list[str]:
        """Tenths of a degree; 65535 is no sensor, the fourth is the SIM's in whole degrees."""
        tenths = round(self.state.temperature_c * 10)
        return [f"^CHIPTEMP: {tenths},{tenths},65535,{round(self.state.temperature_c) - 6},65535"]

    @at("^CURC?")
    def _chatter_on(self, _: Request) -> list[str]:
        return [f"^CURC: {int(self.state.settings.chatter)}"]

    @at("^CURC=")
    def _set_chatter(self, request: Request) -> list[str]:
        self.state.settings.chatter = request.number(0) != 0
        return []

    @at("+CGPADDR", "+CGPADDR=")
    def _addresses(self, _: Request) -> list[str]:
        return [f'+CGPADDR: 1,"{"10.152.46.161" if self.state.registered else "0.0.0.0"}"']  # noqa: S104  # "no address"

    @at("^RESET")
    def _reset(self, _: Request) -> Answer:
        return Answer(after=After.RESTART)
