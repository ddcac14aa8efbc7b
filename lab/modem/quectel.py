"""Quectel EC25, after the EC25&EC21 AT Commands Manual V1.3 and recorded dialogues."""

from __future__ import annotations

from typing import ClassVar, Final

from lab.modem.commands import After, Answer, Request
from lab.modem.dialect import at
from lab.modem.faults import FaultKind
from lab.modem.standard import Standard
from lab.modem.state import FULL_RADIO, Refused, Settings
from wire.radio import Technology

_BANDWIDTH_INDEX: Final = {1.4: 0, 3.0: 1, 5.0: 2, 10.0: 3, 15.0: 4, 20.0: 5}
_READ_BINARY: Final = 176  # TS 27.007 section 8.18
_EF_ICCID: Final = 0x2FE2  # TS 102 221 section 13.2
_EF_AD: Final = 0x6FAD  # TS 31.102 section 4.2.18
_LOWEST_RSRP_DBM: Final = -126  # q-RxLevMin of the simulated cells (TS 36.304 section 5.2.3.2)


class QuectelEc25(Standard):
    """A mini PCIe module in a USB adapter; +CMEE is 1 from the factory."""

    name: ClassVar[str] = "quectel-ec25"
    manufacturer: ClassVar[str] = "Quectel"
    model: ClassVar[str] = "EC25"
    revision: ClassVar[str] = "EC25EFAR06A06M4G"
    connect: ClassVar[str] = "CONNECT 150000000"
    factory: ClassVar[Settings] = Settings(cmee=1)

    def boot_lines(self) -> list[tuple[float, str]]:
        """RDY at once, the SIM when it was read."""
        lines = [(0.05, "RDY"), (0.3, "+CFUN: 1")]
        later = 0.6
        for line in self.sim_lines():
            lines.append((later, line))
            later += 0.1
        return lines

    def sim_lines(self) -> list[str]:
        """+QUSIM: 1 is a USIM."""
        if not self.state.sim_present:
            return ["+CPIN: NOT READY"]
        if not self.state.sim_ready:
            return [f"+CPIN: {self.state.sim.lock.value}"]
        return ["+CPIN: READY", "+QUSIM: 1", "+QIND: SMS DONE", "+QIND: PB DONE"]

    def storm(self) -> list[str]:
        """Quectel's own, too."""
        return [*super().storm(), '+QIURC: "recv",0,4', "+QIND: SMS DONE"]

    @at("I")
    def _identity(self, _: Request) -> list[str]:
        return [self.manufacturer, self.model, f"Revision: {self.revision}"]

    @at("+QCCID")
    def _iccid(self, _: Request) -> list[str]:
        self.need_sim()
        return [f"+QCCID: {self.state.sim.iccid}"]

    @at("+QPINC?")
    def _tries(self, _: Request) -> list[str]:
        if not self.state.sim_present:
            raise Refused(10)
        sim = self.state.sim
        return [f'+QPINC: "SC",{sim.pin_tries},{sim.puk_tries}', '+QPINC: "P2",3,10']

    @at("+QPINC=")
    def _tries_of(self, request: Request) -> list[str]:
        return [line for line in self._tries(request) if f'"{request.values[0].upper()}"' in line]

    @at("+QSIMSTAT?")
    def _sim_inserted(self, _: Request) -> list[str]:
        return [f"+QSIMSTAT: 0,{int(self.state.sim_present)}"]

    @at("+CRSM=")
    def _sim_file(self, request: Request) -> list[str]:
        """Read a file of the SIM: its serial number, digits swapped, and how many digits its network's code has."""
        self.need_sim()
        files = {
            _EF_ICCID: _swapped(self.state.sim.iccid),
            _EF_AD: f"000000{len(self.state.cell.mnc):02X}",
        }
        content = files.get(request.number(1)) if request.number(0) == _READ_BINARY else None
        return [f'+CRSM: 144,0,"{content}"' if content else "+CRSM: 106,130"]  # 6A82: file not found

    @at("+CSIM=")
    def _apdu(self, request: Request) -> list[str]:
        """Tell the tries left, which is what empty VERIFY and UNBLOCK ask (TS 102 221 sections 11.1.9 and 11.1.13)."""
        if not self.state.sim_present:
            raise Refused(10)
        sim = self.state.sim
        left = {"0020000100": sim.pin_tries, "002C000100": sim.puk_tries, "0020008100": 3, "002C008100": 10}
        command = request.values[1].upper()
        return [f'+CSIM: 4,"{f"63C{left[command]:X}" if command in left else "6D00"}"']  # 6D00: unknown instruction

    @at("+CSCS=?")
    def _character_sets(self, _: Request) -> list[str]:
        return ['+CSCS: ("GSM","IRA","UCS2")']

    @at("+CGDCONT=?")
    def _context_types(self, _: Request) -> list[str]:
        return [f'+CGDCONT: (1-16),"{kind}",,,(0-2),(0-4),(0-1),(0-1)' for kind in ("IP", "PPP", "IPV6", "IPV4V6")]

    @at("+QENG=")
    def _engineering(self, request: Request) -> list[str]:
        if request.values[0].lower() != "servingcell":
            return []
        seen, cell = self.state.signal, self.state.cell
        if seen is None:
            return ['+QENG: "servingcell","SEARCH"']
        status = ("CONNECT" if self.state.data_up else "NOCONN") if self.state.registered else "LIMSRV"
        level, quality, rssi = round(seen.level_dbm), round(seen.quality_db), round(seen.rssi_dbm)
        if cell.technology is Technology.UMTS:
            return [
                (
                    f'+QENG: "servingcell","{status}","WCDMA",{cell.mcc},{cell.mnc},{cell.tac:X},{cell.cell_id:X},'
                    f"{cell.earfcn},{cell.pci},1,{level},{quality},-,-,-,-,-"
                )
            ]
        width = _BANDWIDTH_INDEX[cell.bandwidth_mhz]
        return [
            (
                f'+QENG: "servingcell","{status}","LTE","{self._duplex()}",{cell.mcc},{cell.mnc},{cell.cell_id:X},'
                f"{cell.pci},{cell.earfcn},{cell.band},{width},{width},{cell.tac:X},{level},{quality},{rssi},"
                f"{round(seen.sinr_db)},{max(0, level - _LOWEST_RSRP_DBM)}"
            )
        ]

    def _duplex(self) -> str:
        return "TDD" if self.state.cell.band_plan.tdd else "FDD"

    @at("+QNWINFO")
    def _network(self, _: Request) -> list[str]:
        cell = self.state.cell
        if self.state.signal is None or not self.state.registered:
            return ["+QNWINFO: No Service"]
        if cell.technology is Technology.UMTS:
            band = {1: "WCDMA 2100", 8: "WCDMA 900"}[cell.band]
            return [f'+QNWINFO: "HSPA+","{cell.plmn}","{band}",{cell.earfcn}']
        return [f'+QNWINFO: "{self._duplex()} LTE","{cell.plmn}","LTE BAND {cell.band}",{cell.earfcn}']

    @at("+QCSQ")
    def _signal(self, _: Request) -> list[str]:
        seen = self.state.signal
        if seen is None:
            return ['+QCSQ: "NOSERVICE"']
        level, quality, rssi = round(seen.level_dbm), round(seen.quality_db), round(seen.rssi_dbm)
        if self.state.cell.technology is Technology.UMTS:
            return [f'+QCSQ: "WCDMA",{rssi},{level},{quality}']
        sinr = max(0, min(250, round((seen.sinr_db + 20) * 5)))  # fifths of a dB above -20 dB
        return [f'+QCSQ: "LTE",{rssi},{level},{sinr},{quality}']

    @at("+QCAINFO")
    def _carriers(self, _: Request) -> list[str]:
        seen, cell = self.state.signal, self.state.cell
        if seen is None or cell.technology is not Technology.LTE:
            return []
        return [
            (
                f'+QCAINFO: "PCC",{cell.earfcn},{cell.resource_blocks},"LTE BAND {cell.band}",1,{cell.pci},'
                f"{round(seen.level_dbm)},{round(seen.quality_db)},{round(seen.rssi_dbm)},{round(seen.sinr_db)}"
            )
        ]

    @at("+QTEMP")
    def _temperature(self, _: Request) -> list[str]:
        """Power management, crystal, power amplifier: the first is the module's."""
        degrees = round(self.state.temperature_c)
        return [f"+QTEMP: {degrees},{degrees - 2},{degrees - 4}"]

    @at("+CGPADDR", "+CGPADDR=")
    def _addresses(self, _: Request) -> list[str]:
        address = "10.152.46.161" if self.state.registered else "0.0.0.0"  # noqa: S104  # "no address" as it is printed
        return [f'+CGPADDR: 1,"{address}"']

    @at("+QCFG=")
    def _configuration(self, request: Request) -> list[str]:
        known = {"usbnet": "0", "nwscanmode": "0", "band": "0x0,0x8000085"}
        key = request.values[0].lower()
        if key not in known:
            raise Refused(None)
        return [f'+QCFG: "{key}",{known[key]}'] if len(request.values) == 1 else []

    @at("+QPOWD", "+QPOWD=")
    def _power_down(self, _: Request) -> Answer:
        self.say("POWERED DOWN")
        return Answer(after=After.POWER_OFF)

    @at("+CFUN=")
    def _set_functionality(self, request: Request) -> Answer:
        """Switching the radio on reads the SIM anew, and says so."""
        was = self.state.functionality
        answer = super()._set_functionality(request)
        if was == 0 and self.state.functionality == FULL_RADIO and FaultKind.STUCK not in self.state.faults:
            self.say(*self.sim_lines())
        return answer


def _swapped(digits: str) -> str:
    """Write digits as a SIM keeps them: filled with F to whole bytes, and the two of each byte swapped."""
    filled = digits + "F" * (len(digits) % 2)
    return "".join(filled[at + 1] + filled[at] for at in range(0, len(filled), 2))
